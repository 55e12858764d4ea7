"""Makes the state folder its account's alone: what is in it tells of every photo, and a lock can be taken by reading.

The catalogue has the captions and the places of photos that may be 0600 in the library, and the thumbnails show them.
Whoever can open a file, or a folder, for reading can also hold a flock on it for ever, and nothing would start then.
"""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)

FOLDER_MODE, FILE_MODE = 0o700, 0o600
_OTHERS = 0o077


def make(state: Path, thumbnails: Path) -> None:
    """Make a state folder where there is none, and take others' rights from what an earlier version has left in one.

    Thumbnails, of which there may be a million, are looked through once: their folder's own mode says that it was done.
    A filesystem that has no modes is no fault. Raises OSError where the folder can't be made.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    state.mkdir(mode=FOLDER_MODE, exist_ok=True)
    try:
        # The folder first: from then on nobody else gets at what is in it, or can put a link there.
        if not _close(state, state.lstat()):
            return
        for entry in _entries(state):
            if entry.is_file(follow_symlinks=False):
                _close(entry.path, entry.stat(follow_symlinks=False))
        if thumbnails.is_dir() and stat.S_IMODE(thumbnails.lstat().st_mode) & _OTHERS:
            _log.info("taking other accounts' rights from the thumbnails, once")
            for path in _below(thumbnails):
                _close(path, path.lstat())
            _close(thumbnails, thumbnails.lstat())
    except OSError as error:
        _log.warning("%s stays open to other accounts: %s", state, error.strerror)


def private(path: str, flags: int) -> int:
    """Open a file, made for this account alone where there is none; an opener for `open`."""
    return os.open(path, flags, FILE_MODE)


def _close(path: Path | str, info: os.stat_result) -> bool:
    """Take others' rights; return False where it is another account's, which does that itself. Raises OSError."""
    if info.st_uid != os.geteuid() and os.geteuid() != 0:
        return False
    if info.st_mode & _OTHERS and not stat.S_ISLNK(info.st_mode):
        os.chmod(path, FOLDER_MODE if stat.S_ISDIR(info.st_mode) else FILE_MODE)
    return True


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


def _below(folder: Path) -> Iterator[Path]:
    """Yield what lies below a folder, what a folder holds before the folder itself."""
    for base, folders, files in os.walk(folder, topdown=False):
        yield from (Path(base) / name for name in (*files, *folders))
