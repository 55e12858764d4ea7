"""Knows which time zone holds at a place: by tzfpy's borders, in a process of its own that ends when nobody asks.

tzfpy needs 35 MB and a third of a second before its first answer, and gives neither back. A photo with a place is
asked about in a moment, thousands of them in a row; between the batches nothing of it is in memory. This file is also
the program of that process: it reads "longitude latitude" and writes the zone's name, a line each.
"""

import logging
import selectors
import subprocess
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 20.0
_IDLE_SECONDS = 60.0
# tzfpy's borders are true to about 100 m (its README), which three decimals of a degree are.
_DECIMALS = 3
_KEPT = 4096


class ZoneFinder:
    """Answers which zone a place is in; used by one thread. The next question behind `close` starts a process anew."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._ending: Callable[[], object] | None = None
        self._asked = 0.0
        self._known: OrderedDict[tuple[float, float], str | None] = OrderedDict()

    def name(self, lat: float, lon: float) -> str | None:
        """Return the zone's name in the tz database, at sea "Etc/GMT+2" and the like; None where it isn't known."""
        place = round(lat, _DECIMALS), round(lon, _DECIMALS)
        if place not in self._known:
            answer = self._ask(*place)
            if answer is None:
                return None  # what is out of order now may be well with the next photo
            self._known[place] = answer or None
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[place]

    def rest(self, now: float) -> None:
        """End the process where nobody has asked for a minute; `now` is in seconds since 1970."""
        if self._process is None:
            return
        if not self._asked:
            self._asked = now
        elif now - self._asked > _IDLE_SECONDS:
            self.close()

    def close(self) -> None:
        """End the process."""
        self._process = None
        if self._ending is not None:
            self._ending()

    def _ask(self, lat: float, lon: float) -> str | None:
        """Return the answer, "" for no zone; None where there is none to be had."""
        self._asked = 0.0
        try:
            process = self._process or self._start()
            if process.stdin is None or process.stdout is None:
                return None
            process.stdin.write(f"{lon} {lat}\n")
            process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                line = process.stdout.readline() if selector.select(_ANSWER_SECONDS) else ""
        except OSError as error:
            line, reason = "", str(error)
        else:
            reason = "no answer"
        if not line.endswith("\n"):
            _log.warning("time zones can't be looked up: %s; this machine's zone stands in", reason)
            self.close()
            return None
        return line.strip()

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(  # noqa: S603  # our own Python, and this very file
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Ctrl-C goes to the whole group, but the photo that is being filed is to be finished.
            start_new_session=True,
        )
        # Whoever forgets to close must not leave a process and its pipes behind; at the exit its input ends by itself.
        ending = weakref.finalize(self, _end, self._process)
        ending.atexit = False
        self._ending = ending
        return self._process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _main() -> None:
    """Answer until nobody is there to ask."""
    import tzfpy

    for line in sys.stdin:
        lon, lat = (float(part) for part in line.split())
        print(tzfpy.get_tz(lon, lat), flush=True)


if __name__ == "__main__":
    _main()
