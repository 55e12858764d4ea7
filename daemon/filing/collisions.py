"""What happens where a name is taken: a number behind it, a plainer name, or the very bytes that lie there already.

Nothing is ever overwritten: `Filing` tries the names of this module one after another, each by an exclusive step.
"""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import PurePosixPath

from daemon.files import atomic, names
from daemon.files.atomic import Location

_TRIES = 1_000_000
_REMEMBERED = 10_000


class NumberedNames:
    """Which number to try next behind a name that many files have had, so that ten thousand take linear time.

    It knows the numbers that were used by this process; another process's are found by trying, once.
    """

    def __init__(self) -> None:
        self._next: OrderedDict[tuple[str, PurePosixPath], int] = OrderedDict()

    def untried(self, place: str, wanted: PurePosixPath) -> Iterator[int]:
        """Return the numbers that were not used yet, from 1 on; the plain name itself is asked for before."""
        return iter(range(self._next.get((place, wanted), 1), _TRIES))

    def took(self, place: str, wanted: PurePosixPath, number: int) -> None:
        """Note that a number is used now."""
        self._next[place, wanted] = number + 1
        self._next.move_to_end((place, wanted))
        if len(self._next) > _REMEMBERED:
            self._next.popitem(last=False)


def plainer_names(wanted: PurePosixPath) -> Iterator[PurePosixPath]:
    """Yield the plainer names that are tried where a filesystem refuses one."""
    portable, plainest = names.portable(wanted), names.plainest(wanted)
    if portable != wanted:
        yield portable
    if plainest not in {wanted, portable}:
        yield plainest


def holds(destination: Location, size: int, sha256: str | None) -> bool:
    """Return whether a name that is taken has the very bytes already.

    That is a library that the catalogue has forgotten: its files are adopted, not filed twice.
    """
    if sha256 is None:
        return False
    with atomic.blaming(destination):
        return atomic.size_of(destination) == size and atomic.sha256(destination) == sha256
