"""Reads folders that photos are imported from, a camera's card say, and copies what is wanted of them into the inbox.

Nothing there is changed. A copy is written under a hidden temporary name in the inbox, checked, and named in one step;
each folder of a source gets a subfolder of its own there, so that two `IMG_1` never meet.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from daemon.decoding.formats import HEAD_BYTES, sniff
from daemon.errors import Busy, DarkroomError, EnvironmentFault, NameRefused, Rejected
from daemon.files import atomic, lock, names
from daemon.files.atomic import Location, Root
from daemon.files.names import IMAGE_SUFFIXES, display, fold, split
from daemon.files.opening import Identity, open_regular
from daemon.files.walk import OrderedWalk, Seen, is_junk, subfolders
from daemon.filing.companions import parse
from daemon.sidecar.xmp import DARKROOM

# What cameras keep on their cards for themselves: Canon, Nikon, Sony, Panasonic, AVCHD, Windows.
HOUSEKEEPING = (
    *("*.CTG", "NC_FLLST.DAT", "AUTPRINT.MRK", "DATABASE.BIN", "AVIN*.BNP", "AVIN*.INP", "AVIN*.INT", "SONYCARD.IND"),
    *("INDEX.BDM", "MOVIEOBJ.BDM", "*.CPI", "*.MPL", "WMPInfo.xml", "IndexerVolumeGuid"),
)
_TAG = "import"
_TRIES = 1000
_PLAIN = "import"
# Nobody's sidecar is larger.
_SIDECAR_BYTES = 16 << 20
ImportKind = Literal["photo", "companion", "sidecar", "other"]


@dataclass(frozen=True, slots=True)
class ImportFile:
    """One file of a source; `folder` is the subfolder of the inbox for what is in its folder.

    `fault` says why it is not to be copied. A "sidecar" is Darkroom's own, of a photo beside it; what is "other" is
    neither photo nor beside one.
    """

    root: Root
    inside: str
    folder: str
    size: int
    mtime_ns: int
    kind: ImportKind = "other"
    sha256: str | None = None
    fault: str | None = None

    @property
    def name(self) -> str:
        """Its name, without any folder."""
        return self.inside.rpartition("/")[2]

    @property
    def location(self) -> Location:
        """Where it is."""
        return self.root / self.inside


class Sources:
    """The folders of one import; `reserved` are Darkroom's own by name, of which none may be in them, or hold them."""

    def __init__(self, folders: Sequence[Path], reserved: Mapping[str, Path], ignore: Sequence[str]) -> None:
        """Take folders that can be read; one that lies in another of them is read once.

        Raises Rejected saying what is wrong with one.
        """
        self._ignore = (*ignore, *HOUSEKEEPING)
        found = [_checked(folder, reserved) for folder in folders]
        self.folders = [one for one in found if not any(one != other and one.is_relative_to(other) for other in found)]
        self.folders = list(dict.fromkeys(self.folders))
        self._tops = dict(zip(self.folders, _tops(self.folders, ignore), strict=True))
        # Names that are passed over, folders that could not be looked into: as they are shown to people.
        self.ignored: list[str] = []
        self.unseen: list[str] = []

    def listed(self) -> Iterator[ImportFile]:
        """Yield all that lies in the folders but for junk, unread. Raises Rejected where a folder is gone."""
        self.ignored, self.unseen = [], []
        for folder in self.folders:
            walk = OrderedWalk(Root(folder), self._ignore, {})
            try:
                yield from (self._file(folder, seen) for seen in walk.files())
            except OSError as error:
                raise Rejected(f"{folder} can't be read: {error.strerror}") from error
            self.ignored += [str(folder / name) for name in walk.ignored]
            self.unseen += [str(folder / name) for name in walk.unseen]

    def _file(self, folder: Path, seen: Seen) -> ImportFile:
        inside = seen.path.rpartition("/")[0]
        below = f"{self._tops[folder]}/{inside}" if inside else self._tops[folder]
        fault = None if seen.look.is_file else "it is no regular file, but a link, a pipe or a device"
        return ImportFile(Root(folder), seen.path, below, seen.look.size, seen.look.mtime_ns, fault=fault)


def read(file: ImportFile, most_bytes: int) -> ImportFile:
    """Return a file with its hash, and what it is by its bytes and its name: a photo, or what may come with one."""
    if split(file.name)[1].lower() in IMAGE_SUFFIXES:
        file = replace(file, kind="photo")
    if file.fault is not None:
        return file
    if file.size == 0:
        return replace(file, fault="it is empty")
    if file.size > most_bytes:
        return replace(file, fault=f"it is larger than [limits] file_mb ({most_bytes >> 20} MB)")
    try:
        fd = open_regular(file.location)
    except DarkroomError as error:
        return replace(file, fault=f"it can't be read: {error}")
    try:
        before = os.fstat(fd)
        kind = _kind(fd, file.name)
        sha256 = atomic.sha256(fd)
        if Identity.of(os.fstat(fd)) != Identity.of(before) or before.st_size != file.size:
            return replace(file, fault="it changed while it was read")
        return replace(file, size=before.st_size, mtime_ns=before.st_mtime_ns, kind=kind, sha256=sha256)
    except OSError as error:
        return replace(file, fault=f"it can't be read: {error.strerror}")
    finally:
        os.close(fd)


def together(files: Sequence[ImportFile], is_known: Callable[[str, str], bool]) -> dict[ImportFile, list[ImportFile]]:
    """Return what may be copied, companions first, each with the photos beside it that it may belong to.

    `is_known` says whether a companion's photo came from a subfolder of the inbox before, by that and its own name.
    """
    by_folder: dict[str, list[ImportFile]] = defaultdict(list)
    for file in files:
        if file.fault is None:
            by_folder[file.folder].append(file)
    found: dict[ImportFile, list[ImportFile]] = {}
    for folder, beside in by_folder.items():
        photos = [file for file in beside if file.kind == "photo"]
        by_stem: dict[str, list[ImportFile]] = defaultdict(list)
        for photo in photos:
            by_stem[split(fold(display(photo.name)))[0]].append(photo)
        for file in beside:
            if file.kind in {"companion", "sidecar"}:
                fitting = _fitting(file, photos, by_stem)
                if fitting or is_known(folder, file.name):
                    found[file] = fitting
        found |= {photo: [] for photo in photos}
    return found


def chosen_folder(inbox: Root, wanted: str, files: Sequence[ImportFile]) -> str:
    """Return the subfolder of the inbox for files of one folder: the first in which no other file has one's name."""
    for folder in numbered_folders(wanted):
        targets = ((inbox / folder / file.name, file) for file in files)
        if all(not atomic.exists(target) or _is_copy(target, file) for target, file in targets):
            return folder
    raise EnvironmentFault(f"the inbox is full of folders named {display(wanted)}")


def copy(file: ImportFile, inbox: Root, folder: str) -> str:
    """Copy a file into a subfolder of the inbox, where no earlier import has done so; return its path there.

    Raises FileExistsError where another file has its name, Postponed where it is another file by now, Rejected and the
    like where it can't be read, EnvironmentFault.
    """
    fd = open_regular(file.location)
    try:
        plain = PurePosixPath(folder, file.name)
        try:
            return _copied(fd, inbox, plain, file)
        except NameRefused:
            return _copied(fd, inbox, names.portable(plain), file)
    finally:
        os.close(fd)


def _copied(fd: int, inbox: Root, path: PurePosixPath, file: ImportFile) -> str:
    if not _is_copy(inbox / path, file):
        _place(fd, inbox / path, file)
    return str(path)


def _place(fd: int, target: Location, file: ImportFile) -> None:
    try:
        atomic.place(fd, target, _TAG, file.sha256, "copy")
    except EnvironmentFault as fault:
        # The folder was just removed, emptied by what was filed out of it.
        if not isinstance(fault.__cause__, FileNotFoundError):
            raise
        atomic.place(fd, target, _TAG, file.sha256, "copy")


def _is_copy(target: Location, file: ImportFile) -> bool:
    """Return whether a name in the inbox is that of a copy of a file, which an earlier import has made."""
    with atomic.blaming(target):
        return atomic.size_of(target) == file.size and atomic.sha256(target) == file.sha256


def numbered_folders(folder: str) -> Iterator[str]:
    """Yield the subfolders of the inbox that a source's folder may have: card/DCIM, card-1/DCIM, card-2/DCIM, …"""
    top, slash, rest = folder.partition("/")
    for number in range(_TRIES):
        yield f"{top}-{number}{slash}{rest}" if number else folder


def remove_partial_copies(inbox: Root, state: Path) -> None:
    """Remove what an import that has died was copying; nothing while one is at work. Best effort."""
    with suppress(Busy, EnvironmentFault), importing(state):
        sweep(inbox)


def sweep(inbox: Root) -> None:
    """Remove what an import has left that has died; within `importing`."""
    for folder in ("", *(folder for folder, _ in subfolders(inbox))):
        with suppress(OSError):
            atomic.remove_temporaries(inbox / (f"{folder}/x" if folder else "x"), _TAG)


@contextmanager
def importing(state: Path) -> Iterator[None]:
    """Keep a second import off for a block. Raises Busy."""
    with lock.held(state / "import.lock", 0.0, "another darkroom import is at work here: try again after it"):
        yield


def _checked(folder: Path, reserved: Mapping[str, Path]) -> Path:
    """Return where a folder really is. Raises Rejected where it is none, or is, holds or lies in one of Darkroom's."""
    try:
        found = folder.expanduser().resolve(strict=True)
        here = found.stat()
        own = {name: path.stat() for name, path in reserved.items() if path.is_dir()}
    except (OSError, RuntimeError, ValueError) as error:
        raise Rejected(f"{folder}: {getattr(error, 'strerror', None) or error}") from error
    if not found.is_dir():
        raise Rejected(f"{folder} is a file: name the folder that it is in, or copy it into the inbox")
    for name, path in reserved.items():
        # By its inode, too: a folder may be mounted under two paths.
        same = name in own and os.path.samestat(own[name], here)
        if same or found.is_relative_to(path):
            raise Rejected(f"{folder} lies in the {name} folder, and so in darkroom already")
        if path.is_relative_to(found):
            raise Rejected(f"{folder} holds the {name} folder: name the folders beside that")
    return found


def _tops(folders: Sequence[Path], ignore: Sequence[str]) -> Iterator[str]:
    """Yield what the folders are called in the inbox: by their own names, of two that are the same one has a number."""
    used: set[str] = set()
    for folder in folders:
        name = names.component(display(folder.name)) if folder.name else _PLAIN
        name = _PLAIN if is_junk(name, ignore) else name
        free = next(one for one in numbered_folders(name) if one not in used)
        used.add(free)
        yield free


def _kind(fd: int, name: str) -> ImportKind:
    """Return what a file is by its first bytes and its name. Raises OSError."""
    looks_like_one = sniff(os.pread(fd, HEAD_BYTES, 0)) is not None
    if parse(name) is not None and (not looks_like_one or name.lower().endswith((".thm", ".json"))):
        is_own = name.lower().endswith(".xmp") and DARKROOM.encode() in os.pread(fd, _SIDECAR_BYTES, 0)
        return "sidecar" if is_own else "companion"
    return "photo" if looks_like_one or split(name)[1].lower() in IMAGE_SUFFIXES else "other"


def _fitting(file: ImportFile, photos: list[ImportFile], by_stem: Mapping[str, list[ImportFile]]) -> list[ImportFile]:
    """Return the photos of a folder that a companion may belong to, by their names."""
    companion = parse(display(file.name))
    if companion is None:
        return []
    if companion.cut or companion.edits:
        return [photo for photo in photos if companion.may_fit(display(photo.name))]
    near = [photo for stem in companion.stems for photo in by_stem.get(fold(stem), ())]
    return [photo for photo in near if companion.may_fit(display(photo.name))]
