"""Knows what a file is by its first bytes, never by its name or by what a client calls it.

By their signature alone an upload is judged in the main program: nothing is followed to where a file says that more
is. Which TIFF is a RAW file its directories tell, and they are read where all is decoded. Of a file that is no image
it guesses what else it may be, so that the reason given is of use to its owner.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from daemon.decoding import tiff

HEAD_BYTES = 4096
"""How much of a file's beginning `sniff` needs."""


@dataclass(frozen=True)
class Format:
    """A kind of image. `suffixes` are those that a file may keep; one with another gets the first."""

    name: str
    mime: str
    suffixes: tuple[str, ...]
    raw: bool = False


JPEG = Format("JPEG", "image/jpeg", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".insp"))
PNG = Format("PNG", "image/png", (".png", ".apng"))
WEBP = Format("WebP", "image/webp", (".webp",))
TIFF = Format("TIFF", "image/tiff", (".tif", ".tiff"))
GIF = Format("GIF", "image/gif", (".gif",))
BMP = Format("BMP", "image/bmp", (".bmp", ".dib"))
AVIF = Format("AVIF", "image/avif", (".avif", ".avifs"))
HEIC = Format("HEIC", "image/heic", (".heic", ".heif", ".hif", ".heics"))
HEIF = Format("HEIF", "image/heif", (".heif", ".heic", ".hif", ".heifs"))
JP2 = Format("JPEG 2000", "image/jp2", (".jp2", ".jpx", ".jpf", ".j2k"))
J2K = Format("JPEG 2000", "image/j2c", (".j2k", ".j2c", ".jpc", ".jp2"))
JXL = Format("JPEG XL", "image/jxl", (".jxl",))
DNG = Format("DNG", "image/x-adobe-dng", (".dng", ".gpr"), raw=True)
CR2 = Format("CR2", "image/x-canon-cr2", (".cr2",), raw=True)
CR3 = Format("CR3", "image/x-canon-cr3", (".cr3",), raw=True)
NEF = Format("NEF", "image/x-nikon-nef", (".nef", ".nrw"), raw=True)
ARW = Format("ARW", "image/x-sony-arw", (".arw", ".sr2"), raw=True)
RAF = Format("RAF", "image/x-fuji-raf", (".raf",), raw=True)
ORF = Format("ORF", "image/x-olympus-orf", (".orf", ".ori"), raw=True)
RW2 = Format("RW2", "image/x-panasonic-rw2", (".rw2", ".rwl", ".raw"), raw=True)
CRW = Format("CRW", "image/x-canon-crw", (".crw",), raw=True)
MRW = Format("MRW", "image/x-minolta-mrw", (".mrw",), raw=True)
X3F = Format("X3F", "image/x-sigma-x3f", (".x3f",), raw=True)
# The RAW files of other makers share TIFF's signature: they must not be filed as .tif.
_OTHER_RAWS = (".raw", ".pef", ".srw", ".3fr", ".fff", ".erf", ".kdc", ".dcr", ".mef", ".mos", ".iiq")
RAW = Format("RAW", "image/x-raw", _OTHER_RAWS, raw=True)
ANY_TIFF = Format(
    "TIFF", "image/tiff", tuple(s for kind in (TIFF, DNG, CR2, NEF, ARW, ORF, RW2, RAW) for s in kind.suffixes)
)
"""What shares TIFF's signature: a picture, or any of these RAW files."""

_SIGNATURES = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"\0\0\0\x0cjP  \r\n\x87\n", JP2),
    (b"\xff\x4f\xff\x51", J2K),
    (b"\0\0\0\x0cJXL \r\n\x87\n", JXL),
    (b"\xff\x0a", JXL),
    (b"FUJIFILMCCD-RAW", RAF),
    (b"FOVb", X3F),
    (b"\0MRM", MRW),
    (b"II\x1a\0\0\0HEAPCCDR", CRW),
    (b"IIRO", ORF),
    (b"IIRS", ORF),
    (b"MMOR", ORF),
    (b"IIU\0", RW2),
)
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEVC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}  # the sizes of every version of its second header
_COLOUR_FILTER_ARRAY, _LINEAR_RAW, _REDUCED = 32803, 34892, 1
_MAKERS = {"NIKON": NEF, "SONY": ARW}


def sniff(head: bytes) -> Format | None:
    """Return what a file with these first bytes is, or None for all that Darkroom can't decode.

    Of most RAW files it is `ANY_TIFF`.
    """
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head.startswith(_TIFF_SIGNATURES):
        return CR2 if head[8:10] == b"CR" else ANY_TIFF
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WEBP
    if head.startswith(b"BM") and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS:
        return BMP
    return _media(brands(head))


def identify(file: BinaryIO) -> Format | None:
    """Return what an open file is; unlike `sniff` it looks into TIFF's directories."""
    file.seek(0)
    kind = sniff(file.read(HEAD_BYTES))
    return _tiff(file) if kind is ANY_TIFF else kind


def is_beginning(head: bytes) -> bool:
    """Return whether a file of only these few bytes is how an image may begin, with the rest still to come."""
    known = (*(signature for signature, _ in _SIGNATURES), *_TIFF_SIGNATURES, b"RIFF", b"BM")
    if any(signature.startswith(head) for signature in known):
        return True
    media = head[:3] == b"\0\0\0" and b"ftyp".startswith(head[4:8])
    return len(head) < 18 and (media or head.startswith((b"RIFF", b"BM")))


def brands(head: bytes) -> list[bytes]:
    """Return the brands of an ISO media file (ISO/IEC 14496-12 `ftyp`), the major one first."""
    if head[4:8] != b"ftyp" or len(head) < 12:
        return []
    end = min(struct.unpack_from(">I", head)[0], len(head), 1024)
    return [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]


def _media(found: list[bytes]) -> Format | None:
    """Return which of HEIC, HEIF, AVIF and CR3 it is; None for videos, which share their box format."""
    if not found:
        return None
    major = found[0]
    if major == b"crx ":
        return CR3
    if major in (b"avif", b"avis"):
        return AVIF
    if major in _HEVC_BRANDS:
        return HEIC
    if major in (b"mif1", b"msf1", b"miaf", b"mif2", b"mif3"):
        if _HEVC_BRANDS & set(found):
            return HEIC
        return AVIF if b"avif" in found or b"avis" in found else HEIF
    return None


def _tiff(file: BinaryIO) -> Format:
    """Return which RAW format it is, or TIFF: a picture's first directory is whole, a RAW file's a small preview."""
    first, *others = list(tiff.directories(file)) or [tiff.Directory()]
    if tiff.DNG_VERSION in first.numbers:
        return DNG
    sensor = any(ifd.first(tiff.PHOTOMETRIC) in (_COLOUR_FILTER_ARRAY, _LINEAR_RAW) for ifd in (first, *others))
    make = first.texts.get(tiff.MAKE, "")
    preview = first.first(tiff.SUBFILE_TYPE) == _REDUCED and tiff.SUB_IFDS in first.numbers
    if sensor or (make and preview):
        return _MAKERS.get(make.upper().split(" ")[0], RAW)
    return TIFF


_KINDS = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"8BPS", "a Photoshop document"),
    (b"8BPB", "a Photoshop document"),
    (b"gimp xcf", "a GIMP project"),
    (b"\xff\xd8", "a damaged JPEG"),
    (b"\0\0\1\0", "a Windows icon"),
    (b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)"),
    (b"\0\0\1\xba", "a video (MPEG)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"ID3", "an audio file (MP3)"),
    (b"\xff\xfb", "an audio file (MP3)"),
    (b"fLaC", "an audio file (FLAC)"),
    (b"OggS", "an audio or video file (Ogg)"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program for Windows"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (b"SQLite format 3", "a database"),
    (b"\0\5\x16\7", "a companion file that macOS writes beside the real one"),
)
_MARKUP = (
    (b"<svg", "an SVG drawing"),
    (b"<x:xmpmeta", "an XMP sidecar"),
    (b"<html", "a web page"),
    (b"<!doctype html", "a web page"),
)
_TEXT_CONTROLS = {7, 8, 9, 10, 12, 13, 27}


def describe(head: bytes) -> str:
    """Return a guess in words, such as "a PDF document", for the first bytes of a file that is no image."""
    for signature, kind in _KINDS:
        if head.startswith(signature):
            return kind
    if b"PNG" in head[:8]:  # its signature shows what a transfer as text has done to it
        return "a damaged PNG"
    found = brands(head)
    if found:
        return "a video (QuickTime)" if found[0] == b"qt  " else "a video (MP4)"
    if head.startswith(b"RIFF"):
        return {b"AVI ": "a video (AVI)", b"WAVE": "an audio file (WAV)"}.get(head[8:12], "a RIFF file")
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "a video (QuickTime)"
    return _text(head) or "something unknown"


def _text(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16 says so at the start
        return "a text file"
    if any(byte < 32 and byte not in _TEXT_CONTROLS for byte in head):
        return None
    start = head[:1024].lower()
    return next((kind for mark, kind in _MARKUP if mark in start), "a text file")
