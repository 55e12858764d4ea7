"""Guesses what a file that is no image may be, so that the reason given is of use to its owner."""

from daemon.develop.formats import brands

_KINDS = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\xff\x0a", "a JPEG XL image, a format not supported yet"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image, a format not supported yet"),
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
    (b"FOVb", "a Sigma RAW file (X3F), a format not supported yet"),
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
