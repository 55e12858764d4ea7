import threading
import time
from pathlib import Path

import peewee
import pytest
from playhouse import migrations

from daemon.catalogue import Catalogue, Queue, database
from daemon.catalogue.database import Catalogue as Database
from daemon.catalogue.schema import MODELS, Image
from daemon.catalogue.search import ImageQuery, Search
from daemon.catalogue.settings import Settings
from daemon.errors import EnvironmentFault
from daemon.files.walk import Found
from tests.support import Room


def test_the_models_and_the_migrations_agree(room: Room) -> None:
    with room.catalogue.session():
        for model in MODELS:
            table = model._meta.table_name
            columns = {row.name for row in model._meta.database.get_columns(table)}
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


def test_photos_of_an_older_catalogue_are_found_by_their_number(tmp_path: Path) -> None:
    file = tmp_path / "darkroom.db"
    older = peewee.SqliteDatabase(str(file))
    migrations.Runner(older, str(Path(database.__file__).parent / "migrations")).up("0005_operations")
    with older.bind_ctx([Image]):
        Image.create(status="done", original_name="DSC01234.jpg", created_at=1, not_before=1)
    older.close()
    found = Search(Database(file)).page(ImageQuery(text="1234"), 10)
    assert [row["original_name"] for row in found] == ["DSC01234.jpg"]


def test_enqueue_is_idempotent_and_tells_what_is_new(room: Room) -> None:
    files = [Found("a.jpg", 1, 1), Found("b.jpg", 1, 1)]
    assert room.queue.enqueue(files, 1.0) == ["a.jpg", "b.jpg"]
    assert room.queue.enqueue(files, 2.0) == []
    assert room.queue.enqueue([Found("b.jpg", 2, 1), Found("c.jpg", 1, 1)], 3.0) == ["b.jpg", "c.jpg"]
    assert [row["path"] for row in room.rows()] == ["a.jpg", "b.jpg", "c.jpg"]
    assert room.kinds(3) == ["queued"]
    assert room.statistics.history(3)[0]["detail"] == "found in the inbox as c.jpg"


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
    room.queue.postpone(job, "open for writing", 100.0, 3.0)
    assert room.queue.next_due() == 3.0, "it has changed since: look at once"


def test_a_rename_keeps_the_row(room: Room) -> None:
    room.queue.enqueue([Found("a.jpg", 1, 1), Found("c.jpg", 1, 1)], 1.0)
    room.queue.rename("a.jpg", "b.jpg")
    room.queue.rename("b.jpg", "c.jpg")
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


def test_memory_keeps_json(room: Room) -> None:
    stored = Settings(room.catalogue)
    stored.set("a", {"b": [1, None]})
    assert stored.get("a") == {"b": [1, None]}
    stored.set("a", None)
    assert stored.get("a") is None


def test_what_is_no_database_is_a_fault_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "darkroom.db").write_bytes(b"no database" * 1000)
    with pytest.raises(EnvironmentFault, match="not a database"):
        Catalogue(tmp_path / "darkroom.db")


def test_fifty_thousand_files_in_flat_memory(room: Room) -> None:
    """The memory of the enqueueing process must not grow with the inbox; half is enough to see that."""
    import resource

    queue = Queue(room.catalogue)
    peaks = []
    for batch in range(12):
        queue.enqueue([Found(f"{batch}/{n}.jpg", 1, 1) for n in range(1000)], 1.0)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[-1] - peaks[2] < 20_000, peaks
