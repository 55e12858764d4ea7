"""What one file does to the queue: its own fault is its own, and a good photo that comes after it is filed at once."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from daemon.errors import EnvironmentFault, Rejected, Transient
from daemon.filing.consumer import Turn
from tests.campaigns.stage import SHM, has_second_filesystem
from tests.faulty_disk import FaultyDisk, can_mount, faulty_disk
from tests.program import HUMBLE, Program, darkroom, environment
from tests.support import Room, jpeg, slow, tree, wait_until

QUICK = "[inbox]\nsettle_seconds = 0.2\nrescan_seconds = 1\n[limits]\nmin_free_mb = 1\n"
# A second is promised; the rest is for a machine that has other things to do.
_GOOD_SECONDS = 3.0
_NOBODY = 65534
# How it may be said that a filed photo's file can't be removed from the inbox.
_STAYS = re.compile(r"(can't|cannot) (leave|be removed|be deleted)|\b(stays?|remains?|still)\b.*\binbox", re.IGNORECASE)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to another account")
without_rights = pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="needs setpriv to give up root's rights"
)
on_a_faulty_disk = pytest.mark.skipif(not can_mount(), reason="needs FUSE and the right to mount")
two_filesystems = pytest.mark.skipif(not has_second_filesystem(), reason="needs /dev/shm as another filesystem")


def put(program: Program, name: str, content: bytes) -> Path:
    """Put a whole file into the inbox at once."""
    fresh = program.folders.inbox / ".fresh.part"
    fresh.write_bytes(content)
    target = program.folders.inbox / name
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh.rename(target)
    return target


def wait_for_rows(program: Program, count: int) -> None:
    """Wait until so many files have been queued."""
    wait_until(lambda: program.query("SELECT count(*) FROM image") >= [(count,)], what=f"{count} rows")


def slowdown() -> float:
    """Return how many times longer all takes here than on a machine that has nothing else to do; 1 on such a one."""
    wall, spent = time.monotonic(), time.process_time()
    while time.process_time() - spent < 0.05:
        pass
    return max(1.0, (time.monotonic() - wall) / 0.05)


def check_good_ones_pass(program: Program, count: int = 3) -> None:
    """Put good photos into the inbox, one after another; each is to be filed at once.

    Several: a pause begins with a second, and doubles.
    """
    for number in range(count):
        name = f"good {number}.jpg"
        allowed = _GOOD_SECONDS * slowdown()
        began = time.monotonic()
        put(program, name, jpeg(seed=1000 + number))
        with suppress(AssertionError):
            wait_until(partial(_is_filed, program, name), 2 * allowed)
        seconds = time.monotonic() - began
        allowed = max(allowed, _GOOD_SECONDS * slowdown())
        waiting = program.query("SELECT original_name, status, waiting FROM image WHERE status <> 'done'")
        assert seconds <= allowed, f"{name} took {seconds:.1f} s: {waiting}\n{program.log()[-3000:]}"


def _is_filed(program: Program, name: str) -> bool:
    return program.query(f"SELECT count(*) FROM image WHERE status = 'done' AND original_name = '{name}'") == [(1,)]


def test_a_file_that_bars_the_way_in_failed_holds_up_nothing_else(tmp_path: Path) -> None:
    with Program(tmp_path / "room", QUICK) as program:
        (program.folders.failed / "backup").write_text("a file where a folder would have to be")
        put(program, "backup/x.jpg", b"no photo")
        wait_for_rows(program, 1)
        check_good_ones_pass(program)
        program.wait_for(done=3, failed=1)
        everything = {**tree(program.folders.inbox), **tree(program.folders.failed)}
        assert [name.rpartition("/")[2] for name, content in everything.items() if content == b"no photo"] == ["x.jpg"]
        assert tree(program.folders.failed)["backup"] == b"a file where a folder would have to be"
        assert program.query("SELECT error IS NULL, attempts FROM image WHERE status = 'failed'") == [(0, 1)]


# Of the folder, and of the file: the kernel takes 4,095 bytes at a time, but a folder may well lie deeper.
@pytest.mark.parametrize("length", [4096, *(slow(length) for length in (4080, 4095, 4180, 5000))])
@pytest.mark.parametrize("kind", ["no photo", slow("a photo")])
@pytest.mark.slow
def test_a_file_at_an_endless_path_holds_up_nothing_else(tmp_path: Path, length: int, kind: str) -> None:
    content = jpeg() if kind == "a photo" else b"no photo"
    with Program(tmp_path / "room", QUICK) as program, far_away(program.folders.inbox, length, content) as is_there:
        # What lies too deep to be listed is no row, and said.
        wait_until(
            lambda: program.query("SELECT count(*) FROM image") == [(1,)] or "can't be read" in program.log(),
            what="that the file is seen",
        )
        check_good_ones_pass(program)
        program.wait_for(queued=0, processing=0)
        found = [content for folder in ("library", "failed") for content in tree(program.base / folder).values()]
        assert is_there() or content in found


@contextmanager
def far_away(folder: Path, length: int, content: bytes) -> Iterator[Any]:
    """Put a file into a folder, through as many others as make its path so long; take all of it away in the end.

    Yields a function that says whether the file is still there.
    """
    name, folders, left = "p" * 96 + ".jpg", [], length - len(os.fsencode(folder)) - 101
    while left:
        # None of a single byte with its slash: that would be an empty name.
        size = left if left <= 200 else min(200, left - 2)
        folders.append("d" * (size - 1))
        left -= size
    fds = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        for each in folders:
            os.mkdir(each, dir_fd=fds[-1])
            fds.append(os.open(each, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fds[-1]))
        file = os.open(".fresh.part", os.O_CREAT | os.O_WRONLY, dir_fd=fds[-1])
        os.write(file, content)
        os.close(file)
        os.rename(".fresh.part", name, src_dir_fd=fds[-1], dst_dir_fd=fds[-1])
        yield lambda: name in os.listdir(fds[-1])
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fds[-1])
        for each, fd in reversed(list(zip(folders, fds, strict=False))):
            with suppress(FileNotFoundError):
                os.rmdir(each, dir_fd=fd)
        for fd in fds:
            os.close(fd)


@without_rights
@pytest.mark.slow
def test_files_that_may_not_be_read_hold_up_nothing_else(tmp_path: Path) -> None:
    """Others may read them, but not the account whose they are."""
    with Program(tmp_path / "room", QUICK, under=HUMBLE) as program:
        photos = [jpeg(seed=number) for number in range(6)]
        for number, photo in enumerate(photos):
            fresh = program.folders.inbox / ".fresh.part"
            fresh.write_bytes(photo)
            fresh.chmod(0o004)
            fresh.rename(program.folders.inbox / f"bad {number}.jpg")
        wait_for_rows(program, 6)
        check_good_ones_pass(program, 6)
        rows = program.query("SELECT error, status FROM image WHERE original_name LIKE 'bad%'")
        assert [row for row in rows if row[1] == "done"] == []
        everything = {**tree(program.folders.inbox), **tree(program.folders.failed)}
        assert set(photos) <= set(everything.values())


@without_rights
@pytest.mark.slow
def test_a_folder_that_was_shut_holds_up_nothing_else(tmp_path: Path) -> None:
    with Program(tmp_path / "room", QUICK, under=HUMBLE) as program:
        folder = put_and_shut(program, "shut/a.jpg", jpeg(seed=1))
        try:
            check_good_ones_pass(program, 5)
        finally:
            folder.chmod(0o755)
        assert program.query("SELECT count(*) FROM image WHERE original_name = 'a.jpg'") == [(1,)]


@without_rights
@pytest.mark.parametrize("mode", [0o555, slow(0)])
@pytest.mark.slow
def test_a_folder_of_the_library_that_takes_nothing_holds_up_only_what_is_to_go_there(
    tmp_path: Path, mode: int
) -> None:
    """That is no fault of the photo: it waits, is said, and is filed once the folder takes it."""
    with Program(tmp_path / "room", QUICK, under=HUMBLE) as program:
        shut = program.folders.library / "2019/05"
        shut.mkdir(parents=True)
        shut.chmod(mode)
        try:
            put(program, "bad.jpg", jpeg(seed=1, taken="2019:05:04 12:00:00"))
            waiting = "SELECT count(*) FROM image WHERE status = 'queued' AND waiting_detail LIKE '%Permission denied'"
            wait_until(lambda: program.query(waiting) == [(1,)], what="that it waits")
            check_good_ones_pass(program)
            said = darkroom(program.base, "status").stdout
            assert re.search(r"waiting: 1 .*/2019/05.*: Permission denied", said), said
        finally:
            shut.chmod(0o755)
        # It is looked at again within half a minute; once touched, at once.
        os.utime(program.folders.inbox / "bad.jpg")
        wait_until(lambda: _is_filed(program, "bad.jpg"), what="that it is filed")
        assert program.query("SELECT attempts FROM image WHERE original_name = 'bad.jpg'") == [(1,)]


def put_and_shut(program: Program, name: str, content: bytes) -> Path:
    """Queue a file, then take all rights from its folder, which is returned; the file is held open until then."""
    path = put(program, f"{name}.part", b"").with_name(name.rpartition("/")[2])
    with path.with_name(f"{path.name}.part").open("wb") as writer:
        writer.write(content)
        writer.flush()
        path.with_name(f"{path.name}.part").rename(path)
        wait_until(lambda: ("writer",) in program.query("SELECT waiting FROM image"), what="that it is seen to be open")
        path.parent.chmod(0)
    return path.parent


@pytest.mark.parametrize("across", [slow(False), True])
@pytest.mark.slow
def test_a_file_larger_than_the_disk_holds_up_nothing_else(tmp_path: Path, across: bool) -> None:
    """Of holes alone: to read it all takes an hour, and to copy it there is no room."""
    base, size = tmp_path / "room", (2 << 40) + 4096
    base.mkdir()
    with small_disk(base / "disk") if across else nullcontext() as disk:
        folders = [f'{name} = "{disk}/{name}"\n' for name in ("library", "failed", "duplicates") if disk]
        with Program(base, f"[folders]\n{''.join(folders)}{QUICK}") as program:
            fresh = program.folders.inbox / ".fresh.part"
            fresh.touch()
            try:
                os.truncate(fresh, size)
            except OSError as error:
                pytest.skip(f"needs a filesystem that holds sparse files: {error.strerror}")
            fresh.rename(program.folders.inbox / "huge.jpg")
            wait_for_rows(program, 1)
            check_good_ones_pass(program)
            program.wait_for(done=3, failed=1)
            assert program.query("SELECT error IS NULL FROM image WHERE status = 'failed'") == [(0,)]
            places = [folder / "huge.jpg" for folder in (program.folders.inbox, program.folders.failed)]
            assert [place.stat().st_size for place in places if place.exists()] == [size]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount another filesystem of 64 MB for a block."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("needs root, and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def inbox_on_disk(base: Path) -> Iterator[tuple[FaultyDisk, str]]:
    """Give a disk whose faults the test sets, and a configuration that has the inbox there."""
    base.mkdir()
    with faulty_disk(base / "disk") as disk:
        yield disk, f'[folders]\ninbox = "{disk.path / "inbox"}"\n{QUICK}'


@on_a_faulty_disk
@pytest.mark.parametrize("operation", ["read", slow("open")])
@pytest.mark.slow
def test_a_bad_sector_holds_up_nothing_else(tmp_path: Path, operation: str) -> None:
    with (
        inbox_on_disk(tmp_path / "room") as (disk, toml),
        Program(tmp_path / "room", toml) as program,
    ):
        disk.set(errors={operation: "EIO"}, within="bad.jpg")
        put(program, "bad.jpg", jpeg(seed=1))
        wait_for_rows(program, 1)
        check_good_ones_pass(program, 5)
        assert program.query("SELECT count(*) FROM image WHERE status = 'failed'") == [(0,)]
        disk.heal()


@on_a_faulty_disk
@pytest.mark.parametrize("operation", ["read", slow("open")])
@pytest.mark.parametrize("error", ["EIO", *(slow(error) for error in ("ESTALE", "EHOSTDOWN", "ETIMEDOUT"))])
def test_what_a_disk_fails_to_read_spends_no_attempts(tmp_path: Path, operation: str, error: str) -> None:
    """However often it is tried; and once the disk answers it is filed. The real decoders read it."""
    with inbox_on_disk(tmp_path / "room") as (disk, toml):
        room = Room(tmp_path / "room", toml)
        sandbox = room.app.sandbox
        room.decode_with(type(sandbox).decode.__get__(sandbox))
        sandbox.start()
        try:
            now = time.time()
            disk.set(errors={operation: error}, within="bad.jpg")
            room.put("bad.jpg", jpeg(seed=1, taken="2024:05:01 12:00:00"))
            room.scan()
            for number in range(6):
                room.put(f"good {number}.jpg", jpeg(seed=10 + number, taken="2024:05:01 12:00:00"))
                now = _drain_later(room, now, f"good {number}.jpg")
                bad = room.row_of("bad.jpg")
                assert (bad["status"], bad["attempts"]) == ("queued", 0), bad["error"] or bad["waiting"]
            disk.heal()
            _drain_later(room, now, "bad.jpg")
            assert room.row_of("bad.jpg")["attempts"] == 1
            assert len(tree(room.library)) == 7
        finally:
            room.app.close()
            room.close()


def _drain_later(room: Room, now: float, name: str) -> float:
    """Take turns, again and again minutes later, until a photo is filed; return the time that it is then."""
    for _ in range(10):
        now += 100
        room.drain(now)
        if room.row_of(name)["status"] == "done":
            return now
    raise AssertionError(f"{name} is not filed: {room.row_of(name)}, paused: {room.consumer.paused}")


@pytest.mark.slow
@as_root
@without_rights
def test_a_photo_that_can_not_be_removed_from_the_inbox_is_filed_once(tmp_path: Path) -> None:
    """In a folder as /tmp is, another account's file may be read and copied, and be removed by that account alone."""
    base, photos = tmp_path / "room", [jpeg(seed=number, taken="2024:05:01 12:00:00") for number in range(2)]
    with Program(base, QUICK, under=HUMBLE) as program:
        shared = program.folders.inbox / "shared"
        _share(shared)
        _give(shared / "stuck.jpg", photos[0])
        program.wait_for(done=1)
        check_good_ones_pass(program)
        _check_said(program)
        assert program.stop() == 0
    for _ in range(2):
        assert "Traceback" not in darkroom(base, "run", "--once", under=HUMBLE).stderr
        program.wait_for(0, done=4, duplicate=0, failed=0, queued=0)
    (base / "log").unlink()
    with Program(base, under=HUMBLE) as program:
        _check_said(program)
        (shared / "stuck.jpg").write_bytes(photos[1])
        program.wait_for(done=5, duplicate=0, failed=0)
        put(program, "at the end.jpg", jpeg(seed=7))
        program.wait_for(done=6, duplicate=0, failed=0, queued=0)
        assert set(photos) <= set(tree(program.folders.library).values())
        assert tree(program.folders.inbox) == {"shared/stuck.jpg": photos[1]}


def _share(folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, _NOBODY, _NOBODY)
    folder.chmod(0o1777)


def _give(path: Path, content: bytes) -> None:
    """Put another account's file into the inbox at once."""
    fresh = path.with_name(".fresh.part")
    fresh.write_bytes(content)
    os.chown(fresh, _NOBODY, _NOBODY)
    fresh.rename(path)


def _check_said(program: Program) -> None:
    for words in (("status",), ("doctor",), ("explain", "inbox/shared/stuck.jpg")):
        said = darkroom(program.base, *words, under=HUMBLE).stdout
        assert _STAYS.search(said), f"{words[0]} does not say that the file stays in the inbox:\n{said}"


_BAD = "\x1b[31m\nINJECTED \u202egpj\x07"


@without_rights
@pytest.mark.slow
def test_names_bring_nothing_raw_onto_a_terminal(tmp_path: Path) -> None:
    """Escape sequences, line ends, direction marks; in the names of files, of folders, of a link's target."""
    with Program(tmp_path / "room", QUICK, under=HUMBLE) as program:
        inbox, failed = program.folders.inbox, program.folders.failed
        shut = put_and_shut(program, f"shut{_BAD}/a{_BAD}.jpg", jpeg(seed=4))
        put(program, f"fol{_BAD}der/photo{_BAD}.jpg", jpeg(seed=1))
        put(program, f"fol{_BAD}der/poem{_BAD}.jpg", b"no photo")
        put(program, f"alone{_BAD}.xmp", b"<x/>")
        (inbox / f"link{_BAD}.jpg").symlink_to(f"tar{_BAD}get")
        (inbox / f"linked{_BAD}").symlink_to(program.base / f"else{_BAD}where")
        os.mkfifo(inbox / f"pipe{_BAD}.jpg")
        put(program, f"unreadable{_BAD}.jpg", jpeg(seed=2)).chmod(0)
        closed = put(program, f"closed{_BAD}/a{_BAD}.jpg", jpeg(seed=3)).parent
        closed.chmod(0o555)
        # Where a folder would have to be there is a file.
        (failed / "".join("_" if not c.isprintable() else c for c in f"bar{_BAD}")).touch()
        put(program, f"bar{_BAD}/x{_BAD}.jpg", b"no photo, and no way")
        wait_for_rows(program, 10)
        wait_until(lambda: program.query("SELECT count(*) FROM image WHERE status = 'failed'") >= [(3,)])
        rows = program.images()
        texts = {f"row {row['image_id']}'s {key}": row[key] or "" for row in rows for key in ("error", "waiting")}
        texts["the log"] = program.log()
        commands = [["status"], ["doctor"], ["list"], *(["explain", str(row["image_id"])] for row in rows)]
        texts |= dict(zip(map(" ".join, commands), _all_said(program.base, commands), strict=True))
        reasons = {str(path): path.read_text() for path in failed.rglob("*.reason.txt")}
        assert len(reasons) >= 2
        closed.chmod(0o755)
        shut.chmod(0o755)
    raw = {what: text for what, text in {**texts, **reasons}.items() if _is_raw(text, lines="row" not in what[:3])}
    assert raw == {}


# One process for all of them: to start takes longer than to answer.
_COMMANDS = """
import contextlib, io, json, sys
from daemon.__main__ import main
answers = []
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        main(words)
    answers.append(said.getvalue())
print(json.dumps(answers))
"""


def _all_said(base: Path, commands: list[list[str]]) -> list[str]:
    """Return what each command prints."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS, json.dumps(commands)],
        cwd=base,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    said: list[str] = json.loads(done.stdout)
    assert all(said)
    return said


def _is_raw(text: str, *, lines: bool) -> bool:
    """Return whether a text holds what makes a terminal do things, or a line that comes of a name."""
    allowed = "\n\u200c\u200d" if lines else "\u200c\u200d"
    unshowable = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    odd = any(unicodedata.category(c) in unshowable and c not in allowed for c in text)
    return odd or any(line.startswith("INJECTED") for line in text.splitlines())


def test_a_row_that_caused_a_pause_goes_behind_those_that_did_not(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", QUICK)
    room.decoder.errors["bad.jpg"] = [EnvironmentFault("no room"), EnvironmentFault("no room")]
    _queue(room, "bad.jpg", "good 1.jpg", "good 2.jpg")
    now = time.time()
    assert room.drain(now) == [Turn.PAUSED]
    room.drain(now + 60)
    done = [row["original_name"] for row in room.rows() if row["status"] == "done"]
    assert done == ["good 1.jpg", "good 2.jpg"]
    _queue(room, "good 3.jpg")
    room.drain(now + 120)
    filed = sorted(room.rows(), key=lambda row: row["processed_at"])
    assert [row["original_name"] for row in filed] == ["good 1.jpg", "good 2.jpg", "good 3.jpg", "bad.jpg"]
    assert {row["status"] for row in room.rows()} == {"done"}
    assert room.row_of("bad.jpg")["attempts"] == 1


def test_rows_that_were_never_tried_come_before_retries(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", QUICK)
    room.decoder.errors["again.jpg"] = [Transient("the decoder crashed")]
    _queue(room, "again.jpg")
    now = time.time()
    room.drain(now)
    _queue(room, "new 1.jpg", "new 2.jpg")
    room.drain(now + 60)
    assert room.decoder.seen == ["again.jpg", "new 1.jpg", "new 2.jpg", "again.jpg"]
    assert {row["status"] for row in room.rows()} == {"done"}


def _queue(room: Room, *names: str) -> None:
    for name in names:
        room.put(name, name.encode())
        room.scan()


@two_filesystems
@pytest.mark.parametrize("place", ["failed", "library"])
def test_the_holes_of_a_file_are_kept_on_another_filesystem(tmp_path: Path, place: str) -> None:
    holes: Sequence[tuple[int, bytes]] = [(0, b"the beginning"), (20 << 20, b"x" * 5000), (40 << 20, b"\0" * 4096)]
    with tempfile.TemporaryDirectory(dir=SHM) as elsewhere:
        folders = "".join(f'{name} = "{elsewhere}/{name}"\n' for name in ("library", "failed", "duplicates"))
        room = Room(tmp_path / "room", f"[folders]\n{folders}{QUICK}")
        path = room.put("sparse.jpg", b"")
        with path.open("r+b") as file:
            for at, content in holes:
                file.seek(at)
                file.write(content)
            file.truncate(64 << 20)
        assert _on_disk(path) < 1 << 20, "the test's own file has its holes"
        content = path.read_bytes()
        if place == "failed":
            room.decoder.errors["sparse.jpg"] = [Rejected("no image")]
        room.drain()
        [filed] = [path for path in Path(elsewhere).rglob("sparse.jpg") if stat.S_ISREG(path.stat().st_mode)]
        assert filed.is_relative_to(Path(elsewhere) / place)
        assert filed.read_bytes() == content
        assert _on_disk(filed) < 1 << 20
        assert tree(room.inbox) == {}


def _on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512
