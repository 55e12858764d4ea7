"""The connections of the server: how many, from whom, and for how long one may say nothing of use.

uvicorn has a deadline for a connection that is idle between two requests, and none for one that has not said what it
wants (Kludex/uvicorn#157); its limits count requests. A connection here is in one of these states:

    asking       no whole head of a request yet: 10 seconds, and the first to go where there are too many
    served       the app answers; how fast a body must come is the app's to say (web/uploads.py, web/app.py)
    not reading  what is written for it is not taken: 60 seconds
    sending on   answered, though its body is not complete: 10 seconds

Who comes when all places are taken gets that of the connection that has been asking longest, so that a health check
always gets in; then that of one that has not read or sent for some seconds; else none.
"""

import asyncio
import logging
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from daemon.phrases import counted
from web.clients import Proxies, is_loopback, neighbourhood

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
_PER_ADDRESS = 64
_HEAD_SECONDS, _REST_SECONDS, _READ_SECONDS = 10.0, 10.0, 60.0
# Who is served and has neither sent nor taken anything for so long may have to go for somebody else.
_STALLED_SECONDS = 5.0
_SAY_SECONDS = 60.0
# Files, children and the database must be opened, however many connections there are.
_RESERVE = 256


def raise_descriptor_limit() -> int:
    """Raise the number of descriptors that this process may have to all that it is allowed; return that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS names no limit and takes none
        return soft
    return hard


def places(descriptors: int) -> int:
    """Return how many connections there may be where so many descriptors are allowed (a negative number: any)."""
    return MAX_CONNECTIONS if descriptors < 0 else max(16, min(MAX_CONNECTIONS, descriptors - _RESERVE))


@dataclass
class Connections:
    """The connections of one server, all on its event loop.

    Those of this machine and of trusted proxies are not counted by address: many clients may stand behind one.
    """

    proxies: Proxies
    limit: int = MAX_CONNECTIONS
    per_address: int = _PER_ADDRESS
    open: dict["Connection", None] = field(default_factory=dict)
    _of_address: Counter[str] = field(default_factory=Counter)
    _ended: Counter[str] = field(default_factory=Counter)
    _said_at: float = float("-inf")

    def enter(self, connection: "Connection") -> bool:
        """Take a new connection in; return False where there is no place for it."""
        source = connection.source
        if source is not None and self._of_address[source] >= self.per_address:
            self._tell(f"refused: more than {self.per_address} from {source}")
            return False
        if len(self.open) >= self.limit:
            given_up = self._least_useful()
            if given_up is None:
                self._tell(f"refused: more than {self.limit} at once, and all of them busy")
                return False
            self._tell(f"ended: more than {self.limit} at once, and nothing came from them")
            given_up.end()
            self.leave(given_up)
        self.open[connection] = None
        if source is not None:
            self._of_address[source] += 1
        return True

    def leave(self, connection: "Connection") -> None:
        """Forget a connection that is lost or on its way out."""
        if connection in self.open:
            del self.open[connection]
            if connection.source is not None:
                self._of_address[connection.source] -= 1
                if not self._of_address[connection.source]:
                    del self._of_address[connection.source]

    def source(self, address: str) -> str | None:
        """Return by what the connections of a client are counted; None where they are not."""
        is_exempt = is_loopback(address) or self.proxies.trusts(address)
        return None if is_exempt else neighbourhood(address)

    def _least_useful(self) -> "Connection | None":
        # In the order in which they came.
        asking = next((one for one in self.open if one.is_asking), None)
        if asking is not None:
            return asking
        stalled = [one for one in self.open if one.stalled_seconds >= _STALLED_SECONDS]
        return max(stalled, key=lambda one: one.stalled_seconds, default=None)

    def _tell(self, what: str) -> None:
        """Log what is done to connections, in one line a minute however many they are."""
        self._ended[what] += 1
        now = time.monotonic()
        if now - self._said_at >= _SAY_SECONDS:
            told = "; ".join(f"{counted(count, 'connection')} {reason}" for reason, count in self._ended.items())
            _log.warning("web: %s", told)
            self._ended.clear()
            self._said_at = now


class Connection(H11Protocol):
    """One connection, with the deadlines that uvicorn's protocol lacks."""

    def __init__(self, pool: Connections, **server: Any) -> None:
        super().__init__(**server)
        self._pool = pool
        self.source: str | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._stalled_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in, or close it."""
        super().connection_made(transport)
        self.source = self._pool.source(self.client[0]) if self.client else None
        if self._pool.enter(self):
            self._set_deadline(_HEAD_SECONDS)
        else:
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give its place back."""
        self._pool.leave(self)
        for timer in (self._deadline, self._write_deadline):
            if timer is not None:
                timer.cancel()
        # Also for a connection that was reset: the timer would keep it for seconds more.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    @property
    def is_asking(self) -> bool:
        """Whether it has no request that is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def stalled_seconds(self) -> float:
        """For how long the client, and not the app, is who is waited for."""
        is_reading = self.flow.write_paused or not self.flow.read_paused
        return time.monotonic() - self._stalled_since if self._stalled_since is not None and is_reading else 0.0

    def data_received(self, data: bytes) -> None:
        """Pass on what has come; the head of a request must soon be complete."""
        if self.is_asking and self._deadline is None:
            self._set_deadline(_HEAD_SECONDS)
        super().data_received(data)
        self._stalled_since = time.monotonic() if not self.is_asking and self.cycle.more_body else None

    def handle_events(self) -> None:
        """Look at what has come; the deadline of a head ends with it."""
        super().handle_events()
        if not self.is_asking:
            self._set_deadline(None)

    def on_response_complete(self) -> None:
        """Wait for the next request; what is left of a refused body must soon be complete."""
        super().on_response_complete()
        if not self.is_asking or self.transport.is_closing():
            return
        self._stalled_since = None
        if self.conn.their_state is h11.SEND_BODY:
            # uvicorn's own deadline, for idle connections, goes with the next byte.
            self._set_deadline(_REST_SECONDS)

    def pause_writing(self) -> None:
        """Stop answering until the client reads, and give it a minute for that."""
        super().pause_writing()
        self._stalled_since = time.monotonic()
        self._write_deadline = self.loop.call_later(_READ_SECONDS, self.end)

    def resume_writing(self) -> None:
        """Go on answering."""
        super().resume_writing()
        self._stalled_since = None
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def end(self) -> None:
        """Close the connection at once, whatever is still to be written."""
        self.transport.abort()

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.end)
