"""Walks the inbox: what lies there, and what of it is junk.

A scan opens no file and follows no link; it keeps the folders still to visit, never the files.
"""

import errno
import fnmatch
import logging
import os
import re
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, cast

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
                logger.warning("the folder %r in %s can't be read: %s", folder, inbox, error.strerror)


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


class Look(NamedTuple):
    """What stat says of what is no folder; `is_file` is False for a link, a pipe and the like."""

    size: int
    mtime_ns: int
    is_file: bool
    inode: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a directory entry says of a file of the library: `path` is relative to it.

    `beside` is all that is no folder in its folder, by name.
    """

    path: str
    look: Look
    beside: Mapping[str, "Look"]


def inode(here: os.stat_result) -> int:
    """Return the number of a file's inode, as SQLite can hold it."""
    return here.st_ino & (2**63 - 1)


class OrderedWalk:
    """Walks a folder by stat alone, in the order of the paths' bytes, as the catalogue lists them.

    Names that are no UTF-8 come in the end. Links of the owner's own are followed, as `Root.open` does it, and what is
    junk is passed over. After it `ignored` holds that, `unseen` the folders that nobody could look into, each with a
    slash behind it, and `mounts` those that lie on another filesystem than the folder above, each with where that is
    mounted. `known` are these of the last time: what was a mount then and is none now is unseen, not empty.
    """

    def __init__(self, root: Root, ignore: Sequence[str], known: Mapping[str, str]) -> None:
        self._root, self._matches, self._known = root, _matcher(tuple(ignore)), known
        self.unseen: list[str] = []
        self.ignored: list[str] = []
        self.mounts: dict[str, str] = {}

    def files(self) -> Iterator[Seen]:
        """Yield all that is no folder. Raises OSError where the folder itself can't be read."""
        odd: list[Seen] = []
        # The folders that are open, the innermost last: what is still to come of each.
        stack = [self._listed("", None, ())]
        while stack:
            inner = next(stack[-1], None)
            if inner is None:
                stack.pop()
            elif isinstance(inner, Seen):
                if _is_text(inner.path):
                    yield inner
                else:
                    odd.append(inner)
            else:
                stack.append(inner)
        yield from sorted(odd, key=lambda seen: os.fsencode(seen.path))

    def is_unseen(self, path: str) -> bool:
        """Return whether nobody could look where a path leads."""
        return any(path.startswith(folder) for folder in self.unseen)

    def _listed(
        self, folder: str, device: int | None, above: tuple[tuple[int, int], ...]
    ) -> "Iterator[Seen | Iterator[Seen]]":
        """Yield what is in a folder in order: files, and for each folder what yields what is in that."""
        prefix = f"{folder}/" if folder else ""
        try:
            fd = listable(self._root, folder)
        except OSError as error:
            if not folder:
                raise
            if error.errno != errno.ENOENT or folder in self._known:
                self.unseen.append(prefix)
            return
        try:
            info = os.fstat(fd)
            identity = (info.st_dev, info.st_ino)
            if identity in above and info.st_ino:
                return
            if folder and not self._is_same_mount(folder, is_apart=info.st_dev != device):
                self.unseen.append(prefix)
                return
            folders, files = self._entries(fd, prefix)
        except OSError:
            if not folder:
                raise
            self.unseen.append(prefix)
            return
        finally:
            os.close(fd)
        names = sorted([*files, *(f"{name}/" for name in folders)])
        for name in names:
            if name.endswith("/"):
                inside = prefix + name[:-1]
                yield cast("Iterator[Seen]", self._listed(inside, info.st_dev, (*above, identity)))
            else:
                yield Seen(prefix + name, files[name], files)

    def _entries(self, fd: int, prefix: str) -> tuple[list[str], dict[str, Look]]:
        """Return the folders and all else in an open folder. Raises OSError where not all can be known."""
        folders: list[str] = []
        files: dict[str, Look] = {}
        matches = self._matches
        with os.scandir(fd) as entries:
            for entry in entries:
                # As `is_junk` has it, which would take a fifth of a walk's time.
                if entry.name.startswith(OWN_PREFIX) or matches(entry.name):
                    self.ignored.append(prefix + entry.name)
                    continue
                if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and self._leads_on(prefix + entry.name)):
                    folders.append(entry.name)
                    continue
                with suppress(FileNotFoundError):  # gone since it was listed
                    here = entry.stat(follow_symlinks=False)
                    files[entry.name] = Look(
                        here.st_size, here.st_mtime_ns, stat.S_ISREG(here.st_mode), inode(here), here.st_ctime_ns
                    )
        return folders, files

    def _leads_on(self, path: str) -> bool:
        """Return whether a link is one of the owner's own to a folder; what can't be reached is unseen."""
        if not self._root.own_links:
            return False
        try:
            os.close(self._root.open(path))
        except OSError as error:
            if error.errno != errno.ENOTDIR:
                self.unseen.append(f"{path}/")
            return False
        return True

    def _is_same_mount(self, folder: str, *, is_apart: bool) -> bool:
        """Return whether a folder lies where it did the last time, and note it where that is another filesystem."""
        known = self._known.get(folder)
        if not is_apart:
            return known is None
        # Not above: the decoders' process walks nothing, and psutil takes long to import.
        from daemon.files.mounts import mount_point

        here = str(mount_point(self._root.path / folder))
        if known is not None and known != here:
            return False
        self.mounts[folder] = here
        return True


def _is_text(path: str) -> bool:
    return path.isascii() or not any("\ud800" <= c <= "\udfff" for c in path)
