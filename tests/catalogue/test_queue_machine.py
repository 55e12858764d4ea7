"""The queue and filing against anything that may happen, in any order, as Hypothesis thinks it up."""

import pkgutil
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daemon.app import roots
from daemon.errors import DarkroomError, EnvironmentFault, Postponed, Rejected, Transient, WaitingReason
from daemon.filing.consumer import Turn
from tests.campaigns.stage import SHM
from tests.support import Room, tree

NAMES = ("a.jpg", "b.jpg", "sub/a.jpg", "sub/deep/c.jpg")
# Where a crash strikes: before or after one of the steps of filing.
STEPS = (
    "daemon.filing.filing.Filing.place",
    "daemon.files.atomic.place",
    "daemon.filing.filing.Filing.record",
    "daemon.catalogue.queue.Queue.plan",
    "daemon.catalogue.queue.Queue.finish",
    "daemon.catalogue.queue.Queue.left",
    "daemon.catalogue.queue.Queue.claim",
    "daemon.filing.filing.Filing.leave",
    "daemon.files.atomic.fsync_folder",
    "daemon.filing.filing.write_reason",
    "daemon.filing.recovery.Requeue._place",
    "daemon.catalogue.queue.Queue.returned",
)
TROUBLES: tuple[Callable[[], DarkroomError], ...] = (
    lambda: Transient("crashed"),
    lambda: Rejected("no image"),
    lambda: EnvironmentFault("the disk is away"),
    lambda: Postponed(WaitingReason.WRITER, 1.0),
)


class Crash(BaseException):
    """The end of the process, as far as the code under it can tell."""


class Inbox(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="machine-", dir=SHM if SHM.is_dir() else None))
        self.room = self._room()
        self.now = time.time()
        self.kept: set[bytes] = set()
        self.made = 0
        self.restarts = 0

    def _room(self) -> Room:
        return Room(self.base / "room", "[inbox]\nsettle_seconds = 0.1\n[limits]\nmin_free_mb = 1\n")

    def teardown(self) -> None:
        if not hasattr(self, "room"):
            return
        try:
            self._drain()
            self._judge()
        finally:
            self.room.close()
            shutil.rmtree(self.base)

    @rule(name=st.sampled_from(NAMES), again=st.booleans())
    def put(self, name: str, again: bool) -> None:
        """Put a new file into the inbox, over what is there; or bytes that have been there before."""
        path = self.room.inbox / name
        if path.exists():
            self.kept.discard(path.read_bytes())
            path.unlink()
        self.made += not again
        content = b"%d" % self.made
        self.room.put(name, content)
        self.kept.add(content)
        self.room.scan()

    @rule(name=st.sampled_from(NAMES), trouble=st.sampled_from(TROUBLES), times=st.integers(1, 3))
    def trouble(self, name: str, trouble: Callable[[], DarkroomError], times: int) -> None:
        """Let the next attempts on a name go wrong."""
        self.room.decoder.errors[name.rpartition("/")[2]] = [trouble() for _ in range(times)]

    @rule(seconds=st.sampled_from([0.0, 0.2, 5.0, 90.0]))
    def turn(self, seconds: float) -> None:
        """Do one turn of the loop, some time later."""
        self.now += seconds
        self.room.consumer.run_once(self.now)

    @rule(seconds=st.sampled_from([2.0, 3600.0, 10.0**8]))
    def clock_set_back(self, seconds: float) -> None:
        """Go on at an earlier time."""
        self.now -= seconds
        self.room.consumer.run_once(self.now)

    @rule(step=st.sampled_from(STEPS), skip=st.integers(0, 2), before=st.booleans())
    def crash(self, step: str, skip: int, before: bool) -> None:
        """Die in the middle of a turn, and start anew."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, _dying(step, skip, before))
            try:
                self.now += 1
                self.room.consumer.run_once(self.now)
            except Crash:
                self.restart()

    @rule(
        step=st.sampled_from(["daemon.filing.recovery.Requeue._place", "daemon.catalogue.queue.Queue.returned"]),
        before=st.booleans(),
    )
    def crash_in_retry(self, step: str, before: bool) -> None:
        """Die while failed images are being queued again."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, _dying(step, 0, before))
            try:
                self.retry()
            except Crash:
                self.restart()

    @rule()
    def restart(self) -> None:
        """End and start, with whatever is half done."""
        self.room.close()
        self.restarts += 1
        self.room = self._room()
        self.room.recover()

    @rule()
    def retry(self) -> None:
        """Ask for all failed images again."""
        for image_id in self.room.queue.failures():
            self.room.requeue.retry(image_id)

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        """Delete a file of the inbox: how a user cancels."""
        path = self.room.inbox / name
        if path.exists():
            self.kept.discard(path.read_bytes())
            path.unlink()

    @rule(old=st.sampled_from(NAMES), new=st.sampled_from(NAMES), told=st.booleans())
    @precondition(lambda self: hasattr(self, "room"))
    def rename(self, old: str, new: str, told: bool) -> None:
        """Rename inside the inbox; the watcher tells of it, or does not."""
        source, target = self.room.inbox / old, self.room.inbox / new
        if not source.exists() or target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        if told:
            self.room.queue.rename(old, new, time.time())
        self.room.scan()

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "room"):
            there = {
                content
                for folder in (self.room.inbox, self.room.library, self.room.duplicates, self.room.failed)
                for content in tree(folder).values()
            }
            assert self.kept <= there

    @invariant()
    def no_path_and_no_place_has_two_rows(self) -> None:
        if hasattr(self, "room"):
            rows = self.room.rows()
            paths = Counter(row["path"] for row in rows if row["path"] is not None)
            places = Counter((row["place"], row["destination"]) for row in rows if row["destination"] is not None)
            assert {*paths.values(), *places.values()} <= {1}
            # A crash in the middle of an attempt counts; the one after the last only fails the image.
            assert all(0 <= int(str(row["attempts"])) <= 4 for row in rows)
            counts = Counter(row["status"] for row in rows)
            told = self.room.statistics.stats(0.0).counts
            assert {status: counts[status] for status in told} == told

    def _drain(self) -> None:
        self.room.decoder.errors.clear()
        for _ in range(200):
            turns = self.room.drain(self.now)
            due = self.room.queue.next_due()
            if due is None and turns == [Turn.IDLE]:
                return
            self.now = max(self.now, due or 0.0)
        raise AssertionError(f"never done: {self.room.rows()} {self.room.consumer.paused}")

    def _judge(self) -> None:
        """Every row has its file and every file its row; nothing is left in the inbox, nor a temporary name."""
        room = self.room
        assert tree(room.inbox) == {}
        held: dict[tuple[str, str], Any] = {}
        for place, folder in roots(room.config).items():
            held |= {(str(place), name): content for name, content in tree(folder.path).items()}
        originals = {key for key in held if not key[1].endswith((".reason.txt", ".xmp"))}
        assert {(row["place"], row["destination"]) for row in room.rows() if row["place"]} == originals
        assert not [name for _, name in held if ".darkroom-" in name]
        library = Counter(held[key] for key in originals if key[0] == "library")
        assert set(library.values()) <= {1}, "filed twice"


def _dying(step: str, skip: int, before: bool) -> Callable[..., object]:
    """Return a stand-in for a step that works as it does, but the process dies at its `skip`-th call."""
    module, _, name = step.rpartition(".")
    owner: Any = pkgutil.resolve_name(module)
    real, calls = getattr(owner, name), iter(range(skip + 1))

    def dying(*args: Any, **kwargs: Any) -> object:
        if next(calls, None) == skip:
            if not before:
                real(*args, **kwargs)
            raise Crash
        return real(*args, **kwargs)

    return dying


TestInbox = pytest.mark.slow(Inbox.TestCase)
TestInbox.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
