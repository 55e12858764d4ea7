"""A file of the inbox that is being filed."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daemon.disk import BAD_NAME
from daemon.errors import EnvironmentFault, Immovable


@dataclass(frozen=True)
class Source:
    """The inbox name and the file behind it.

    `was` is what lstat said of it, `fd` is None for what can't be opened (a link, a FIFO, another user's file),
    `unchanged` raises Postponed when the bytes are no longer the ones that were looked at.
    """

    path: Path
    was: os.stat_result
    fd: int | None
    unchanged: Callable[[], None] = lambda: None


def source_of(path: Path) -> Source | None:
    """Describe an inbox file without opening it; None where there is none.

    Raises Immovable where its path is too long to be used, EnvironmentFault.
    """
    try:
        return Source(path, path.lstat(), None)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in BAD_NAME:
            raise Immovable(f"its path can't be used: {error.strerror}") from error
        raise EnvironmentFault(f"{path}: {error.strerror}") from error
