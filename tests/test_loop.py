"""The supervised loop: nothing that a step raises ends it, and who asks is told the truth."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from daemon.errors import EnvironmentFault
from daemon.loop import Loop, LoopFault, Strikes, describe
from tests.faulty_program import KINDS
from tests.support import wait_until


@pytest.fixture
def running() -> Iterator[Callable[..., Loop]]:
    loops: list[Loop] = []

    def start(step: Callable[[], float], **options: object) -> Loop:
        loop = Loop("test", step, first_backoff=0.01, **options)  # type: ignore[arg-type]
        loops.append(loop)
        loop.start()
        return loop

    yield start
    for loop in loops:
        assert loop.stop(5)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_step_raises_the_loop_goes_on(
    running: Callable[..., Loop], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[float] = []
    ill = threading.Event()
    ill.set()

    def step() -> float:
        steps.append(time.monotonic())
        if ill.is_set():
            raise KINDS[kind]()
        return 0.01

    told: list[LoopFault | None] = []
    loop = running(step, report=told.append)
    wait_until(lambda: len(steps) > 3)
    assert loop.alive
    assert loop.fault is not None
    assert loop.fault.reason == describe(KINDS[kind]())
    assert loop.failures >= 3
    ill.clear()
    wait_until(lambda: loop.fault is None and len(told) == 2)
    assert loop.failures == 0
    assert [fault is None for fault in told] == [False, True], "each fault is told once, and its end"
    said = [record for record in caplog.records if record.name == "daemon.loop"]
    assert len(said) == 2, "each fault is logged once"
    assert bool(said[0].exc_info) is (kind not in {"disk", "share"}), "a traceback for what nobody foresaw alone"


def test_the_wait_after_a_failure_doubles_up_to_a_minute() -> None:
    loop = Loop("test", lambda: 0.0)
    waits = []
    for failures in range(1, 20):
        loop.failures = failures
        waits.append(loop.backoff())
    assert waits[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(waits[7:]) == {60.0}


def test_progress_is_made_while_steps_fail(running: Callable[..., Loop]) -> None:
    def step() -> float:
        raise ValueError("no")

    loop = running(step)
    before = loop.progress
    wait_until(lambda: loop.progress > before)


def test_a_stop_ends_the_wait_after_a_failure_too() -> None:
    def step() -> float:
        raise ValueError("no")

    loop = Loop("test", step, first_backoff=60)
    loop.start()
    wait_until(lambda: loop.fault is not None)
    began = time.monotonic()
    assert loop.stop(5)
    assert time.monotonic() - began < 2


def test_news_wakes_a_waiting_loop(running: Callable[..., Loop]) -> None:
    wake, steps = threading.Event(), []

    def step() -> float:
        steps.append(1)
        return 60.0

    running(step, wake=wake)
    wait_until(lambda: len(steps) == 1)
    wake.set()
    wait_until(lambda: len(steps) == 2)


def test_what_a_loop_needs_is_made_anew_after_a_failure(running: Callable[..., Loop]) -> None:
    entered: list[str] = []

    @contextmanager
    def within() -> Iterator[None]:
        entered.append("in")
        if len(entered) == 1:
            raise OSError("not yet")
        try:
            yield
        finally:
            entered.append("out")

    def step() -> float:
        if entered == ["in", "in"]:
            raise ValueError("no")
        return 60.0

    running(step, within=within)
    wait_until(lambda: entered == ["in", "in", "out", "in"])


def test_a_fault_that_can_not_be_stored_is_stored_later(running: Callable[..., Loop]) -> None:
    told: list[LoopFault | None] = []
    tries: list[int] = []

    def report(fault: LoopFault | None) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise EnvironmentFault("the database is locked")
        told.append(fault)

    def step() -> float:
        raise ValueError("no")

    running(step, report=report)
    wait_until(lambda: told)
    assert told[0] is not None
    assert "ValueError: no" in told[0].reason


def test_in_the_callers_thread_it_ends_when_all_is_done_or_nothing_helps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    steps: list[int] = []

    def step() -> float:
        steps.append(1)
        if len(steps) > 3:
            raise ValueError("no")
        return 0.0

    loop = Loop("test", step, first_backoff=0.01)
    loop.run(lambda: len(steps) == 2)
    assert len(steps) == 2
    loop.run(attempts=3)
    assert len(steps) == 6
    assert loop.failures == 3


def test_an_end_that_depends_on_the_time_is_asked_after_again_and_again() -> None:
    steps: list[float] = []
    loop = Loop("test", lambda: steps.append(time.monotonic()) or 600.0)  # type: ignore[func-returns-value]
    loop.run(lambda: time.monotonic() > steps[0] + 0.05, longest=0.01)
    assert len(steps) > 1


@pytest.mark.parametrize("wish", [KeyboardInterrupt, SystemExit])
def test_in_the_callers_thread_the_wish_to_end_is_no_fault(wish: type[BaseException]) -> None:
    def step() -> float:
        raise wish

    loop = Loop("test", step)
    with pytest.raises(wish):
        loop.run()
    assert loop.fault is None


def test_strikes_count_what_nobody_foresaw() -> None:
    strikes = Strikes()
    for error in (ValueError("one"), EnvironmentFault("a disk"), ValueError("two")):
        with pytest.raises(type(error)), strikes.counting(7):
            raise error
    assert (strikes.of(7), strikes.out(7)) == (2, False)
    with pytest.raises(KeyError), strikes.counting(7):
        raise KeyError("three")
    assert strikes.out(7)
    assert "KeyError: 'three'" in strikes.reason(7)
    assert not strikes.out(8)
    strikes.forget(7)
    assert (strikes.of(7), strikes.reason(7)) == (0, "")


def test_news_end_the_wait_and_none_are_asked_for_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.loop._NEWS_SECONDS", 0.01)
    monkeypatch.setattr("daemon.loop._SELDOM_SECONDS", 0.02)
    steps, news = [], [0]
    loop = Loop("news", lambda: steps.append(1) or 600.0, news=lambda: news[0])  # type: ignore[func-returns-value]
    loop.start()
    wait_until(lambda: loop._quiet > 20)
    assert len(steps) == 1
    news[0] = 1
    wait_until(lambda: len(steps) == 2)
    assert loop.stop(10)


def test_news_that_cant_be_had_are_the_steps_matter() -> None:
    def news() -> object:
        raise EnvironmentFault("the disk is gone")

    steps = []
    loop = Loop("news", lambda: steps.append(1) or 0.0, news=news)  # type: ignore[func-returns-value]
    loop.run(lambda: len(steps) == 3)
    assert (len(steps), loop.fault) == (3, None)
