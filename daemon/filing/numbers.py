"""Which number to try next behind a name that many files have had, so that ten thousand take linear time."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import PurePosixPath

_TRIES = 1_000_000
_REMEMBERED = 10_000


class Numbers:
    """The numbers that were used by this process; another process's are found by trying, once."""

    def __init__(self) -> None:
        self._next: OrderedDict[tuple[str, PurePosixPath], int] = OrderedDict()

    def untried(self, place: str, wanted: PurePosixPath) -> Iterator[int]:
        """Yield 0, since the plain name may be free again, and then the numbers that were not used yet."""
        yield 0
        yield from range(self._next.get((place, wanted), 1), _TRIES)

    def took(self, place: str, wanted: PurePosixPath, number: int) -> None:
        """Note that a number is used now."""
        if number == 0:
            return
        self._next[place, wanted] = number + 1
        self._next.move_to_end((place, wanted))
        if len(self._next) > _REMEMBERED:
            self._next.popitem(last=False)
