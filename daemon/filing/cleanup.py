"""Removes inbox subfolders that filing has emptied, once nobody seems to be filling them any more.

`cp -r` makes a folder before the files in it: a folder that goes away in between makes the copy fail. So an
emptied folder is left alone until nothing has happened in it for a while. A folder that was empty from the start
is never touched: somebody made it to drop photos into.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePosixPath

from daemon.files.atomic import Root
from daemon.files.walk import listable, subfolders


class Cleanup:
    """The subfolders, relative to the inbox, that files have left, until they are removed or forgotten."""

    def __init__(self, inbox: Root, quiet_seconds: float) -> None:
        self._inbox = inbox
        self.quiet_seconds = quiet_seconds
        self._emptied: set[str] = set()

    def find_emptied(self, came_from: Callable[[str], bool]) -> None:
        """Look for empty subfolders that an earlier process has emptied; `came_from` knows the folders of all files."""
        self._emptied |= {folder for folder, is_empty in subfolders(self._inbox) if is_empty and came_from(folder)}

    def note(self, path: str) -> None:
        """Note that what had a path, relative to the inbox, has left it."""
        folder = str(PurePosixPath(path).parent)
        if folder != ".":
            self._emptied.add(folder)

    def remove_empty(self) -> float | None:
        """Remove what is empty and quiet; returns the seconds after which the next one may be, None for none."""
        waits = [self._remove_one(folder) for folder in sorted(self._emptied, reverse=True)]
        return min((wait for wait in waits if wait is not None), default=None)

    def _remove_one(self, folder: str) -> float | None:
        try:
            fd = listable(self._inbox, folder)
            try:
                with os.scandir(fd) as entries:
                    occupied = next(entries, None) is not None
                # ctime: it can't be set back, and the last file's leaving has renewed it.
                quiet = time.time() - os.fstat(fd).st_ctime
            finally:
                os.close(fd)
        except OSError:
            occupied, quiet = True, 0.0
        if occupied:
            # Either gone, or more is arriving: the file that leaves last notes it again.
            self._emptied.discard(folder)
            return None
        if 0 <= quiet < self.quiet_seconds:
            return self.quiet_seconds - quiet
        with suppress(OSError), (self._inbox / folder).entry() as entry:
            entry.remove_folder()
        self._emptied.discard(folder)
        self.note(folder)
        return None if "/" not in folder else self.quiet_seconds
