import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from peewee import Model

from daemon.catalogue import Catalogue, ImageEvent, Queue, schema
from daemon.catalogue.database import CURRENT
from daemon.catalogue.database import Catalogue as Database
from daemon.catalogue.history import History, sentence
from daemon.catalogue.schema import Cause, EventKind, Facts
from daemon.catalogue.search import ImageQuery, Search
from daemon.catalogue.settings import Settings
from daemon.errors import ConfigError, EnvironmentFault, Postponed, WaitingReason
from daemon.files.walk import Found
from tests.program import darkroom
from tests.support import Room


def _is_table(value: object) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, Model)
        and not value.__name__.startswith("_")
        and value is not Model
    )


def test_the_models_and_the_schema_agree(room: Room) -> None:
    with room.catalogue.session():
        tables: list[type[Model]] = [model for model in vars(schema).values() if _is_table(model)]
        for model in tables:
            table = model._meta.table_name
            columns = {row.name for row in CURRENT.get_columns(table)}
            assert columns == set(model._meta.columns), table


def test_a_second_process_finds_the_schema_made(tmp_path: Path) -> None:
    file = tmp_path / "darkroom.db"
    results: list[str] = []

    def open_it() -> None:
        catalogue = Database(file)
        results.append(catalogue.check())

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["ok"] * 4


@pytest.mark.parametrize("version", [0, 1, 99])
def test_a_catalogue_of_another_version_is_refused(tmp_path: Path, version: int) -> None:
    file = tmp_path / "darkroom.db"
    other = sqlite3.connect(file)
    other.executescript(f"CREATE TABLE image (id INTEGER PRIMARY KEY); PRAGMA user_version = {version}")
    other.close()
    with pytest.raises(ConfigError, match="darkroom rebuild"):
        Catalogue(file)
    with closing(sqlite3.connect(file)) as database:
        assert [name for (name,) in database.execute("SELECT name FROM sqlite_master")] == ["image"]
        assert database.execute("PRAGMA user_version").fetchone() == (version,)


@pytest.mark.slow
def test_the_commands_say_what_to_do_with_another_version(tmp_path: Path) -> None:
    file = tmp_path / "state/darkroom.db"
    file.parent.mkdir()
    Catalogue(file).close()
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 7")
    for command in (["run", "--once"], ["list"], ["status"]):
        answer = darkroom(tmp_path, *command)
        assert answer.returncode == 2
        assert "of version 7" in answer.stderr
        assert "darkroom rebuild" in answer.stderr
        assert "Traceback" not in answer.stderr


def test_two_catalogues_in_one_process_do_not_mix(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = Catalogue(tmp_path / "one/darkroom.db")
    first = Queue(one)
    first.enqueue([Found("a.jpg", 1, 1)], 1.0)
    two = Catalogue(tmp_path / "two/darkroom.db")
    second = Queue(two)
    second.enqueue([Found("b.jpg", 1, 1), Found("c.jpg", 1, 1)], 1.0)
    first.enqueue([Found("d.jpg", 1, 1)], 1.0)
    with one.session(), two.session():
        assert [row.path for row in Search(one).page(ImageQuery(), 10)] == ["d.jpg", "a.jpg"]
        assert [row.path for row in Search(two).page(ImageQuery(), 10)] == ["c.jpg", "b.jpg"]
        with one.writing():
            assert Search(two).image(1) is not None
        assert History(one).last() == 2


def test_a_second_catalogue_in_another_thread_does_not_mix(tmp_path: Path) -> None:
    catalogues = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        catalogues.append(Catalogue(tmp_path / name / "darkroom.db"))

    def fill(catalogue: Catalogue, prefix: str) -> None:
        queue = Queue(catalogue)
        for n in range(50):
            queue.enqueue([Found(f"{prefix}{n}.jpg", 1, 1)], 1.0)

    threads = [threading.Thread(target=fill, args=(one, name)) for one, name in zip(catalogues, "ab", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, name in zip(catalogues, "ab", strict=True):
        rows = Search(one).page(ImageQuery(), 100)
        assert {str(row.path)[0] for row in rows} == {name}
        assert len(rows) == 50


def test_every_kind_of_event_has_words(room: Room) -> None:
    for kind in EventKind:
        event = ImageEvent(1.0, kind, place="library", path="a.jpg", other_id=2, text="some text")
        words = sentence(event)
        assert words
        assert "None" not in words
    for cause in (Cause.FOUND, Cause.UPLOADED, Cause.CHANGED, Cause.ASKED):
        assert sentence(ImageEvent(1.0, EventKind.QUEUED, cause, path="a.jpg"))
    for reason in WaitingReason:
        assert sentence(ImageEvent(1.0, EventKind.POSTPONED, reason, text="2")) == reason.sentence("2")


def test_enqueue_is_idempotent_and_tells_what_is_new(room: Room) -> None:
    files = [Found("a.jpg", 1, 1), Found("b.jpg", 1, 1)]
    assert room.queue.enqueue(files, 1.0) == ["a.jpg", "b.jpg"]
    assert room.queue.enqueue(files, 2.0) == []
    assert room.queue.enqueue([Found("b.jpg", 2, 1), Found("c.jpg", 1, 1)], 3.0) == ["b.jpg", "c.jpg"]
    assert [row["path"] for row in room.rows()] == ["a.jpg", "b.jpg", "c.jpg"]
    assert room.kinds(3) == ["queued"]
    assert room.history(3)[0]["detail"] == "found in the inbox as c.jpg"


def test_names_that_are_no_text_are_told_apart_and_come_back(room: Room) -> None:
    names = ["\udcff.jpg", "\\xff.jpg", "ÿ.jpg"]
    room.queue.enqueue([Found(name, 1, 1) for name in names], 1.0)
    assert [row["path"] for row in room.rows()] == names
    assert room.queue.enqueue([Found(name, 1, 1) for name in names], 1.0) == []


def test_many_threads_claim_each_row_once(room: Room) -> None:
    room.queue.enqueue([Found(f"{n}.jpg", 1, 1) for n in range(60)], 1.0)
    claimed: list[int] = []

    def claim() -> None:
        while (job := room.queue.claim(2.0)) is not None:
            claimed.append(job.id)

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 61))


def test_an_event_while_a_file_is_worked_on_is_not_lost(room: Room) -> None:
    room.queue.enqueue([Found("a.jpg", 1, 1)], 1.0)
    job = room.queue.claim(1.0)
    assert job is not None
    room.queue.enqueue([Found("a.jpg", 2, 2)], 2.0)
    room.queue.postpone(job, Postponed(WaitingReason.WRITER, 100.0), 3.0)
    assert room.queue.next_due() == 3.0, "it has changed since: look at once"


def test_a_rename_keeps_the_row(room: Room) -> None:
    room.queue.enqueue([Found("a.jpg", 1, 1), Found("c.jpg", 1, 1)], 1.0)
    room.queue.rename("a.jpg", "b.jpg", time.time())
    room.queue.rename("b.jpg", "c.jpg", time.time())
    assert [(row["id"], row["path"]) for row in room.rows()] == [(1, "b.jpg"), (2, "c.jpg")]


def test_ids_are_never_given_twice(room: Room) -> None:
    room.queue.enqueue([Found("a.jpg", 1, 1)], 1.0)
    job = room.queue.claim(1.0)
    assert job is not None
    room.queue.withdraw(job, 1.0)
    room.queue.enqueue([Found("a.jpg", 1, 1)], 1.0)
    assert room.row()["id"] == 2


def test_the_counts_are_those_of_the_rows(room: Room) -> None:
    for n in range(4):
        room.put(f"{n}.jpg", bytes([n]))
    room.put("again.jpg", bytes([0]))
    room.drain()
    stats = room.statistics.stats(time.time())
    assert stats.counts == {"queued": 0, "processing": 0, "done": 4, "duplicate": 1, "failed": 0}
    assert stats.total == 5
    assert stats.rate > 0
    assert stats.seconds_left == 0
    assert stats.avg_processing_time_ms is not None


def test_settings_keep_json(room: Room) -> None:
    stored = Settings(room.catalogue)
    stored.set("a", {"b": [1, None]})
    assert stored.get("a") == {"b": [1, None]}
    stored.set("a", None)
    assert stored.get("a") is None


def test_what_is_no_database_is_a_fault_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "darkroom.db").write_bytes(b"no database" * 1000)
    with pytest.raises(EnvironmentFault, match="not a database"):
        Catalogue(tmp_path / "darkroom.db")


@pytest.mark.slow
def test_fifty_thousand_files_in_flat_memory(room: Room) -> None:
    """The memory of the enqueueing process must not grow with the inbox; half is enough to see that."""
    import resource

    queue = Queue(room.catalogue)
    peaks = []
    for batch in range(12):
        queue.enqueue([Found(f"{batch}/{n}.jpg", 1, 1) for n in range(1000)], 1.0)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[-1] - peaks[2] < 20_000, peaks


def test_a_second_plan_says_nothing_of_the_bytes_of_the_first(room: Room) -> None:
    room.put("a.jpg", b"1")
    room.scan()
    now = time.time()
    job = room.queue.claim(now)
    assert job is not None
    first = Facts(
        "s1", 1, "JPEG", 4, 3, warning="may be damaged", lat=1.0, lon=2.0, camera_make="Canon", duplicate_of=9
    )
    assert room.queue.plan(job, "duplicates", "a.jpg", first)
    room.queue.postpone(job, Postponed(WaitingReason.CHANGED, 0, "filed"), now)
    again = room.queue.claim(now)
    assert again is not None
    assert room.queue.plan(again, "library", "a.jpg", Facts("s2", 2, "JPEG", 4, 3, companion_of=5))
    row = room.columns()
    assert (row["sha256"], row["warning"], row["lat"], row["camera_make"]) == ("s2", None, None, None)
    assert (row["duplicate_of"], row["companion_of"]) == (None, 5)
    assert room.queue.plan(again, "failed", "a.jpg", Facts(error="no photo"))
    # Of bytes that could not be decoded there is nothing new to say.
    row = room.columns()
    assert (row["sha256"], row["width"], row["companion_of"], row["error"]) == ("s2", 4, None, "no photo")
