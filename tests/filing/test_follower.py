"""The catalogue follows what the owner edits, moves, deletes and brings back, and believes no lost disk."""

import errno
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.captions.settings import CaptionSettings
from daemon.catalogue.captions import CaptionOrigin, Words
from daemon.catalogue.search import Search
from daemon.commands.undo import Undo
from daemon.errors import Busy, EnvironmentFault, Rejected
from daemon.files import lock
from daemon.files.atomic import Root
from daemon.filing.follower import FollowLoop, FollowReport
from daemon.filing.removals import FILE, Removals
from tests.benchmarks.rows import fill
from tests.captions.darkroom import FullRoom
from tests.decoding.images import decode
from tests.support import Room, jpeg, tree, wait_until

FILED = "2024/05/a.jpg"


def file(room: FullRoom, *names: str) -> None:
    """File photos that differ."""
    for name in names:
        room.put(name, jpeg(seed=sum(map(ord, name))))
        room.drain()


def sync(room: FullRoom, *, adopt: bool = False, believe: bool = False) -> FollowReport:
    return room.app.follower.follow(adopt=adopt, believe=believe)


def where(room: FullRoom) -> dict[int, str]:
    return {row["id"]: row["destination"] for row in room.rows()}


def test_nothing_has_changed(full: FullRoom) -> None:
    file(full, "a.jpg", "b.jpg")
    before = tree(full.library)
    report = sync(full)
    assert (report.expected, report.changes, report.new, report.missing) == (2, 0, 0, 0)
    assert tree(full.library) == before


def test_an_edited_photo_keeps_its_id_its_caption_and_the_hash_it_was_filed_with(full: FullRoom) -> None:
    file(full, "a.jpg")
    full.captions.edit(1, time.time(), caption="My words")
    filed, before = full.columns(), (full.library / FILED).read_bytes()
    (full.library / FILED).write_bytes(jpeg((80, 60), seed=9))
    assert sync(full).edited == 1
    now = full.columns()
    assert (now["id"], now["status"], now["caption"]) == (1, "done", "My words")
    assert now["filed_sha256"] == filed["sha256"] != now["sha256"]
    assert now["size_bytes"] == (full.library / FILED).stat().st_size
    assert full.thumbnails.has(now["sha256"], "small")
    assert full.kinds()[-1] == "changed"
    assert sync(full).changes == 0, "its own sidecar is no news"
    # Edited back, nothing is left to say.
    (full.library / FILED).write_bytes(before)
    assert sync(full).edited == 1
    assert full.columns()["filed_sha256"] is None


def test_touched_alone_is_no_edit(full: FullRoom) -> None:
    file(full, "a.jpg")
    os.utime(full.library / FILED, (1, 1))
    assert sync(full).changes == 0
    assert full.columns()["mtime_ns"] == 10**9
    assert full.decoder.seen == ["a.jpg"], "it was hashed, and not decoded again"


def test_what_is_open_for_writing_is_left_for_later(full: FullRoom) -> None:
    file(full, "a.jpg")
    with (full.library / FILED).open("ab") as editor:
        editor.write(b"more")
        editor.flush()
        report = sync(full)
        assert (report.edited, [reason for _, reason in report.left]) == (0, ["it is being written to"])
    assert sync(full).edited == 1


@pytest.mark.parametrize("sidecar_too", [True, False])
def test_a_moved_photo_is_followed_and_so_is_its_sidecar(full: FullRoom, sidecar_too: bool) -> None:
    file(full, "a.jpg", "b.jpg")
    full.captions.edit(1, time.time(), title="A title")
    full.caption()
    album = full.library / "Album/Rome"
    album.mkdir(parents=True)
    subprocess.run(["mv", full.library / FILED, album / "first.jpg"], check=True)
    if sidecar_too:
        subprocess.run(["mv", full.library / f"{FILED}.xmp", album / "first.jpg.xmp"], check=True)
    report = sync(full)
    assert (report.moved, report.deleted, report.edited, report.new) == (1, 0, 0, 0)
    assert where(full) == {1: "Album/Rome/first.jpg", 2: "2024/05/b.jpg"}
    assert sorted(tree(full.library)) == [
        *("2024/05/b.jpg", "2024/05/b.jpg.xmp", "Album/Rome/first.jpg", "Album/Rome/first.jpg.xmp")
    ]
    assert full.kinds()[-1] == "moved"
    assert sync(full).changes == 0


def test_two_photos_that_changed_places_are_two_moves(full: FullRoom) -> None:
    file(full, "a.jpg", "b.jpg")
    folder = full.library / "2024/05"
    for old, new in (("a.jpg", "x"), ("b.jpg", "a.jpg"), ("x", "b.jpg")):
        (folder / old).rename(folder / new)
    assert sync(full).moved == 2
    assert where(full) == {1: "2024/05/b.jpg", 2: "2024/05/a.jpg"}


def test_a_photo_that_was_copied_over_another_is_moved_and_the_other_is_gone(full: FullRoom) -> None:
    file(full, "a.jpg", "b.jpg")
    (full.library / "2024/05/b.jpg").replace(full.library / FILED)
    report = sync(full)
    assert (report.moved, report.deleted) == (1, 1)
    assert where(full) == {2: FILED}
    assert full.columns(1)["status"] == "deleted"


def test_moved_and_edited_at_once_is_known_by_its_sidecar(full: FullRoom) -> None:
    file(full, "a.jpg")
    (full.library / "album").mkdir()
    for name in (FILED, f"{FILED}.xmp"):
        (full.library / name).rename(full.library / "album" / Path(name).name)
    (full.library / "album/a.jpg").write_bytes(jpeg((80, 60), seed=9))
    report = sync(full)
    assert (report.moved, report.edited, report.deleted) == (1, 1, 0)
    assert where(full) == {1: "album/a.jpg"}


def test_a_companion_that_was_moved_with_its_photo_is_followed(full: FullRoom) -> None:
    full.put("a.jpg", jpeg())
    full.put("a.aae", b"edits")
    for _ in range(3):
        full.drain(time.time() + 60)
    (full.library / "album").mkdir()
    for name in ("a.jpg", "a.aae"):
        (full.library / "2024/05" / name).rename(full.library / "album" / name)
    sync(full)
    assert list(full.beside()) == ["library/album/a.aae"]


@pytest.mark.parametrize(
    ("to", "beside"), [("album/a.jpg", "album/a.aae"), ("2024/05/x.jpg", "2024/05/x.aae"), ("b.jpg", "b.aae")]
)
def test_a_companion_that_stayed_behind_goes_after_its_photo(full: FullRoom, to: str, beside: str) -> None:
    full.put("a.jpg", jpeg())
    full.put("a.aae", b"edits")
    for _ in range(3):
        full.drain(time.time() + 60)
    (full.library / to).parent.mkdir(exist_ok=True)
    subprocess.run(["mv", full.library / FILED, full.library / to], check=True)
    assert sync(full).left == []
    assert list(full.beside()) == [f"library/{beside}"]
    assert sorted(tree(full.library)) == sorted([to, f"{to}.xmp", beside])
    assert sync(full).changes == 0
    # The companion alone is where its owner wants it.
    subprocess.run(["mv", full.library / beside, full.library / "elsewhere.aae"], check=True)
    for _ in range(2):
        sync(full)
        assert list(full.beside()) == ["library/elsewhere.aae"]


def test_a_companion_stays_behind_where_its_new_name_is_taken(full: FullRoom) -> None:
    full.put("a.jpg", jpeg())
    full.put("a.aae", b"edits")
    for _ in range(3):
        full.drain(time.time() + 60)
    (full.library / "album").mkdir()
    (full.library / "album/a.aae").write_bytes(b"others")
    (full.library / FILED).rename(full.library / "album/a.jpg")
    [(path, reason)] = sync(full).left
    assert (path, reason.startswith("it stays behind")) == ("2024/05/a.aae", True)
    assert list(full.beside()) == ["library/2024/05/a.aae"]
    assert (full.library / "album/a.aae").read_bytes() == b"others"


def test_deleted_is_out_of_lists_and_kept_in_history(full: FullRoom) -> None:
    file(full, "a.jpg", "b.jpg")
    sha256 = full.columns(1)["sha256"]
    (full.library / FILED).unlink()
    assert sync(full).deleted == 1
    assert list(where(full)) == [2]
    gone = full.columns(1)
    assert (gone["status"], gone["place"], gone["removed_from"]) == ("deleted", None, f"library/{FILED}")
    assert full.statistics.stats(time.time()).counts["deleted"] == 1
    assert full.kinds(1)[-1] == "deleted"
    assert Removals(Root(full.library)).read()[sha256].kind == "deleted"


def test_what_comes_back_is_the_same_image(full: FullRoom, tmp_path: Path) -> None:
    file(full, "a.jpg", "b.jpg")
    shutil.move(full.library / FILED, tmp_path / "kept.jpg")
    sync(full)
    shutil.move(tmp_path / "kept.jpg", full.library / "2024/05/again.jpg")
    assert sync(full).came_back == 1
    assert where(full) == {1: "2024/05/again.jpg", 2: "2024/05/b.jpg"}
    assert Removals(Root(full.library)).read() == {}
    assert full.kinds(1)[-2:] == ["deleted", "restored"]


@pytest.mark.parametrize("many", [20, 21])
def test_more_than_twenty_wait_until_somebody_says_that_it_is_true(full: FullRoom, many: int) -> None:
    file(full, *(f"{number}.jpg" for number in range(many + 5)))
    for number in range(many):
        (full.library / f"2024/05/{number}.jpg").unlink()
    report = sync(full)
    assert (report.deleted, report.missing) == ((many, 0) if many == 20 else (0, many))
    assert full.app.follower.shrunk == report.missing
    if report.missing:
        assert sync(full, believe=True).deleted == many
    assert full.app.follower.shrunk == 0
    assert len(where(full)) == 5


def test_a_folder_that_cant_be_read_is_unknown_and_not_empty(full: FullRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    file(full, "a.jpg", "b.jpg")
    (full.library / FILED).unlink()
    original = os.scandir

    def refuse(folder: Any) -> Any:
        if isinstance(folder, int) and os.readlink(f"/proc/self/fd/{folder}").endswith("/05"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    report = sync(full)
    assert (report.deleted, report.missing, report.unseen) == (0, 0, ("2024/05/",))
    monkeypatch.undo()
    assert sync(full).deleted == 1


def test_a_library_that_is_gone_is_no_empty_one(full: FullRoom, tmp_path: Path) -> None:
    file(full, "a.jpg")
    full.library.rename(tmp_path / "away")
    with pytest.raises(EnvironmentFault):
        sync(full)
    assert full.columns()["status"] == "done"


def test_a_disk_behind_a_link_that_is_away_is_no_empty_folder(full: FullRoom, tmp_path: Path) -> None:
    if not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == full.library.stat().st_dev:
        pytest.skip("needs two filesystems")
    disk = Path(f"/dev/shm/darkroom-follow-{os.getpid()}")
    disk.mkdir()
    try:
        (full.library / "2024").symlink_to(disk)
        file(full, "a.jpg", "b.jpg")
        assert sync(full).changes == 0
        (full.library / "2024").unlink()
        (full.library / "2024").symlink_to(tmp_path / "not mounted")
        (tmp_path / "not mounted").mkdir()
        report = sync(full)
        assert (report.deleted, report.missing, report.unseen) == (0, 0, ("2024/",))
        assert sync(full, believe=True).deleted == 2, "its owner says that they are gone"
    finally:
        shutil.rmtree(disk)


@pytest.mark.parametrize("what", ["library", "library/2024"])
def test_a_disk_that_goes_during_a_walk_deletes_nothing(full: FullRoom, tmp_path: Path, what: str) -> None:
    if not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == full.library.stat().st_dev:
        pytest.skip("needs two filesystems")
    disk = Path(f"/dev/shm/darkroom-during-{os.getpid()}")
    disk.mkdir()
    (tmp_path / "empty").mkdir()
    place = full.library.parent / what
    try:
        if what == "library":
            place.rmdir()
        place.symlink_to(disk)
        file(full, "a.jpg", "b.jpg")
        (full.library / "2024/07").mkdir()
        # In another folder of the same disk, which is not listed before the disk is away.
        for name in ("b.jpg", "b.jpg.xmp"):
            (full.library / f"2024/05/{name}").rename(full.library / f"2024/07/{name}")
        assert sync(full).moved == 1

        def unplug() -> None:
            place.unlink()
            place.symlink_to(tmp_path / "empty")
            full.app.follower.on_file = lambda: None

        full.app.follower.on_file = unplug
        if what == "library":
            with pytest.raises(EnvironmentFault, match="not mounted"):
                sync(full)
        else:
            assert sync(full).unseen == ("2024/",)
        assert {row["status"] for row in full.rows()} == {"done"}
        place.unlink()
        place.symlink_to(disk)
        assert sync(full).changes == 0
    finally:
        shutil.rmtree(disk)


def test_adopted_where_it_lies_and_never_moved(full: FullRoom) -> None:
    full.settings = CaptionSettings(key="a key", private=("Secret",))
    file(full, "a.jpg")
    old = {
        "old/Grandma.JPG": jpeg(seed=5),
        "old/Secret/b.jpg": jpeg(seed=6),
        "old/copy.jpg": (full.library / FILED).read_bytes(),
    }
    for name, content in old.items():
        (full.library / name).parent.mkdir(parents=True, exist_ok=True)
        (full.library / name).write_bytes(content)
    assert sync(full).new == 3
    assert len(where(full)) == 1, "not without being asked"
    report = sync(full, adopt=True)
    assert (report.adopted, report.left) == (2, [("old/copy.jpg", "the same bytes as image 1")])
    found = {row["destination"]: row for row in full.rows() if row["source"] == "library"}
    assert sorted(found) == ["old/Grandma.JPG", "old/Secret/b.jpg"]
    assert (found["old/Grandma.JPG"]["caption_status"], found["old/Secret/b.jpg"]["folder"]) == ("off", "old/Secret")
    assert {name: (full.library / name).read_bytes() for name in old} == old
    assert sync(full, adopt=True).adopted == 0


def test_two_walks_are_one_too_many(full: FullRoom) -> None:
    with lock.held(full.state / "follow.lock", 0.0, "busy"), pytest.raises(Busy):
        sync(full)


def test_the_file_of_what_was_removed_is_read_whatever_is_in_it(full: FullRoom) -> None:
    removals = Removals(Root(full.library))
    file(full, "a.jpg")
    (full.library / FILED).unlink()
    sync(full)
    text = (full.library / FILE).read_text()
    (full.library / FILE).write_text(text + "half a line\n" + "0" * 64 + "\tsoon\tdeleted\t1\tx\n" + "torn")
    assert len(removals.read()) == 1
    removals.note(list(removals.read().values()))
    assert len(removals.read()) == 1
    assert (full.library / FILE).read_text().count("torn\n") == 1


def test_the_owner_is_right_as_exiftool_and_exiv2_write(full: FullRoom) -> None:
    """What two real programs write into sidecars comes back into the rows."""
    if shutil.which("exiftool") is None or shutil.which("exiv2") is None:
        pytest.skip("needs exiftool and exiv2")
    file(full, "a.jpg", "b.jpg")
    full.captions.edit(1, time.time(), caption="Old", keywords=["garden", "May"], rating=2, label="Red")
    full.caption()
    first, second = (full.library / f"2024/05/{name}.jpg.xmp" for name in "ab")
    words = ["-XMP-dc:Description=New", "-XMP-dc:Subject-=May", "-XMP-dc:Subject+=roses", "-XMP-xmp:Rating=5"]
    more = ["-XMP-xmp:Label=Blue", "-XMP-lr:HierarchicalSubject=Places|Italy|Rome", "-XMP-dc:Title=T"]
    place = ["-XMP-exif:GPSLatitude=48.5", "-XMP-exif:GPSLongitude=-11.25"]
    subprocess.run(["exiftool", "-q", "-overwrite_original", *words, *more, *place, first], check=True)
    told = ["-M", "set Xmp.xmp.Rating 3", "-M", "set Xmp.dc.title lang=x-default B", "-M", "set Xmp.xmp.Label Green"]
    subprocess.run(["exiv2", *told, second], check=True)
    assert sync(full).words == 2
    row = full.columns(1)
    assert (row["caption"], row["keywords"], row["rating"], row["label"]) == ("New", ["roses", "garden"], 5, "Blue")
    assert (row["hierarchical_keywords"], row["title"]) == (("Places|Italy|Rome",), "T")
    assert (row["lat"], row["lon"]) == pytest.approx((48.5, -11.25))
    other = full.columns(2)
    assert (other["rating"], other["title"], other["label"]) == (3, "B", "Green")
    assert sync(full).changes == 0
    for sidecar in (first, second):
        said = subprocess.run(["exiftool", "-warning", "-error", "-a", sidecar], capture_output=True, check=True)
        assert (said.stdout, said.stderr) == (b"", b"")
        assert subprocess.run(["exiv2", "-px", sidecar], capture_output=True, check=True).stderr == b""
    # And out again: what is taken back over REST is taken back there.
    full.captions.edit(1, time.time(), rating=None, label=None)
    full.caption()
    said = subprocess.run(["exiftool", "-Rating", "-Label", first], capture_output=True, check=True)
    assert said.stdout == b""
    assert sync(full).changes == 0
    assert full.columns(1)["rating"] is None


def exiftool(*words: str | Path) -> None:
    if shutil.which("exiftool") is None:
        pytest.skip("needs exiftool")
    subprocess.run(["exiftool", "-q", "-m", "-overwrite_original", *words], check=True)


def test_words_that_an_owner_writes_into_the_photo_itself(full: FullRoom) -> None:
    full.decode_with(decode)
    came = full.put("a.jpg", jpeg())
    exiftool("-XMP-dc:Description=OLYMPUS DIGITAL CAMERA", "-XMP-dc:Subject=came", "-XMP-xmp:Label=Green", came)
    full.drain()
    full.captions.edit(1, time.time(), caption="Mine", keywords=["garden"])
    photo = full.library / full.columns()["destination"]
    exiftool("-Artist=Me", photo)
    assert sync(full).edited == 1
    row = full.columns()
    assert (row["caption"], row["keywords"], row["label"]) == ("Mine", ["garden"], None), "it held those before"
    words = ["-XMP-dc:Description=New", "-XMP-dc:Title=T", "-XMP-xmp:Rating=4", "-XMP-xmp:Label="]
    exiftool(*words, "-XMP-dc:Subject+=roses", "-XMP-digiKam:TagsList=Places/Rome", photo)
    assert sync(full).edited == 1
    row = full.columns()
    assert (row["caption"], row["title"], row["rating"], row["label"]) == ("New", "T", 4, None)
    assert (set(row["keywords"]), row["hierarchical_keywords"]) == ({"garden", "roses"}, ("Places|Rome",))
    assert "caption" in row["edited"]
    assert sync(full).changes == 0
    said = subprocess.run(["exiftool", "-s3", "-Rating", f"{photo}.xmp"], capture_output=True, check=True)
    assert said.stdout == b"4\n"
    # Taken out again, and what was said over REST meanwhile stays.
    full.captions.edit(1, time.time(), title="Of REST")
    exiftool("-XMP:all=", photo)
    sync(full)
    row = full.columns()
    assert (row["caption"], row["title"], row["rating"], row["keywords"]) == (None, "Of REST", None, ["garden"])
    assert not [tag for tag in Search(full.catalogue).raw_exif(1) if tag.startswith("XMP ")]


def test_an_edit_that_keeps_size_and_time_is_an_edit(full: FullRoom) -> None:
    full.decode_with(decode)
    exiftool("-XMP-xmp:Rating=3", full.put("a.jpg", jpeg()))
    full.drain()
    assert sync(full).changes == 0
    photo = full.library / full.columns()["destination"]
    before = photo.stat()
    exiftool("-P", "-XMP-xmp:Rating=5", photo)
    after = photo.stat()
    assert (after.st_size, after.st_mtime_ns // 10**9) == (before.st_size, before.st_mtime_ns // 10**9)
    os.utime(photo, ns=(after.st_atime_ns, before.st_mtime_ns))
    report = sync(full)
    assert (report.edited, full.columns()["rating"]) == (1, 5)
    assert sync(full).changes == 0
    # Another inode alone (a backup that was played back, a disk that makes them up) is looked at once.
    photo.with_name("b").write_bytes(photo.read_bytes())
    shutil.copystat(photo, photo.with_name("b"))
    photo.with_name("b").replace(photo)
    assert [sync(full).changes for _ in range(2)] == [0, 0]
    seen = full.columns()
    assert (seen["inode"], seen["ctime_ns"]) == (photo.stat().st_ino, photo.stat().st_ctime_ns)


def test_undo_leaves_what_was_adopted_alone(full: FullRoom, tmp_path: Path) -> None:
    (full.library / "old.jpg").write_bytes(jpeg())
    sync(full, adopt=True)
    undo = Undo(full.catalogue, full.app.mover)
    assert undo.since(0) == []
    with pytest.raises(Rejected, match="adopted where it lies"):
        undo.out(1, tmp_path)


def test_a_photo_that_was_moved_into_a_private_folder_is_sent_nowhere(full: FullRoom) -> None:
    full.settings = CaptionSettings(key="a key", private=("Secret",))
    file(full, "a.jpg")
    assert full.columns()["caption_status"] == "pending"
    (full.library / "Secret").mkdir()
    (full.library / FILED).rename(full.library / "Secret/a.jpg")
    sync(full)
    full.caption()
    assert full.columns()["caption_status"] == "private"


def test_the_names_of_folders_are_keywords_where_that_is_wanted(tmp_path: Path) -> None:
    room = FullRoom(tmp_path / "room", "[filing]\nfolder_keywords = true\n")
    file(room, "2024/Rome/a.jpg", "b.jpg")
    assert [room.columns(number)["keywords"] for number in (1, 2)] == [["2024", "Rome"], None]
    room.captions.fill_in([1])
    origin = CaptionOrigin("model", "12345678")
    assert room.captions.store(1, Words("A caption", ("forum",)), origin, "0" * 64, time.time())
    assert room.columns(1)["keywords"] == ["2024", "Rome", "forum"]
    room.close()


def test_the_walk_of_its_loop_gives_way_to_filing_and_no_other_does(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    fill(room.state / "darkroom.db", 200)
    asked: list[int] = []

    def is_filing() -> bool:
        asked.append(threading.get_ident())
        return True

    loop = FollowLoop(room.app.follower, 24.0, is_filing=is_filing, session=room.catalogue.session)
    room.app.follower.follow()  # as whoever files looks for a photo that was moved
    assert not asked
    began = time.monotonic()
    loop.start()
    wait_until(lambda: len(asked) >= 3)
    assert loop.loop.stop(10.0)
    assert set(asked) == {loop._thread}
    assert time.monotonic() - began >= 0.2
    room.close()
