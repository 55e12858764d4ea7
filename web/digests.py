"""Content-Digest (RFC 9530): what a client says that its bytes hash to, and what an answer's bytes do."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Protocol

from web.context import ApiError

FIELD = "Content-Digest"
# What the RFC calls active; by the others nobody could rely on a check.
_ALGORITHMS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
# RFC 9651, 3.2: a dictionary. A value's parameters say nothing here.
_MEMBER = re.compile(r'\s*([a-z*][a-z0-9_.*-]*)(?:=(:[A-Za-z0-9+/=]*:|[^,;:"]*))?(?:;\s*[a-z*][^,"]*)?\s*')


class Hash(Protocol):
    """A hash that grows with the bytes."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""

    def digest(self) -> bytes:
        """Return the hash of all bytes so far."""


class ContentDigest:
    """The digests that some bytes must have; none where none is given, or by algorithms alone that aren't known."""

    def __init__(self, fields: Iterable[str]) -> None:
        """Read the lines of the field. Raises ApiError 400 for what is malformed."""
        self._expected: dict[str, bytes] = {}
        text = ",".join(fields)
        for member in text.split(",") if text.strip() else []:
            read = _MEMBER.fullmatch(member)
            if read is None:
                raise _malformed()
            if read[1] in _ALGORITHMS:
                self._expected[read[1]] = _decoded(read[1], read[2] or "")

    def __bool__(self) -> bool:
        return bool(self._expected)

    def hashes(self) -> dict[str, Hash]:
        """Return an empty hash for each digest, to be updated with the bytes."""
        return {name: _ALGORITHMS[name]() for name in self._expected}

    def check(self, hashes: Mapping[str, Hash], what: str) -> None:
        """Raise ApiError 400 where the hashes of `what` are others."""
        for name, expected in self._expected.items():
            if hashes[name].digest() != expected:
                message = f"{what} has arrived with other bytes than its {name} says, and was not taken: send it again"
                raise ApiError(400, message, "digest_mismatch")


def digest_of(content: bytes) -> str:
    """Return the field for the content of an answer."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def _decoded(name: str, value: str) -> bytes:
    try:
        digest = base64.b64decode(value.strip(":"), validate=True)
    except binascii.Error:
        raise _malformed() from None
    if not value.startswith(":") or len(digest) != _ALGORITHMS[name]().digest_size:
        raise _malformed()
    return digest


def _malformed() -> ApiError:
    return ApiError(400, f"{FIELD} is malformed: it reads sha-256=:BASE64: (RFC 9530)", "bad_digest")
