"""Files and folders that are renamed while they are queued or in hand: filed once, under the name that is seen last.

A real watcher follows the inbox in its thread; the consumer's loop runs in the test's own, so that its calls can be
counted, and something be renamed before a chosen one.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from daemon.decoding import Decoded, Exif
from daemon.errors import Withdrawn
from tests.calls import Calls
from tests.captions.gemini_server import Gemini
from tests.support import Room, jpeg, rest_slow, slow, tree, wait_until
from tests.web.serving import Served

TOML = """
[inbox]
settle_seconds = 0.05
[filing]
template = "{taken:%Y/%m}/{folder}/{name}"
[limits]
min_free_mb = 1
[captions]
private = ["Family"]
requests_per_minute = 0
requests_per_day = 0
"""
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
Rename = tuple[str, str]


@dataclass(frozen=True)
class Renaming:
    """What lies in the inbox, and what is renamed there, one after the other; a folder's files move with it."""

    files: tuple[str, ...]
    renames: tuple[Rename, ...]

    def contents(self) -> dict[str, bytes]:
        """Return the files as they come, each with bytes of its own."""
        return {name: f"the bytes of {name}".encode() for name in self.files}

    def seen_last(self) -> dict[str, bytes]:
        """Return what the owner sees in the end."""
        files = self.contents()
        for old, new in self.renames:
            for name in [name for name in files if name == old or name.startswith(f"{old}/")]:
                files[new + name.removeprefix(old)] = files.pop(name)
        return files


RENAMINGS = {
    "a name": Renaming(("a.jpg",), (("a.jpg", "b.jpg"),)),
    "a name, twice": Renaming(("a.jpg",), (("a.jpg", "b.jpg"), ("b.jpg", "card/c.jpg"))),
    "into a subfolder": Renaming(("a.jpg",), (("a.jpg", "card/a.jpg"),)),
    "out of a subfolder": Renaming(("card/a.jpg",), (("card/a.jpg", "a.jpg"),)),
    "into another subfolder": Renaming(("card/a.jpg",), (("card/a.jpg", "trip/day 1/b.jpg"),)),
    "into a private folder": Renaming(("a.jpg",), (("a.jpg", "Family/a.jpg"),)),
    "out of a private folder": Renaming(("Family/a.jpg",), (("Family/a.jpg", "a.jpg"),)),
    "its case only": Renaming(("img_1.jpg",), (("img_1.jpg", "IMG_1.JPG"),)),
    "two that swap names": Renaming(("a.jpg", "b.jpg"), (("a.jpg", "c.jpg"), ("b.jpg", "a.jpg"), ("c.jpg", "b.jpg"))),
    "exiftool": Renaming(("IMG_1.jpg", "IMG_1.jpg_exiftool_tmp"), (("IMG_1.jpg_exiftool_tmp", "IMG_1.jpg"),)),
    "exiftool, the original kept": Renaming(
        ("IMG_1.jpg", "IMG_1.jpg_exiftool_tmp"),
        (("IMG_1.jpg", "IMG_1_original.jpg"), ("IMG_1.jpg_exiftool_tmp", "IMG_1.jpg")),
    ),
    "FreeFileSync": Renaming(("IMG_1.jpg.ffs_tmp",), (("IMG_1.jpg.ffs_tmp", "IMG_1.jpg"),)),
    "gphoto2": Renaming(("tmpfile000000",), (("tmpfile000000", "IMG_1.JPG"),)),
    "a folder": Renaming(("card/a.jpg", "card/sub/b.jpg"), (("card", "trip"),)),
    "a folder, to a private one": Renaming(("card/a.jpg",), (("card", "Family"),)),
}


class Desk:
    """A room with a watcher at work; its consumer begins with `work`."""

    def __init__(self, room: Room) -> None:
        self.room, self.inbox = room, room.inbox
        self._script = room.decoder.decode
        self.watcher = room.app.watcher
        self.watcher.start()
        wait_until(lambda: self.watcher.state.last_scan, what="the first scan")

    def put(self, files: Mapping[str, bytes]) -> None:
        """Put files into the inbox, and wait until each is queued that is not left alone for its name."""
        for name, content in files.items():
            self.room.put(name, content)
        self.wait_queued({name: files[name] for name in files if not name.endswith("_exiftool_tmp")})

    def wait_queued(self, files: Mapping[str, bytes]) -> None:
        """Wait until there is a row for each of these files, as it is now."""
        wanted = {(name, len(content)) for name, content in files.items()}
        wait_until(
            lambda: wanted <= {(row["path"], row["size_bytes"]) for row in self.room.rows()},
            what=f"rows of {sorted(files)}",
        )

    def rename(self, renames: tuple[Rename, ...]) -> bool:
        """Rename things in the inbox; return False where the first is not there any more."""
        for old, new in renames:
            target = self.inbox / new
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                (self.inbox / old).rename(target)
            except FileNotFoundError:
                return False
        return True

    def decode_with(self, change: Callable[[Callable[[], Decoded]], Decoded]) -> None:
        """Have `change` stand for the decoders; it is given what decodes the file whose turn it is."""

        def decode(*args: Any) -> Decoded:
            def plainly() -> Decoded:
                try:
                    return self._script(*args)
                except FileNotFoundError:
                    # As the real ones have it.
                    raise Withdrawn("no longer in the inbox") from None

            return change(plainly)

        self.room.decode_with(decode)

    def decode_plainly(self) -> None:
        self.decode_with(lambda plainly: plainly())

    def work(self, seconds: float = 60.0) -> None:
        """Take turns until all is filed, then look through the inbox once more."""
        deadline = time.monotonic() + seconds
        self.room.consumer.loop.run(lambda: self.is_done() or time.monotonic() > deadline)
        open_rows = [(row["path"], row["status"], row["waiting"]) for row in self.room.rows() if row["path"]]
        assert self.is_done(), f"{self.files()} {open_rows} {self.room.consumer.paused}"
        self.room.drain()

    def is_done(self) -> bool:
        return not self.files() and all(row["path"] is None for row in self.room.rows())

    def files(self) -> list[str]:
        """Return what lies in the inbox, but for folders."""
        return [name for _, _, names in os.walk(self.inbox) for name in names]

    def judge(self, expected: Mapping[str, bytes], month: str = "2024/05") -> None:
        """Fail unless each file was filed once, and its row, its name and its folder are those it had last."""
        rows = self.room.rows()
        assert [(row["status"], row["error"]) for row in rows if row["status"] != "done"] == []
        found = {(row["folder"] or "", row["original_name"]): row for row in rows}
        split = {name: (name.rpartition("/")[0], name.rpartition("/")[2]) for name in expected}
        assert sorted(found) == sorted(split.values())
        assert len(rows) == len(expected)
        for name, (folder, _) in split.items():
            row = found[split[name]]
            assert row["destination"] == f"{month}/{filed_as(name)}"
            private = folder.split("/")[0] == "Family"
            assert (row["caption_status"] == "private") == private, row["caption_status"]
        filed = {f"{month}/{filed_as(name)}": content for name, content in expected.items()}
        assert tree(self.room.library) == filed
        assert tree(self.room.duplicates) == tree(self.room.failed) == {}


def filed_as(name: str) -> str:
    """Return a name as it is filed: with the suffix of what it is, where it came without one."""
    return name if "." in name else f"{name}.jpg"


@contextmanager
def desk_of(room: Room) -> Iterator[Desk]:
    desk = Desk(room)
    try:
        yield desk
    finally:
        desk.watcher.stop()
        room.consumer.close()
        room.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with desk_of(Room(tmp_path / "room", TOML)) as made:
        yield made


@pytest.mark.parametrize("what", rest_slow(RENAMINGS, 6))
def test_renamed_while_queued(desk: Desk, what: str) -> None:
    renaming = RENAMINGS[what]
    desk.put(renaming.contents())
    assert desk.rename(renaming.renames)
    desk.wait_queued(renaming.seen_last())
    desk.work()
    desk.judge(renaming.seen_last())


@pytest.mark.parametrize("claimed", ["a.jpg", "b.jpg"])
def test_events_that_come_late_are_of_the_file_that_had_the_name_before(tmp_path: Path, claimed: str) -> None:
    """Two files swap names, and one is in hand under its last name when the first event is read."""
    renaming = RENAMINGS["two that swap names"]
    with desk_of(Room(tmp_path / "room", TOML, sidecars=True)) as desk:
        room = desk.room
        desk.watcher.stop()
        for name in sorted(renaming.files, key=lambda name: name != claimed):
            room.put(name, renaming.contents()[name])
            room.scan()
        assert desk.rename(renaming.renames)
        late = list(renaming.renames)

        def decode(plainly: Callable[[], Decoded]) -> Decoded:
            decoded = plainly()
            while late:
                room.queue.rename(*late.pop(0), time.time())
            return decoded

        desk.decode_with(decode)
        desk.work()
        for image_id in room.captions.sidecars_due():
            room.sidecars.write(image_id)
        sidecars = {path.name: path.read_text() for path in room.library.rglob("*.xmp")}
        for name in sidecars:
            (room.library / "2024/05" / name).unlink()
        desk.judge(renaming.seen_last())
    assert all(f">{name.removesuffix('.xmp')}<" in text for name, text in sidecars.items())
    assert len(sidecars) == 2


# Before the decoder opens the file, after it has read it, or a share of the way from there to the end of the name.
BEFORE, READ = -2.0, -1.0
IN_HAND = [
    *(("a name", at) for at in (READ, 0.5)),
    *(slow("a name", at) for at in (BEFORE, 0.25, 0.75, 1.0)),
    ("into a subfolder", 0.5),
    *(slow("into a subfolder", at) for at in (READ, 1.0)),
    ("into a private folder", READ),
    *(slow("into a private folder", at) for at in (0.5, 1.0)),
    *(slow("its case only", at) for at in (READ, 0.75)),
    slow("exiftool", READ),
    slow("FreeFileSync", 0.5),
    ("gphoto2", 1.0),
    slow("gphoto2", READ),
    ("a folder, to a private one", 1.0),
    slow("a folder, to a private one", READ),
]


@pytest.mark.parametrize(("what", "at"), IN_HAND)
def test_renamed_while_in_hand(desk: Desk, what: str, at: float) -> None:
    """Where the name has gone before it could be renamed, the owner was too late, and sees nothing of it."""
    renaming, calls, renamed = RENAMINGS[what], Calls(), [True]
    with calls.counted():
        window = _window(desk, calls)
        first, seen = [True], [0]

        def rename() -> None:
            calls.end()
            renamed[0] = desk.rename(renaming.renames)

        def before(_: str) -> None:
            seen[0] += 1
            if seen[0] == 1 + round(at * (window - 1)):
                rename()

        def decode(plainly: Callable[[], Decoded]) -> Decoded:
            if not first:
                return plainly()
            first.clear()
            if at == BEFORE:
                rename()
            decoded = plainly()
            if at == READ:
                rename()
            elif at >= 0:
                calls.begin(before, thread)
            return decoded

        thread = threading.get_ident()
        desk.decode_with(decode)
        desk.put(renaming.contents())
        desk.work()
    assert not first
    warm = {f"warm {number}.jpg": f"warm {number}".encode() for number in range(2)}
    desk.judge({**warm, **(renaming.seen_last() if renamed[0] else renaming.contents())})


def _window(desk: Desk, calls: Calls) -> int:
    """File two photos, and return how many calls the second took from the decoder's answer to the end of its name."""
    counted = [0, 0]

    def before(_: str) -> None:
        counted[0] += 1
        if desk.files():
            counted[1] = counted[0]

    def decode(plainly: Callable[[], Decoded]) -> Decoded:
        decoded = plainly()
        calls.begin(before, thread)
        return decoded

    thread = threading.get_ident()
    for number in range(2):
        desk.put({f"warm {number}.jpg": f"warm {number}".encode()})
        if number:
            desk.decode_with(decode)
        desk.work()
    calls.end()
    assert counted[1] > 10
    return counted[1]


@pytest.mark.parametrize("in_hand", [True, slow(False)])
@pytest.mark.parametrize(
    ("old", "new", "origin", "month"),
    [
        ("scan.jpg", "IMG_20200102_030405.jpg", "name", "2020/01"),
        ("IMG_20200102_030405.jpg", "scan.jpg", "mtime", "2019/03"),
        ("IMG_20200102_030405.jpg", "card/IMG_20210304_050607.jpg", "name", "2021/03"),
    ],
)
def test_the_date_in_a_name_is_that_of_the_last_one(
    desk: Desk, in_hand: bool, old: str, new: str, origin: str, month: str
) -> None:
    def decode(plainly: Callable[[], Decoded]) -> Decoded:
        decoded = replace(plainly(), exif=Exif())
        if in_hand:
            desk.rename(((old, new),))
        return decoded

    desk.decode_with(decode)
    fresh = desk.room.put(f".{old}", b"a scan")
    os.utime(fresh, (1_551_700_000, 1_551_700_000))
    fresh.rename(desk.inbox / old)
    desk.wait_queued({old: b"a scan"})
    if not in_hand:
        desk.rename(((old, new),))
        desk.wait_queued({new: b"a scan"})
    desk.work()
    desk.judge({new: b"a scan"}, month)
    assert desk.room.row()["taken_from"] == origin


@pytest.mark.parametrize(
    "renames",
    [
        (("a.jpg", "trip.jpg"), ("a.xmp", "trip.xmp")),
        (("a.jpg", "card/trip.jpg"), ("a.xmp", "card/trip.xmp")),
        (("tmpfile000000", "IMG_1.JPG"),),
        (("tmpfile000000", "IMG_1.xmp"),),
    ],
)
@pytest.mark.parametrize("in_hand", [True, slow(False)])
def test_a_companion_pairs_by_the_last_name(desk: Desk, in_hand: bool, renames: tuple[Rename, ...]) -> None:
    """In hand: while the photo is decoded. What has no new name is there under its own from the beginning."""
    last = [new for _, new in renames]
    photo = next((name for name in last if not name.endswith("xmp")), "IMG_1.JPG")
    beside = next((name for name in last if name.endswith("xmp")), "IMG_1.xmp")
    old = {new: old for old, new in renames}

    def decode(plainly: Callable[[], Decoded]) -> Decoded:
        decoded = plainly()
        if in_hand:
            desk.rename(renames)
        return decoded

    desk.decode_with(decode)
    desk.put({old.get(photo, photo): b"photo"})
    desk.put({old.get(beside, beside): XMP})
    if not in_hand:
        desk.rename(renames)
        desk.wait_queued({photo: b"photo", beside: XMP})
    desk.work()
    assert tree(desk.room.library) == {f"2024/05/{photo}": b"photo", f"2024/05/{beside}": XMP}
    assert tree(desk.room.duplicates) == tree(desk.room.failed) == {}
    [row] = [row for row in desk.room.rows() if row["status"] == "done"]
    assert row["original_name"] == photo.rpartition("/")[2]


@pytest.mark.parametrize("last", ["sunset.jpg", "card/sunset.jpg"])
def test_an_upload_keeps_its_id_when_its_file_is_renamed(tmp_path: Path, last: str) -> None:
    room, photos = Room(tmp_path / "room", TOML), [jpeg(seed=number) for number in range(2)]
    (room.inbox / "card").mkdir()
    with desk_of(room) as desk, Served(room) as served:
        ids = []
        for number, photo in enumerate(photos):
            answer = served.http.post("/api/images", params={"name": f"up {number}.jpg"}, content=photo)
            assert answer.status_code == 202
            ids.append(answer.json()["data"]["image_id"])
        assert desk.rename((("up 1.jpg", last),))
        desk.wait_queued({last: photos[1]})
        desk.work()
        assert [(row["id"], row["source"]) for row in room.rows()] == [(number, "upload") for number in ids]
        desk.judge({"up 0.jpg": photos[0], last: photos[1]})
        shown = served.http.get(f"/api/images/{ids[1]}").json()["data"]
    assert (shown["status"], shown["original_name"]) == ("done", "sunset.jpg")


@pytest.mark.parametrize("in_hand", [slow(False), True])
def test_what_was_moved_into_a_private_folder_is_sent_to_nobody(tmp_path: Path, in_hand: bool) -> None:
    """Not on request either."""
    with Gemini() as gemini:
        environ = {"GEMINI_API_KEY": "a key", "GOOGLE_GEMINI_BASE_URL": gemini.url}
        with desk_of(Room(tmp_path / "room", TOML, environ)) as desk, Served(desk.room) as served:
            moves = (("secret.jpg", "Family/secret.jpg"),)

            def decode(plainly: Callable[[], Decoded]) -> Decoded:
                decoded = plainly()
                if in_hand and (desk.inbox / "secret.jpg").exists():
                    desk.rename(moves)
                # What is sent is a thumbnail, by which the two can be told apart.
                return replace(decoded, medium=b"a thumbnail of " + decoded.sha256.encode())

            desk.decode_with(decode)
            desk.put({"secret.jpg": b"secret"})
            if not in_hand:
                desk.rename(moves)
                desk.wait_queued({"Family/secret.jpg": b"secret"})
            desk.work()
            desk.put({"open.jpg": b"for everybody"})
            desk.work()
            secret, public = desk.room.row_of("secret.jpg"), desk.room.row_of("open.jpg")
            assert (secret["caption_status"], secret["folder"]) == ("private", "Family")
            served.http.post(f"/api/images/{secret['id']}/caption")
            for _ in range(5):
                desk.room.captioner.run_once(time.time())
            assert [asked.image for asked in gemini.asked] == [b"a thumbnail of " + public["sha256"].encode()]
            assert desk.room.row_of("open.jpg")["caption_status"] == "done"
            assert desk.room.row_of("secret.jpg")["caption_status"] == "private"


@pytest.mark.slow
@pytest.mark.parametrize("under_way", [False, True])
def test_a_folder_is_renamed_under_200_files(desk: Desk, under_way: bool) -> None:
    photos = {f"{number:03}.jpg": b"photo %d" % number for number in range(200)}
    last = {f"trip/{name}": content for name, content in photos.items()}
    decoded: list[int] = []

    def decode(plainly: Callable[[], Decoded]) -> Decoded:
        made = plainly()
        decoded.append(1)
        if under_way and len(decoded) == 50:
            filed = {name for name in photos if not (desk.inbox / "card" / name).exists()}
            assert 0 < len(filed) < 100
            desk.rename((("card", "trip"),))
            for name in filed:
                last[f"card/{name}"] = last.pop(f"trip/{name}")
        return made

    desk.decode_with(decode)
    desk.put({f"card/{name}": content for name, content in photos.items()})
    if not under_way:
        desk.rename((("card", "trip"),))
        desk.wait_queued(last)
    desk.work(60)
    if under_way:
        # Photos are decoded ahead: the one that was filed at that very moment may have left under either name.
        came = {row["original_name"]: row["folder"] for row in desk.room.rows()}
        in_hand = [name for name in photos if f"trip/{name}" in last and came[name] == "card"]
        assert len(in_hand) <= 1
        for name in in_hand:
            last[f"card/{name}"] = last.pop(f"trip/{name}")
    desk.judge(last)
