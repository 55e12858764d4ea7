"""What `undo` moved out, or another machine's library, comes back through the inbox as what it was."""

import shutil
import time
from pathlib import Path

import pytest

from daemon.captions.settings import CaptionSettings
from daemon.catalogue.captions import CaptionOrigin, Words
from daemon.catalogue.schema import Image
from daemon.commands.undo import Undo
from tests.captions.darkroom import FullRoom
from tests.support import Room, jpeg, slow, tree

XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>
"""
ORIGIN = CaptionOrigin("gemini-flash-lite-latest", "12345678", 1290, 50)


def drain(room: Room) -> None:
    """File all that there is, however long it would wait for its photo."""
    for seconds in (0, 60, 120):
        room.drain(time.time() + seconds)


def out(room: Room, to: Path) -> None:
    undo = Undo(room.catalogue, room.app.mover)
    for row in room.rows():
        undo.out(row["id"], to)


def put_back(room: Room, source: Path, *, sidecars_first: bool = False) -> None:
    """Move all files into the inbox, the sidecars before or behind the photos."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: (path.suffix == ".xmp") != sidecars_first):
        target = room.inbox / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
        room.drain()
    drain(room)


@pytest.mark.parametrize("sidecars_first", [False, slow(True)])
def test_ten_times_out_and_back_it_is_the_same(full: FullRoom, tmp_path: Path, sidecars_first: bool) -> None:
    (tmp_path / "out").mkdir()
    photos = {"trip/a.jpg": jpeg(), "trip/a.xmp": XMP, "b.jpg": jpeg(seed=2), "c.jpg": jpeg(seed=3)}
    for name, content in photos.items():
        full.put(name, content)
        full.drain()
    drain(full)
    by_name = {str(row["original_name"]): int(row["id"]) for row in full.rows()}
    full.captions.fill_in([by_name["b.jpg"]])
    words = Words("By a model", ("lake",))
    assert full.captions.store(by_name["b.jpg"], words, ORIGIN, "0" * 64, time.time())
    full.captions.edit(by_name["c.jpg"], time.time(), caption="Mine", title="A title", rating=3)
    full.caption()
    kept = ("id", "caption", "keywords", "title", "rating", "caption_model", "edited", "folder", "original_name")
    before = [{name: row[name] for name in kept} for row in full.rows()]
    files = sorted(tree(full.library))
    for _ in range(10):
        out(full, tmp_path / "out")
        assert tree(full.library) == {}
        put_back(full, tmp_path / "out", sidecars_first=sidecars_first)
        assert sorted(tree(full.library)) == files
        assert tree(full.inbox) == tree(full.failed) == tree(full.duplicates) == {}
        now = [{name: row[name] for name in kept} for row in full.rows()]
        assert now == before
        full.caption()
    assert full.kinds(by_name["b.jpg"]).count("undone") == 10
    for number in by_name.values():
        said = [event["detail"] for event in full.history(number) if event["event"] == "given back"]
        assert said == [f"its sidecar gave back what was known of it as image {number}"] * 10
    assert full.app.follower.follow().changes == 0


def test_a_whole_library_through_the_inbox_of_a_new_machine(full: FullRoom, tmp_path: Path) -> None:
    for number in range(12):
        full.put(f"{number}.jpg", jpeg(seed=number))
        full.drain()
        full.captions.edit(number + 1, time.time(), caption=f"Photo {number}", rating=number % 6)
    full.caption()
    before = {row["id"]: (row["sha256"], row["caption"], row["rating"], row["edited"]) for row in full.rows()}
    other = FullRoom(tmp_path / "other")
    # All at once, in any order, under ids that are others' until each has its own again.
    shutil.copytree(full.library, other.inbox, dirs_exist_ok=True)
    drain(other)
    assert {row["id"]: (row["sha256"], row["caption"], row["rating"], row["edited"]) for row in other.rows()} == before
    assert sorted(Path(name).name for name in tree(other.library)) == sorted(
        Path(name).name for name in tree(full.library)
    )
    assert tree(other.inbox) == tree(other.failed) == {}
    assert other.kinds(3).count("queued") == 2, "what it had been through is its history, too"
    assert other.queue.next_due() is None
    with other.catalogue.session():
        assert other.catalogue.check() == "ok"
    other.close()


def test_an_id_that_is_an_older_images_is_not_taken(full: FullRoom, tmp_path: Path) -> None:
    full.put("a.jpg", jpeg())
    full.drain()
    full.captions.edit(1, time.time(), caption="Mine")
    full.caption()
    other = FullRoom(tmp_path / "other")
    other.put("old.jpg", jpeg(seed=5))
    other.drain(time.time())
    with other.catalogue.writing():
        Image.update(created_at=time.time() - 86400).execute()
    shutil.copytree(full.library, other.inbox, dirs_exist_ok=True)
    drain(other)
    rows = {row["original_name"]: row for row in other.rows()}
    assert rows["old.jpg"]["id"] == 1
    assert (rows["a.jpg"]["caption"], rows["a.jpg"]["edited"]) == ("Mine", "caption")
    other.close()


@pytest.mark.parametrize("how", ["moved out", "from another machine", "edited", "deleted"])
def test_what_was_private_once_stays_here_wherever_it_comes_back(tmp_path: Path, how: str) -> None:
    settings = CaptionSettings(key="a key", private=("Secret",))
    again = '[filing]\ndeleted = "file again"\n'
    room = FullRoom(tmp_path / "room", again, settings=settings)
    room.put("Secret/a.jpg", photo := jpeg())
    room.put("b.jpg", jpeg(seed=2))
    drain(room)
    by_name = {row["original_name"]: row for row in room.rows()}
    assert [by_name[name]["caption_status"] for name in ("a.jpg", "b.jpg")] == ["private", "pending"]
    secret, path = by_name["a.jpg"]["id"], room.library / by_name["a.jpg"]["destination"]
    # A person's words make no secret of it less private.
    room.captions.edit(secret, time.time(), caption="Mine")
    room.sidecars.write(secret)
    target = room
    match how:
        case "moved out":
            (tmp_path / "out").mkdir()
            out(room, tmp_path / "out")
            for name in ("Secret/a.jpg", "b.jpg"):
                shutil.move(tmp_path / "out" / name, room.inbox)
        case "from another machine":
            target = FullRoom(tmp_path / "other", settings=settings)
            for name in (f"{path.name}.xmp", path.name):
                shutil.copy(path.with_name(name), target.inbox)
        case "edited":
            path.write_bytes(jpeg((80, 60), seed=9))
            room.app.follower.follow()
            room.put("a.jpg", photo)
        case "deleted":
            path.unlink()
            room.app.follower.follow()
            room.put("a.jpg", photo)
    target.drain()
    newest = max((row for row in target.rows() if row["original_name"] == "a.jpg"), key=lambda row: row["created_at"])
    # A person's words come back as such: what counts is that no model is asked.
    assert newest["caption_status"] in {"private", "done"}
    if how == "moved out":
        [other] = [row for row in target.rows() if row["original_name"] == "b.jpg"]
        assert other["caption_status"] == "pending"
    target.close()
    if target is not room:
        room.close()
