"""Sets up logging; the only place that does."""

import logging
import sys


def set_up(*, verbose: bool) -> None:
    """Write plain lines to standard error; `verbose` adds what happened inside, and tracebacks."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain(verbose=verbose))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    for chatty in ("PIL", "exifread", "watchdog", "peewee", "asyncio", "httpcore2", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _Plain(logging.Formatter):
    def __init__(self, *, verbose: bool) -> None:
        fields = "%(asctime)s %(levelname)-7s %(name)s: %(message)s" if verbose else "%(asctime)s %(message)s"
        super().__init__(fields, datefmt="%Y-%m-%d %H:%M:%S")
