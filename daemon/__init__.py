"""Darkroom files photos that arrive in an inbox.

    inbox/ → watcher → queue → consumer → filing → library/ | duplicates/ | failed/

The watcher (or an upload) makes a row for each file, the consumer has it decoded in a child process (what it
really is, SHA-256, EXIF, thumbnails) and files it; `app` joins the parts, starts and stops them.
"""


def version() -> str:
    """Return which darkroom this is; "0" where it is run from its folder and was never installed."""
    from importlib import metadata  # 10 ms, which the decoders, too, would wait for

    try:
        return metadata.version("darkroom")
    except metadata.PackageNotFoundError:
        return "0"
