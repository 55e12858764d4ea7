"""Which filesystem a folder is on, and whether the folders are there: the right ones, writable, with room.

A folder on a disk that is not mounted looks like an empty folder, and filing into it would hide the photos as
soon as the disk is back. So the mount point that each folder lies on is remembered, and a change is only
believed when the files that the catalogue expects are there.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import psutil

from daemon.errors import EnvironmentFault
from daemon.files import atomic
from daemon.files.atomic import Root

# Other machines (or a program behind FUSE) write to these: the local kernel sends no events for that and knows
# no such writer. Every "fuse.NAME" counts too, but not "fuseblk": that is a local disk (NTFS, exFAT).
NETWORK_FILESYSTEMS = frozenset({
    *("9p", "afs", "beegfs", "ceph", "cifs", "davfs", "drvfs", "fuse", "gfs2", "glusterfs", "lustre", "ncpfs"),
    *("nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb3", "smbfs", "v9fs", "vboxsf", "virtiofs"),
    "vmhgfs",
})  # fmt: skip


def mount_point(path: Path) -> Path:
    """Return the mount point that a path lies under; the path need not exist."""
    return Path(_mount(path)[0])


def filesystem(path: Path) -> str:
    """Return the type of the filesystem under a path ("ext4", "nfs4", "fuse.sshfs"); "" where nobody knows."""
    return _mount(path)[1]


def is_network(fstype: str) -> bool:
    """Return whether files on such a filesystem may be written unseen by this kernel."""
    return fstype in NETWORK_FILESYSTEMS or fstype.startswith("fuse.")


def _mount(path: Path) -> tuple[str, str]:
    resolved = os.path.realpath(path)
    found = ("/", "")
    try:
        partitions = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        return found
    for part in partitions:
        # In the order of mounting: of two at one place (autofs, then nfs) the later one hides the earlier.
        inside = resolved == part.mountpoint or resolved.startswith(part.mountpoint.rstrip("/") + "/")
        if inside and len(part.mountpoint) >= len(found[0]):
            found = (part.mountpoint, part.fstype)
    return found


class Remembered(Protocol):
    """What outlives the process (the catalogue's settings)."""

    def get(self, key: str) -> object:
        """Return the value that was set; None where none was."""

    def set(self, key: str, value: object) -> None:
        """Keep a JSON value."""

    def expected(self, folder: str) -> str | None:
        """Return the name of a file that should lie in a folder if it is the right one, if any should."""


class FolderCheck:
    """The folders that filing depends on, by name."""

    def __init__(self, paths: Mapping[str, Path], remembered: Remembered, min_free_mb: int) -> None:
        self._paths = paths
        self._remembered = remembered
        self._min_free = min_free_mb * 1_000_000
        self._devices: dict[str, int] = {}

    def check_present(self) -> None:
        """Raise EnvironmentFault saying which folder is not there, or is on another mount than it was."""
        for name, path in self._paths.items():
            self._check_there(name, path)

    def check(self) -> None:
        """Raise EnvironmentFault saying which folder is not usable, and why."""
        for name, path in self._paths.items():
            self._check_there(name, path)
            if not os.access(path, os.W_OK | os.X_OK):
                raise EnvironmentFault(f"the {name} folder {path} can't be written")
            try:
                free = shutil.disk_usage(path).free
            except OSError as error:  # a share that stutters: EIO, ESTALE, EHOSTDOWN
                raise EnvironmentFault(f"the {name} folder {path} does not answer: {error.strerror}") from error
            if free < self._min_free:
                raise EnvironmentFault(
                    f"the {name} folder {path} is full: {free // 1_000_000} MB free,"
                    f" {self._min_free // 1_000_000} MB wanted (min_free_mb)"
                )

    def probe(self) -> None:
        """Check, and write a small file in each folder. Raises EnvironmentFault."""
        self.check()
        for name, path in self._paths.items():
            try:
                atomic.probe(Root(path) / "any file")
            except OSError as error:
                raise EnvironmentFault(f"the {name} folder {path} can't be written: {error.strerror}") from error

    def _check_there(self, name: str, path: Path) -> None:
        try:
            device = path.stat().st_dev
            is_folder = path.is_dir()
        except OSError as error:
            raise EnvironmentFault(f"the {name} folder {path} is gone: {error.strerror}") from error
        if not is_folder:
            raise EnvironmentFault(f"{path} is a file, not the {name} folder")
        if self._devices.get(name) == device:
            return
        mount = str(mount_point(path))
        known = self._remembered.get(f"mount of {name}")
        if mount != known:
            sample = self._remembered.expected(name)
            if known is not None and sample is not None and not os.path.lexists(path / sample):
                raise EnvironmentFault(
                    f"the {name} folder {path} is not mounted: it was on {known}, now it is on {mount}"
                    f" and lacks {sample}"
                )
            self._remembered.set(f"mount of {name}", mount)
        self._devices[name] = device
