"""Removes inbox subfolders that filing has emptied, once nobody seems to be filling them any more.

`cp -r` makes a folder before the files in it: a folder that goes away in between makes the copy fail. So an
emptied folder is left alone until nothing has happened in it for a while. A folder that was empty from the start
is never touched: somebody made it to drop photos into.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from daemon.files.walk import subfolders


class Cleanup:
    """The subfolders that files have left, until they are removed or forgotten."""

    def __init__(self, inbox: Path, quiet_seconds: float) -> None:
        self._inbox = inbox
        self.quiet_seconds = quiet_seconds
        self._emptied: set[Path] = set()

    def find_emptied(self, came_from: Callable[[str], bool]) -> None:
        """Look for empty subfolders that an earlier process has emptied; `came_from` knows the folders of all files."""
        for folder, is_empty in subfolders(self._inbox):
            if is_empty and came_from(folder):
                self._emptied.add(self._inbox / folder)

    def note(self, file: Path) -> None:
        """Note that a file has left the inbox."""
        if file.parent != self._inbox:
            self._emptied.add(file.parent)

    def remove_empty(self) -> float | None:
        """Remove what is empty and quiet; returns the seconds after which the next one may be, None for none."""
        waits = [self._remove_one(folder) for folder in sorted(self._emptied, reverse=True)]
        return min((wait for wait in waits if wait is not None), default=None)

    def _remove_one(self, folder: Path) -> float | None:
        try:
            with os.scandir(folder) as entries:
                occupied = next(entries, None) is not None
            # ctime: it can't be set back, and the last file's leaving has renewed it.
            quiet = time.time() - folder.stat().st_ctime
        except OSError:
            occupied, quiet = True, 0.0
        if occupied:
            # Either gone, or more is arriving: the file that leaves last notes it again.
            self._emptied.discard(folder)
            return None
        if 0 <= quiet < self.quiet_seconds:
            return self.quiet_seconds - quiet
        with suppress(OSError):
            folder.rmdir()
        self._emptied.discard(folder)
        self.note(folder)
        return None if folder.parent == self._inbox else self.quiet_seconds
