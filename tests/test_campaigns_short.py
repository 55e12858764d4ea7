"""The campaigns in their short form; the whole is `python -m tests.campaigns all`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.campaigns import (
    accounts,
    cards,
    clients,
    disks,
    faults,
    kill,
    neighbours,
    poison,
    power,
    program,
    random_kills,
    restarts,
    trouble,
    two,
    uploads,
    writers,
)
from tests.campaigns.acts import ACTS, OWNERS
from tests.campaigns.check import drained
from tests.campaigns.stage import Stage, has_second_filesystem, temporary_stage

pytestmark = pytest.mark.slow

traced = pytest.mark.skipif(not program.has_strace(), reason="needs strace and the right to trace")
two_filesystems = pytest.mark.skipif(not has_second_filesystem(), reason="needs /dev/shm as another filesystem")


@traced
@pytest.mark.parametrize("name", ["a photo", pytest.param("a photo to another filesystem", marks=two_filesystems)])
def test_killed_at_chosen_calls_nothing_is_lost(name: str) -> None:
    tally = kill.each(ACTS[name], thin=True, every=13)
    assert tally.problems == []
    assert tally.kills >= 2


@traced
@pytest.mark.parametrize("name", ["throwing away", "restoring", "following the owner", "adopting", "refiling"])
def test_killed_in_what_the_owner_wants_nothing_is_lost(name: str) -> None:
    tally = kill.each(OWNERS[name], thin=True, every=13)
    assert tally.problems == []
    assert tally.kills >= 2


@traced
def test_killed_in_the_restart_after_a_kill_nothing_is_lost() -> None:
    tally = restarts.each(ACTS["a duplicate, deleted"], wrecked=5, every=12)
    assert tally.problems == []
    assert tally.kills >= 1


@traced
def test_killed_while_it_takes_an_upload_nothing_is_lost() -> None:
    tally = uploads.each(every=90)
    assert tally.problems == []
    assert tally.kills >= 1


@traced
@pytest.mark.parametrize(
    "name",
    ["the first photo of all", pytest.param("no image to another filesystem", marks=two_filesystems)],
)
def test_nothing_is_removed_or_shown_before_what_must_be_durable_is(name: str) -> None:
    tally = power.order(ACTS[name])
    assert tally.problems == []
    assert tally.points > 50


@traced
def test_the_power_may_fail() -> None:
    tally = power.cut(ACTS["taking a photo back"], every=9)
    assert tally.problems == []
    assert tally.points >= 2


@traced
def test_chosen_calls_may_fail() -> None:
    tally = faults.each(ACTS["a photo"], ["EIO", "ENOSPC"], every=30, lasting=False)
    assert tally.problems == []
    assert tally.points >= 2


@pytest.mark.parametrize("make", [disks.nearly_full, disks.read_only, disks.unmounted])
def test_troubles_pause_and_pass(make: Callable[[Stage], None]) -> None:
    tally, skipped = trouble.play(make)
    if skipped:
        pytest.skip(skipped)
    assert tally.problems == []


def test_kills_at_random_instants_lose_nothing() -> None:
    tally = random_kills.play(2)
    assert (tally.problems, tally.kills) == ([], 2)


def test_poison_harms_nothing_else() -> None:
    figures = poison.play(50)
    assert figures.tally.problems == []
    assert figures.good == 1


def test_decoders_that_misbehave_cost_their_image_alone() -> None:
    assert poison.decoders().problems == []


def test_a_second_program_refuses_to_start() -> None:
    assert two.play().problems == []


@pytest.mark.skipif(not writers.has_leases(), reason="needs leases")
@pytest.mark.parametrize("kind", writers.KINDS)
@pytest.mark.parametrize("across", [False, pytest.param(True, marks=two_filesystems)])
def test_writers_that_come_while_a_photo_leaves_lose_nothing(across: bool, kind: str) -> None:
    tally = writers.play(10, across=across, kind=kind)
    assert tally.problems == []
    assert tally.points == 10


@pytest.mark.parametrize("part", neighbours.PARTS)
def test_a_neighbour_comes_by_nothing_and_spoils_nothing(part: str) -> None:
    if why := accounts.why_not():
        pytest.skip(why)
    tally = neighbours.PARTS[part](True)
    assert tally.problems == []
    assert tally.points >= 8


@pytest.fixture(scope="module")
def photos() -> Iterator[Path]:
    with clients.photos(10) as folder:
        yield folder


@pytest.mark.parametrize("name", clients.SHORT)
def test_what_real_clients_bring_is_filed_once_and_whole(name: str, photos: Path) -> None:
    if why := clients.CLIENTS[name].why_not():
        pytest.skip(why)
    outcome = clients.play(name, photos)
    assert outcome.tally.problems == []
    assert outcome.right == 10


@pytest.mark.parametrize("served", [False, True])
def test_the_receipt_of_a_card_is_true_however_often_it_is_killed(served: bool) -> None:
    tally = cards.play(3, 60, served=served)
    assert (tally.problems, tally.points) == ([], 60)


def test_the_check_itself_sees_what_is_wrong() -> None:
    with temporary_stage() as stage:
        stage.put("a.jpg", b"a")
        program.run(stage.base, "run", "--once")
        assert any("good image, but in failed" in fault for fault in drained(stage))
        stage.bad = set(stage.must)
        assert drained(stage) == []
        failed = stage.folder("failed") / "a.jpg"
        failed.rename(failed.with_name("b.jpg"))
        faults = drained(stage)
        assert any("failed/b.jpg has 0 rows" in fault for fault in faults)
        assert any("holds None" in fault for fault in faults)
        (failed.with_name("b.jpg")).unlink()
        (stage.inbox / ".darkroom-1.part").touch()
        faults = drained(stage)
        assert any("came out 0 times" in fault for fault in faults)
        assert any("temporary name" in fault for fault in faults)
