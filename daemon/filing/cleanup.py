"""Removes inbox subfolders that filing has emptied, once nobody seems to be filling them any more.

`cp -r` makes a folder before the files in it: a folder that goes away in between makes the copy fail. So an
emptied folder is left alone until nobody else has changed anything in it for a while. A folder that was empty from the
start is never touched: somebody made it to drop photos into.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import NamedTuple

from daemon.files.atomic import Root
from daemon.files.walk import listable, subfolders


class Cleanup:
    """The subfolders, relative to the inbox, that files have left, until they are removed or forgotten."""

    def __init__(self, inbox: Root, quiet_seconds: float) -> None:
        self._inbox = inbox
        self.quiet_seconds = quiet_seconds
        self._emptied: set[str] = set()
        # When others last changed a folder, where the change that its ctime tells of is known to be our own.
        self._before_ours: dict[str, _Change] = {}
        self._at_start: dict[str, float] = {}

    def begin(self) -> None:
        """Note when each subfolder was last changed, for one pass over the inbox: from then on what leaves is ours.

        What others bring meanwhile is not taken by such a pass, and a folder with something in it stays.
        """
        for folder, _ in subfolders(self._inbox):
            if (ctime := self._ctime(folder)) is not None:
                self._at_start[folder] = ctime

    def find_emptied(self, came_from: Callable[[str], bool]) -> None:
        """Look for empty subfolders that an earlier process has emptied; `came_from` knows the folders of all files."""
        self._emptied |= {folder for folder, is_empty in subfolders(self._inbox) if is_empty and came_from(folder)}

    def note(self, path: str) -> None:
        """Note that what had a path, relative to the inbox, has left it."""
        folder = str(PurePosixPath(path).parent)
        if folder != ".":
            self._emptied.add(folder)
            if folder in self._at_start and (ctime := self._ctime(folder)) is not None:
                self._before_ours[folder] = _Change(ctime, self._at_start[folder])

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
                # ctime: it can't be set back.
                quiet = time.time() - self._changed(folder, os.fstat(fd).st_ctime)
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
        parent = str(PurePosixPath(folder).parent)
        before = self._ctime(parent)
        with suppress(OSError), (self._inbox / folder).entry() as entry:
            entry.remove_folder()
        self._emptied.discard(folder)
        self._before_ours.pop(folder, None)
        if parent == ".":
            return None
        self._emptied.add(parent)
        after = self._ctime(parent)
        if before is None or after is None:
            return self.quiet_seconds
        self._before_ours[parent] = _Change(after, self._changed(parent, before))
        return max(0.0, self.quiet_seconds - (time.time() - self._changed(parent, after)))

    def _changed(self, folder: str, ctime: float) -> float:
        """Return when others have last changed a folder that has a ctime."""
        ours = self._before_ours.get(folder)
        return ours.before if ours is not None and ours.ctime == ctime else ctime

    def _ctime(self, folder: str) -> float | None:
        try:
            info = (self._inbox / folder).lstat()
        except OSError:
            return None
        return None if info is None else info.st_ctime


class _Change(NamedTuple):
    """Of a change that we have made to a folder: its ctime since then, and when others had changed it before."""

    ctime: float
    before: float
