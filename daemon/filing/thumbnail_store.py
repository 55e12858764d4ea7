"""Keeps the thumbnails in the state folder, under the hash of the original's bytes.

The name follows from the bytes, so writing twice is harmless, a duplicate shares its original's, and losing the
catalogue loses nothing.
"""

from pathlib import Path
from typing import Literal

from daemon.files.atomic import Root, atomic_write, blaming, fsync_folder, is_folder, make_path
from daemon.files.names import OWN_PREFIX
from daemon.files.state_folder import FOLDER_MODE

Size = Literal["small", "medium"]
SIZES: dict[Size, int] = {"small": 200, "medium": 800}


class ThumbnailStore:
    """The thumbnails under one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, sha256: str, size: Size) -> Path:
        """Return where an original's thumbnail is kept."""
        return self._root / sha256[:2] / f"{sha256}-{SIZES[size]}.jpg"

    def has(self, sha256: str, size: Size) -> bool:
        """Return whether an original's thumbnail is there, and is not empty. Raises OSError."""
        try:
            return self.path(sha256, size).stat().st_size > 0
        except FileNotFoundError:
            return False

    def save(self, sha256: str, small: bytes, medium: bytes) -> None:
        """Write both; no reader ever sees half of one. Raises EnvironmentFault.

        Nothing where they are empty, as of a kind without a decoder.
        """
        if not (small and medium):
            return
        root = Root(self._root)
        folder = root / sha256[:2]
        if not is_folder(folder.path):
            self._make_shards()
        # A power cut must not leave an empty thumbnail that looks ready, and nobody would make one again for a row
        # that is done.
        names = {f"{sha256}-{SIZES['small']}.jpg": small, f"{sha256}-{SIZES['medium']}.jpg": medium}
        atomic_write(folder, names, sha256, replace=True, staging=root / "")

    def remove(self, sha256: str) -> None:
        """Remove both. Raises EnvironmentFault."""
        for size in SIZES:
            file = self.path(sha256, size)
            with blaming(file):
                file.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a process that died while it saved has left; not while another may. Raises EnvironmentFault."""
        with blaming(self._root):
            for left in self._root.glob(f"{OWN_PREFIX}*"):
                left.unlink(missing_ok=True)

    def _make_shards(self) -> None:
        """Make all subfolders with the first: each by itself would cost nearly every photo a wait for the disk."""
        with blaming(str(self._root)):
            make_path(self._root, FOLDER_MODE)
            for number in range(256):
                (self._root / f"{number:02x}").mkdir(mode=FOLDER_MODE, exist_ok=True)
            fsync_folder(self._root)
