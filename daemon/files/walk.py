"""Walks the inbox: what lies there, and what of it is junk.

A scan opens no file and follows no link; it keeps the folders still to visit, never the files.
"""

import errno
import fnmatch
import logging
import os
import re
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from daemon.files.atomic import Root
from daemon.files.names import LEAVING_PREFIX, OWN_PREFIX

logger = logging.getLogger(__name__)


DEFAULT_IGNORE = (
    # Hidden: rsync's and Syncthing's temporaries, trash, and what macOS, FUSE and NFS leave behind.
    *(".*", "._*", ".DS_Store", ".AppleDouble", ".syncthing.*.tmp", ".nfs*", ".fuse_hidden*", ".Trash-*"),
    # Still arriving: browsers, FTP and SFTP clients, torrents, sync programs, editors.
    *("*.part", "*.partial", "*.tmp", "*.temp", "*.crdownload", "*.download", "*.opdownload", "*.filepart"),
    *("*.aria2", "*.!ut", "*.!qB", "*.bc!", "~syncthing~*.tmp", "~$*", "*~", "*.swp", "*.sb-????????-??????"),
    "*_exiftool_tmp",
    # Windows and macOS keeping house.
    *("Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "Picasa.ini", "Icon\r", "__MACOSX"),
    *("$RECYCLE.BIN", "RECYCLER", "System Volume Information", "Network Trash Folder", "Temporary Items"),
    # NAS: Synology, QNAP, and the file checker's folder.
    *("@eaDir", "@tmp", "@sharebin", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "lost+found"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a directory entry says of a file without opening it: `path` is relative to the inbox and '/'-separated.

    A name that isn't UTF-8 is kept as `os.fsdecode` gives it (it may hold surrogates). `size` is in bytes.
    """

    path: str
    size: int
    mtime_ns: int


def leaving(inbox: Root) -> Iterator[tuple[str, str]]:
    """Yield the folder, relative to the inbox, and the name of all hidden names of files that were about to leave."""
    for folder in ("", *(folder for folder, _ in subfolders(inbox))):
        try:
            fd = listable(inbox, folder)
        except OSError:
            continue
        try:
            hidden = [name for name in os.listdir(fd) if name.startswith(LEAVING_PREFIX)]
        finally:
            os.close(fd)
        yield from ((folder, name) for name in hidden)


def is_junk(relpath: str, ignore: Sequence[str]) -> bool:
    """Return whether any component of a path matches a pattern (any case), or is a temporary of our own."""
    matches = _matcher(tuple(ignore))
    return any(name.startswith(OWN_PREFIX) or matches(name) for name in relpath.split("/"))


@lru_cache(maxsize=8)
def _matcher(ignore: tuple[str, ...]) -> Callable[[str], re.Match[str] | None]:
    patterns = "|".join(fnmatch.translate(pattern.rstrip("/")) for pattern in ignore)
    return re.compile(patterns or "(?!)", re.IGNORECASE).match


def walk(
    inbox: Root,
    ignore: Sequence[str],
    recursive: bool,
    *,
    below: str = "",
    reported: set[str] | None = None,
) -> Iterator[Found]:
    """Yield all that is neither folder nor junk in the inbox, links and special files included.

    `below` begins at a subfolder. A subfolder that can't be read is passed over and logged, once for as
    long as it stays in `reported`. Raises OSError where the inbox itself can't be read.
    """
    reported = set() if reported is None else reported
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(below, ())]
    while pending:
        folder, above = pending.pop()
        try:
            fd = listable(inbox, folder)
            try:
                info = os.fstat(fd)
                identity = (info.st_dev, info.st_ino)
                if identity in above and info.st_ino:
                    continue  # a folder inside itself (odd FUSE and bind mounts); inode 0 is no identity
                prefix = f"{folder}/" if folder else ""
                for name, found in _entries(fd, prefix, ignore):
                    if found is not None:
                        yield found
                    elif recursive:
                        pending.append((prefix + name, (*above, identity)))
            finally:
                os.close(fd)
            reported.discard(folder)
        except OSError as error:
            if not folder:
                raise
            if error.errno not in _VANISHED and folder not in reported:
                reported.add(folder)
                logger.warning("the folder %r in the inbox can't be read: %s", folder, error.strerror)


_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def _entries(fd: int, prefix: str, ignore: Sequence[str]) -> Iterator[tuple[str, Found | None]]:
    # By descriptor: a folder swapped for a link to elsewhere meanwhile is not followed.
    with os.scandir(fd) as entries:
        for entry in entries:
            if is_junk(entry.name, ignore):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield entry.name, None
                    continue
                info = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone since it was listed
            yield entry.name, Found(prefix + entry.name, info.st_size, info.st_mtime_ns)


def listable(root: Root, folder: str = "") -> int:
    """Open a folder so that it can be listed; the caller closes the descriptor. Raises OSError."""
    reached = root.open(folder)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=reached)
    finally:
        os.close(reached)


def subfolders(root: Root) -> Iterator[tuple[str, bool]]:
    """Yield each folder below `root`, relative to it, and whether it is empty; what can't be read is passed over.

    os.walk calls itself for each folder in a folder, and ends at a thousand of them.
    """
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            fd = listable(root, folder)
            try:
                is_empty = True
                with os.scandir(fd) as entries:
                    for entry in entries:
                        is_empty = False
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(f"{folder}/{entry.name}" if folder else entry.name)
            finally:
                os.close(fd)
        except OSError:
            continue
        if folder:
            yield folder, is_empty


def look(inbox: Root, relpath: str) -> Found | None:
    """Look at one path as `walk` would; None for a folder, for what is gone or can't be reached."""
    try:
        info = (inbox / relpath).lstat()
    except OSError:
        return None
    if info is None or stat.S_ISDIR(info.st_mode):
        return None
    return Found(relpath, info.st_size, info.st_mtime_ns)


def batched(found: Iterable[Found], size: int = 1000) -> Iterator[list[Found]]:
    """Cut a walk into lists that fit one transaction each."""
    rest = iter(found)
    while batch := list(islice(rest, size)):
        yield batch


def outermost(folders: Iterable[str]) -> list[str]:
    """Leave out the folders that lie below another of them."""
    wanted = set(folders)
    return [folder for folder in folders if not is_below(folder, wanted)]


def is_below(path: str, folders: Container[str]) -> bool:
    """Return whether a path lies below one of the folders."""
    parent = path
    while parent := parent.rpartition("/")[0]:
        if parent in folders:
            return True
    return False
