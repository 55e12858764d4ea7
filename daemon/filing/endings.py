"""Which companions end early, told from their structure: no decoder reads them, so nothing else would tell.

An upload that breaks off leaves a half. A photo's is found by the decoders; a video's by its boxes (ISO/IEC 14496-12,
4.2, and Apple's QuickTime File Format, "Atoms"), a voice note's by the size in its RIFF header, and of XML and JSON the
last character is known. Of other kinds nothing is said.
"""

import os
import re
import struct

from daemon.files.atomic import blaming
from daemon.files.names import display, split

_VIDEO = re.compile(r"\.(?:mov|mp4|mp|mv|lrv)(?:~\d+)?", re.IGNORECASE)
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"uuid"})
# A camera writes a dozen, and a stream a few for each second.
_MOST_BOXES = 10_000
# With what a text begins, and how it ends: XML with a closing tag, an empty one, a comment or an instruction.
_XML = ("<", re.compile(r"(?:</[^<>]*|[/?-])>$"))
_TEXTS = {".xmp": _XML, ".aae": _XML, ".json": ("{[", re.compile(r"[}\]]$"))}
_TAIL_BYTES = 4096


def missing(fd: int, name: str, size: int) -> str | None:
    """Return what tells that a file ends early, for people; None where nothing does. Raises EnvironmentFault."""
    suffix = split(name)[1].lower()
    with blaming(display(name)):
        if _VIDEO.fullmatch(suffix):
            return _video(fd, size)
        if suffix == ".wav":
            return _riff(fd, size)
        if suffix in _TEXTS:
            return _text(fd, size, *_TEXTS[suffix])
    return None


def _text(fd: int, size: int, first: str, last: re.Pattern[str]) -> str | None:
    # Latin-1 takes any bytes, and in UTF-16 a NUL is beside each character.
    begin = os.pread(fd, 16, 0).decode("latin-1").lstrip("\xef\xbb\xbf\xfe\xff\0 \t\r\n")[:1]
    end = os.pread(fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode("latin-1").replace("\0", "").rstrip()
    # Where its last part is all blanks, the end may be before that.
    return "its text ends early" if begin and begin in first and end and not last.search(end) else None


def _video(fd: int, size: int) -> str | None:
    at, kinds = 0, set()
    for _ in range(_MOST_BOXES):
        head = os.pread(fd, 16, at)
        length, kind = struct.unpack(">I4s", head[:8]) if len(head) >= 8 else (0, b"")
        if at == 0 and kind not in _FIRST_BOXES:
            return None
        if not kind:
            break
        kinds.add(kind)
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        elif length == 0:  # to the end of the file
            at = size
            break
        if length < 8:  # what pads some files, and is no box
            break
        at += length
        if at >= size:
            break
    if at > size:
        return f"the video ends early, at {size} of at least {at} bytes"
    return None if b"moov" in kinds else "the video ends early, before its index"


def _riff(fd: int, size: int) -> str | None:
    head = os.pread(fd, 8, 0)
    if head[:4] != b"RIFF" or len(head) < 8:
        return None
    (length,) = struct.unpack("<I", head[4:])
    return f"the sound ends early, at {size} of {length + 8} bytes" if length + 8 > size else None
