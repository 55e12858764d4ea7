"""Sets up logging; the only place that does."""

import logging
import os
import sys
from collections.abc import Mapping


def set_up(*, verbose: bool, quiet: bool = False) -> None:
    """Write plain lines to standard error; `verbose` adds what happened inside, `quiet` leaves all but warnings out.

    Where standard error is systemd's journal, each line bears its priority instead of the time.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Journal(verbose=verbose) if _is_journal(os.environ) else _Plain(verbose=verbose))
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("PIL", "exifread", "watchdog", "peewee", "asyncio", "httpcore2", "httpx2", "google_genai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _is_journal(environ: Mapping[str, str]) -> bool:
    """Return whether standard error is the very stream that systemd connected; see systemd.exec(5), JOURNAL_STREAM."""
    try:
        here = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{here.st_dev}:{here.st_ino}"


class _Plain(logging.Formatter):
    def __init__(self, *, verbose: bool) -> None:
        fields = "%(asctime)s %(levelname)-7s %(name)s: %(message)s" if verbose else "%(asctime)s %(message)s"
        super().__init__(fields, datefmt="%Y-%m-%d %H:%M:%S")


class _Journal(logging.Formatter):
    """Lines as sd-daemon(3) has them: `<6>text`. The journal knows the time, and takes each line by itself."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__("%(name)s: %(message)s" if verbose else "%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        priority = _priority(record.levelno)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines() or [""])


def _priority(level: int) -> int:
    for least, priority in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= least:
            return priority
    return 7
