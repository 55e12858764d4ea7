"""Keeps the thumbnails in the state folder, under the hash of the original's bytes.

The name follows from the bytes, so writing twice is harmless, a duplicate shares its original's, and losing the
catalogue loses nothing.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from daemon.files.atomic import blaming, fsync_folder, make_folders

Size = Literal["small", "medium"]
SIZES: dict[Size, int] = {"small": 200, "medium": 800}


class Thumbnails:
    """The thumbnails under one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, sha256: str, size: Size) -> Path:
        """Tell where an original's thumbnail is kept."""
        return self._root / sha256[:2] / f"{sha256}-{SIZES[size]}.jpg"

    def save(self, sha256: str, small: bytes, medium: bytes) -> None:
        """Write both; no reader ever sees half of one. Raises EnvironmentFault."""
        with blaming(str(self._root)):
            self._make_shards(self.path(sha256, "small").parent)
        written: list[tuple[Path, Path]] = []
        with blaming(str(self._root)), ExitStack() as opened:
            files = []
            for size, content in (("small", small), ("medium", medium)):
                file = self.path(sha256, size)  # type: ignore[arg-type]
                written.append((file.with_name(f".darkroom-{file.name}.part"), file))
                files.append(opened.enter_context(written[-1][0].open("wb")))
                files[-1].write(content)
                files[-1].flush()
            # A power cut must not leave an empty thumbnail that looks ready, and nobody would make one again for a row
            # that is done. Both are written before either is waited for: that is one commit of the journal less.
            for out in files:
                os.fdatasync(out.fileno())
            for temporary, file in written:
                temporary.replace(file)
            fsync_folder(written[0][1].parent)

    def _make_shards(self, wanted: Path) -> None:
        """Make all subfolders with the first: each by itself would cost nearly every photo a wait for the disk."""
        if wanted.is_dir():
            return
        make_folders(self._root.parent, self._root)
        for number in range(256):
            (self._root / f"{number:02x}").mkdir(exist_ok=True)
        fsync_folder(self._root)
