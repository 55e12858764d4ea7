"""The sessions of browsers that have signed in: kept over restarts, and of no use to who reads the database.

Of a session its id's hash is stored. It is good for the address that it was begun from, for a week, until it is ended,
and for as long as the token stays the same.
"""

import hashlib
import secrets
from functools import cached_property

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import Session

SECONDS = 7 * 24 * 3600
# Each takes the token to begin: more than all browsers of a family, and no more rows than that.
_MOST = 1000
_ID_BYTES = 32
# What token_urlsafe makes of them.
_ID_LENGTH = 43


class Sessions:
    """The sessions under one token; any thread may call it. `address` is what of a client's address stays the same."""

    def __init__(self, catalogue: Catalogue, token: str) -> None:
        self._catalogue = catalogue
        self._token = token

    @cached_property
    def _token_digest(self) -> str:
        # Slow on purpose (50 ms): a token that its owner made up must not be guessed from the database. The salt has
        # nothing to keep apart: there is one token.
        raw = hashlib.scrypt(self._token.encode(), salt=b"darkroom session", n=1 << 14, r=8, p=1, dklen=32)
        return raw.hex()

    def begin(self, address: str, now: float) -> str:
        """Return the id of a new session, which nobody can guess. Raises EnvironmentFault."""
        session_id = secrets.token_urlsafe(_ID_BYTES)
        with self._catalogue.writing():
            self._sweep(now)
            kept = Session.select(Session.hash).order_by(Session.created_at.desc()).limit(_MOST - 1)
            Session.delete().where(Session.hash.not_in(kept)).execute()
            Session.insert(
                hash=_hash(session_id),
                token=self._token_digest,
                address=address,
                created_at=now,
                expires_at=now + SECONDS,
            ).execute()
        return session_id

    def is_open(self, session_id: str, address: str, now: float) -> bool:
        """Return whether there is such a session, from this address. Raises EnvironmentFault."""
        if len(session_id) != _ID_LENGTH:
            return False
        found = Session.select().where(
            (Session.hash == _hash(session_id))
            & (Session.token == self._token_digest)
            & (Session.address == address)
            & (Session.expires_at > now)
        )
        with self._catalogue.reading():
            return bool(found.exists())

    def end(self, session_id: str) -> None:
        """End a session, if there is one. Raises EnvironmentFault."""
        with self._catalogue.writing():
            Session.delete().where(Session.hash == _hash(session_id)).execute()

    def sweep(self, now: float) -> None:
        """Forget what has expired, and what was begun with another token, even should that come back.

        Raises EnvironmentFault.
        """
        with self._catalogue.writing():
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        Session.delete().where((Session.expires_at <= now) | (Session.token != self._token_digest)).execute()


def _hash(session_id: str) -> str:
    return hashlib.sha256(session_id.encode("utf-8", "replace")).hexdigest()
