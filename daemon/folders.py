"""Are the folders there, the right ones, writable, and is there room? Asked before each image.

A folder on a disk that is not mounted looks like an empty folder, and filing into it would hide the photos as
soon as the disk is back. So the mount point that each folder lies on is remembered, and a change is only
believed when the files that the catalogue expects are there.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from daemon.errors import EnvironmentFault
from daemon.mounts import mount_point


class Memory(Protocol):
    """What outlives the process (the catalogue's settings)."""

    def recall(self, key: str) -> object:
        """Give what was remembered; None where nothing was."""

    def remember(self, key: str, value: object) -> None:
        """Keep a JSON value."""


class Folders:
    """The folders that filing depends on, by name; `expected` names a file that should lie in one, if any should."""

    def __init__(
        self,
        paths: Mapping[str, Path],
        memory: Memory,
        expected: Callable[[str], str | None],
        min_free_mb: int,
    ) -> None:
        self._paths = paths
        self._memory = memory
        self._expected = expected
        self._min_free = min_free_mb * 1_000_000
        self._devices: dict[str, int] = {}

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
        known = self._memory.recall(f"mount of {name}")
        if mount != known:
            sample = self._expected(name)
            if known is not None and sample is not None and not os.path.lexists(path / sample):
                raise EnvironmentFault(
                    f"the {name} folder {path} is not mounted: it was on {known}, now it is on {mount}"
                    f" and lacks {sample}"
                )
            self._memory.remember(f"mount of {name}", mount)
        self._devices[name] = device
