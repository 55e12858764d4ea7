"""How long a client that has sent wrong tokens must wait before the next is looked at, and the line about each.

Nobody waits on an open connection for it: within its time an address is refused at once, whatever token it sends. Were
a right one let in meanwhile, guessing would cost no time. All clients behind one address wait together, so a proxy in
between has to be known as one (`[web] trusted_proxies`).
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass

from web.clients import neighbourhood

_log = logging.getLogger(__name__)

# Mistyped, or a program that was not told of a new token yet.
_FREE = 3
_FIRST_SECONDS, _LONGEST_SECONDS = 1.0, 60.0
# After an hour without a wrong one an address is like any other.
_FORGET_SECONDS = 3600.0
# At most so many addresses are known at a time, about 1 MB; those that were wrong longest ago go first.
_MOST = 4096
# What is logged in a minute, by all addresses together: for fail2ban, and not to fill the disk.
_LINES, _LINES_SECONDS = 60, 60.0


@dataclass
class _Record:
    wrong: int = 0
    until: float = 0.0
    last: float = 0.0


class WrongTokens:
    """The wrong tokens by address; on the event loop's thread. `now` is a monotonic time in seconds."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._lines = 0
        self._unsaid = 0
        self._since = 0.0

    def wait(self, address: str, now: float) -> float:
        """Return for how many seconds no token from an address is looked at; 0 where the next one is."""
        record = self._records.get(neighbourhood(address))
        return 0.0 if record is None else max(0.0, record.until - now)

    def add(self, address: str, now: float) -> None:
        """Note a wrong token, and log it."""
        key = neighbourhood(address)
        record = self._records.setdefault(key, _Record())
        if now - record.last > _FORGET_SECONDS:
            record.wrong = 0
        record.wrong += 1
        record.last = now
        if record.wrong > _FREE:
            doublings = min(record.wrong - _FREE - 1, 20)
            record.until = now + min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0**doublings)
        self._records.move_to_end(key)
        if len(self._records) > _MOST:
            self._records.popitem(last=False)
        self._say(address, now)

    def _say(self, address: str, now: float) -> None:
        if now - self._since >= _LINES_SECONDS:
            if self._unsaid:
                _log.warning("%d more wrong tokens, of which nothing was logged", self._unsaid)
            self._lines, self._unsaid, self._since = 0, 0, now
        if self._lines >= _LINES:
            self._unsaid += 1
            return
        self._lines += 1
        # Read by fail2ban; the README has the pattern, and nothing in the line is of the client's choice.
        _log.warning("wrong token from %s", address or "unknown")
