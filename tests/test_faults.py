"""Faults of disks, names, rights and of the program itself, provoked on the running program: nothing dies, `status`
and /healthz tell of it, and all other photos are filed.
"""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.captions.gemini_server import Gemini
from tests.faulty_disk import FaultyDisk, can_mount, faulty_disk
from tests.program import HUMBLE, Program, darkroom, environment
from tests.support import jpeg, tree, wait_until
from tests.systemd.test_notify import Manager, manager

# A quick queue, on disks of any size.
QUICK = "[inbox]\nsettle_seconds = 0.2\nrescan_seconds = 1\n[limits]\nmin_free_mb = 1\n"
LOOPS = ("watcher", "consumer", "captioner", "hooks", "heartbeat")

on_a_faulty_disk = pytest.mark.skipif(not can_mount(), reason="needs FUSE and the right to mount")
without_rights = pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="needs setpriv to give up root's rights"
)


def put(program: Program, name: str, content: bytes) -> None:
    """Put a whole file into the inbox at once."""
    fresh = program.folders.inbox / ".fresh.part"
    fresh.write_bytes(content)
    target = program.folders.inbox / name
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh.rename(target)


def health(program: Program) -> dict[str, Any]:
    """Return the parts of /healthz."""
    status, answer = program.ask("/healthz")
    assert (status == 200) == answer["data"]["healthy"]
    parts: dict[str, Any] = answer["data"]["parts"]
    return parts


def is_well(program: Program) -> bool:
    return all(part["ok"] for part in health(program).values())


@contextmanager
def on_disk(base: Path, *folders: str, toml: str = QUICK) -> Iterator[tuple[Program, FaultyDisk]]:
    """Run the program with some of its folders on a disk whose faults the test sets."""
    base.mkdir(exist_ok=True)
    with faulty_disk(base / "disk") as disk:
        where = "".join(f'{name} = "{disk.path / name}"\n' for name in folders)
        with Program(base, f"[folders]\n{where}{toml}") as program:
            yield program, disk
            assert "Traceback" not in program.log()


@pytest.mark.slow
def test_a_fault_in_the_step_of_any_loop_is_survived_by_all(tmp_path: Path) -> None:
    """Each of the five fails for a while, each in another way."""
    faults = tmp_path / "faults"
    faults.write_text("")
    toml = f'{QUICK}[hooks]\ncommand = ["{shutil.which("true")}"]\n'
    with manager(str(tmp_path / "notify")) as systemd:
        environ: Any = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "900000"}
        module = ("tests.faulty_program", str(faults))
        with Program(tmp_path / "room", toml, module=module, **environ) as program:
            put(program, "before.jpg", jpeg(seed=1))
            program.wait_for(done=1)
            _four_fail(program, systemd, faults)
            faults.write_text("heartbeat bug\n")
            wait_until(lambda: "heartbeat" in program.status()["faults"], what="the heartbeat's fault")
            assert not health(program)["heartbeat"]["ok"]
            faults.write_text("")
            wait_until(lambda: not program.status()["faults"] and is_well(program), 30, "the end of all faults")
            program.wait_for(done=2)
            fed = systemd.listen().count("WATCHDOG=1")
            wait_until(lambda: systemd.listen().count("WATCHDOG=1") > fed + 2, what="signs of life")
            put(program, "after.jpg", jpeg(seed=3))
            program.wait_for(done=3)
            assert program.stop() == 0
            log = program.log()
    assert log.count("Traceback") == 2, f"a traceback for each fault that nobody foresaw, once:\n{log}"


def _four_fail(program: Program, systemd: Manager, faults: Path) -> None:
    faults.write_text("watcher disk\nconsumer memory\ncaptioner share\nhooks sqlite\n")
    wait_until(lambda: set(program.status()["faults"]) == set(LOOPS[:4]), what="the faults of four loops")
    put(program, "meanwhile.jpg", jpeg(seed=2))
    parts = health(program)
    assert [name for name in LOOPS if not parts[name]["ok"]] == list(LOOPS[:4])
    assert "the share does not answer; it is tried again by itself" in parts["captioner"]["detail"]
    shown = darkroom(program.base, "status").stdout
    assert "FAULT in the consumer for " in shown
    assert "an error in darkroom itself: MemoryError" in shown
    wait_until(lambda: "; the hooks: " in systemd.listen(), what="systemd's STATUS")
    # All go round, though in vain: a restart would not help, and costs what is in hand.
    fed = systemd.listen().count("WATCHDOG=1")
    wait_until(lambda: systemd.listen().count("WATCHDOG=1") > fed + 1, what="signs of life")


@pytest.mark.parametrize(
    "error", ["EIO", *(pytest.param(name, marks=pytest.mark.slow) for name in ("EHOSTDOWN", "ESTALE"))]
)
@on_a_faulty_disk
@pytest.mark.slow
def test_a_share_that_stutters_pauses_the_queue_for_that_moment(tmp_path: Path, error: str) -> None:
    with on_disk(tmp_path / "room", "library", "failed") as (program, disk):
        put(program, "1.jpg", jpeg(seed=1))
        program.wait_for(done=1)
        disk.set(errors={"statfs": error})
        put(program, "2.jpg", jpeg(seed=2))
        wait_until(lambda: program.status()["paused"], what="the pause")
        assert os.strerror(getattr(errno, error)) in program.status()["paused"]
        assert not health(program)["consumer"]["ok"]
        disk.set(errors={"getattr": error})
        wait_until(lambda: not health(program)["consumer"]["ok"])
        disk.heal()
        program.wait_for(done=2)
        wait_until(lambda: is_well(program))
        assert program.query("SELECT max(attempts) FROM image") == [(1,)], "no attempt is spent on it"


@pytest.mark.slow
@on_a_faulty_disk
def test_a_start_while_the_share_stutters_waits_for_it(tmp_path: Path) -> None:
    base = tmp_path / "room"
    with on_disk(base, "library") as (program, disk):
        put(program, "1.jpg", jpeg(seed=1))
        program.wait_for(done=1)
        assert program.stop() == 0
        disk.set(errors={"getattr": "EHOSTDOWN", "statfs": "EHOSTDOWN"})
        (base / "log").unlink()
        (base / "inbox/2.jpg").write_bytes(jpeg(seed=2))
        with Program(base) as again:
            wait_until(lambda: again.status()["paused"], what="the pause")
            disk.heal()
            again.wait_for(done=2)


@on_a_faulty_disk
@pytest.mark.slow
def test_names_that_a_filesystem_can_not_hold_are_shortened(tmp_path: Path) -> None:
    """143 bytes are all that eCryptfs has for a name, and there the reason's name is longer than the file's."""
    long, nearly, photo = "n" * 196 + ".jpg", "r" * 136 + ".jpg", jpeg(seed=1, taken="2024:05:01 12:00:00")
    with on_disk(tmp_path / "room", "library", "duplicates", "failed") as (program, disk):
        disk.set(name_max=143)
        put(program, long, photo)
        program.wait_for(done=1)
        put(program, f"again/{long}", photo)
        put(program, f"bad/{long}", b"no image")
        put(program, f"worse/{nearly}", b"no image at all")
        put(program, f"{'f' * 200}/sub/poem.jpg", b"no image in a folder of a long name")
        put(program, "good.jpg", jpeg(seed=2, taken="2024:05:01 12:00:00"))
        program.wait_for(done=2, duplicate=1, failed=3)
        library, failed = tree(disk.backing / "library"), tree(disk.backing / "failed")
        assert {"2024/05/" + "n" * 80 + ".jpg", "2024/05/good.jpg"} <= set(library)
        assert f"again/{'n' * 80}.jpg" in tree(disk.backing / "duplicates")
        assert {f"bad/{'n' * 80}.jpg", f"worse/{'r' * 80}.jpg", f"{'f' * 80}/sub/poem.jpg"} <= set(failed)
        assert len(failed) == 6, "each has its reason"
        wait_until(lambda: tree(program.base / "inbox") == {}, what="an empty inbox")
        assert is_well(program)


@pytest.mark.slow
@on_a_faulty_disk
def test_characters_that_a_filesystem_can_not_hold_are_replaced(tmp_path: Path) -> None:
    """As on exFAT, in all four folders; and back out by `undo`, onto such a disk."""
    with on_disk(tmp_path / "room", "library", "failed") as (program, disk):
        disk.set(refuse=":")
        put(program, "at 12:30.jpg", jpeg(seed=1, taken="2024:05:01 12:00:00"))
        put(program, "b:c/no:image.jpg", b"text")
        put(program, "good.jpg", jpeg(seed=2, taken="2024:05:01 12:00:00"))
        program.wait_for(done=2, failed=1)
        assert "2024/05/at 12_30.jpg" in tree(disk.backing / "library")
        assert "b_c/no_image.jpg" in tree(disk.backing / "failed")
        out = darkroom(program.base, "undo", "--since", "1h", "--to", str(disk.path / "out"))
        assert (out.returncode, out.stderr) == (0, "")
        assert set(tree(disk.backing / "out")) == {"at 12_30.jpg", "at 12_30.jpg.xmp", "good.jpg", "good.jpg.xmp"}


@pytest.mark.slow
@on_a_faulty_disk
def test_an_upload_of_a_name_that_the_inbox_can_not_hold(tmp_path: Path) -> None:
    with on_disk(tmp_path / "room", "inbox") as (program, disk):
        disk.set(name_max=143, refuse=":")
        assert program.ask(f"/api/images?name={'u' * 180}.jpg", "POST", jpeg(seed=1))[0] == 202
        assert program.ask("/api/images?name=12:30.jpg", "POST", jpeg(seed=2))[0] == 202
        program.wait_for(done=2)
        names = {row["original_name"] for row in program.images()}
        assert names == {f"{'u' * 180}.jpg", "12:30.jpg"}, "the name it came with is kept"


@pytest.mark.slow
def test_a_path_that_fits_the_inbox_but_not_failed(tmp_path: Path) -> None:
    """And one that is too long for one call: what lies so deep goes under its plain name."""
    base = tmp_path / "room"
    long, photo = "/".join(["f" * 200] * 12), jpeg(seed=1)
    toml = f'[folders]\nfailed = "{base}/{long}/failed"\nduplicates = "{base}/{long}/duplicates"\n{QUICK}'
    with Program(base, toml) as program:
        deep = "/".join(["d" * 100] * 24)
        put(program, f"{deep}/poem.jpg", b"no image")
        put(program, "a.jpg", photo)
        program.wait_for(done=1, failed=1)
        put(program, f"{deep}/b.jpg", photo)
        program.wait_for(done=1, duplicate=1, failed=1)
        assert set(tree(base / long / "failed")) == {"poem.jpg", "poem.jpg.reason.txt"}
        _make_unreachable(base / "inbox", 4096)
        put(program, "c.jpg", jpeg(seed=3))
        program.wait_for(done=2, failed=2)
        name = "u" * 80 + ".jpg"
        left = f"SELECT error FROM image WHERE destination = '{name}' AND path IS NULL"
        wait_until(lambda: "not an image" in str(program.query(left)), what="that it has left the inbox")
        assert tree(base / long / "failed")[name] == b"no image"
        assert is_well(program)
        assert program.stop() == 0
        with Program(base) as again:
            put(again, "d.jpg", jpeg(seed=4))
            again.wait_for(done=3, failed=2)
            assert is_well(again)


def _make_unreachable(folder: Path, size: int) -> None:
    """Make a file whose whole path is just longer than the kernel takes, though each folder's is not."""
    fd = os.open(folder, os.O_RDONLY)
    length = len(str(folder))
    while length + 101 < size - 60:
        os.mkdir("e" * 100, dir_fd=fd)
        fd, old = os.open("e" * 100, os.O_RDONLY, dir_fd=fd), fd
        os.close(old)
        length += 101
    file = os.open("u" * 80 + ".jpg", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.write(file, b"no image")
    os.close(file)
    os.close(fd)


@pytest.mark.slow
def test_a_thousand_folders_in_each_other(tmp_path: Path) -> None:
    """Found at the start, and moved in while the program runs; the emptied ones are there at the next start."""
    base = tmp_path / "room"
    (base / "inbox").mkdir(parents=True)
    _nest(base / "inbox", "x", 1200, jpeg(seed=1))
    _nest(base / "inbox", "z", 1200, b"no image")
    _nest(base, "y", 1200, jpeg(seed=2))
    with Program(base, QUICK) as program:
        program.wait_for(60, done=1, failed=1)
        (base / "y").rename(base / "inbox/y")
        program.wait_for(60, done=2)
        put(program, "top.jpg", jpeg(seed=3))
        program.wait_for(done=3)
        assert health(program)["consumer"]["ok"]
        assert "a thousand deep" in health(program)["watcher"]["detail"]
        assert darkroom(base, "doctor", "--json").stdout
        assert program.stop() == 0
        assert "Traceback" not in program.log()
    with Program(base) as program:
        put(program, "last.jpg", jpeg(seed=4))
        program.wait_for(60, done=4)
        assert "Traceback" not in program.log()
    for name in ("inbox", "failed"):
        # Python's own rmtree calls itself for each folder in a folder.
        subprocess.run(["rm", "-rf", str(base / name)], check=True)


def _nest(folder: Path, name: str, depth: int, content: bytes) -> None:
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        fd, old = os.open(name, os.O_RDONLY, dir_fd=fd), fd
        os.close(old)
    file = os.open("deep.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.write(file, content)
    os.close(file)
    os.close(fd)


@without_rights
@pytest.mark.slow
def test_retry_of_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    base = tmp_path / "room"
    with Program(base, QUICK, under=HUMBLE) as program:
        put(program, "poem.txt", b"roses are red")
        program.wait_for(failed=1)
        (base / "failed/poem.txt").chmod(0)
        answer = darkroom(base, "retry", "1", under=HUMBLE)
        assert (answer.returncode, answer.stdout) == (1, "0 images queued again\n")
        assert answer.stderr.count("\n") == 1
        assert "poem.txt: permission denied: owned by" in answer.stderr
        status, document = program.ask("/api/images/1/retry", "POST")
        assert status == 409
        assert "permission denied" in document["error"]["message"]
        put(program, "a.jpg", jpeg())
        program.wait_for(done=1, failed=1)
        assert program.stop() == 0
    with Program(base, under=HUMBLE) as program:
        put(program, "b.jpg", jpeg(seed=2))
        program.wait_for(done=2, failed=1)
        (base / "failed/poem.txt").chmod(0o600)
        assert darkroom(base, "retry", "1", under=HUMBLE).returncode == 0
        program.wait_for(done=2, failed=1)
        wait_until(lambda: program.query("SELECT count(*) FROM event WHERE kind = 'failed'") == [(2,)])
        wait_until(lambda: tree(base / "inbox") == {}, what="an empty inbox")


@pytest.mark.slow
@without_rights
def test_a_row_that_was_left_on_its_way_out_of_failed_is_put_right(tmp_path: Path) -> None:
    """The state in which an earlier version left such a retry: every start died of it."""
    base = tmp_path / "room"
    with Program(base, QUICK, under=HUMBLE) as program:
        put(program, "poem.txt", b"roses are red")
        program.wait_for(failed=1)
        assert program.stop() == 0
    (base / "failed/poem.txt").chmod(0)
    with closing(sqlite3.connect(base / "state/darkroom.db")) as database:
        database.execute("UPDATE image SET status = 'queued', path = 'poem.txt', attempts = 0")
        database.commit()
    with Program(base, under=HUMBLE) as program:
        put(program, "a.jpg", jpeg())
        program.wait_for(done=1, failed=1)
        wait_until(lambda: tree(base / "inbox") == {}, what="an empty inbox")
        assert is_well(program)


@pytest.mark.slow
def test_many_retries_at_once_queue_each_file_once(tmp_path: Path) -> None:
    base = tmp_path / "room"
    poems = {f"{number}.txt": b"poem %d" % number for number in range(6)}
    with Program(base, QUICK) as program:
        for name, poem in poems.items():
            put(program, name, poem)
        program.wait_for(failed=6)
        with ThreadPoolExecutor(6) as pool:
            tries = [pool.submit(darkroom, base, "retry", "--failed") for _ in range(3)]
            tries += [pool.submit(program.ask, f"/api/images/{1 + n % 6}/retry", "POST") for n in range(18)]  # type: ignore[arg-type]
            for each in tries:
                each.result()
        program.wait_for(failed=6, queued=0, processing=0)
        failed = {name: content for name, content in tree(base / "failed").items() if not name.endswith("reason.txt")}
        assert sorted(failed.values()) == sorted(poems.values()), "no file is lost, none is doubled"
        wait_until(lambda: tree(base / "inbox") == {}, what="an empty inbox")
        assert "Traceback" not in program.log()


@pytest.mark.slow
@on_a_faulty_disk
def test_an_undo_whose_disk_was_pulled_stops_no_start(tmp_path: Path) -> None:
    base = tmp_path / "room"
    with on_disk(base, "duplicates") as (program, disk):
        put(program, "a.jpg", jpeg(taken="2024:05:01 12:00:00"))
        program.wait_for(done=1)
        assert program.stop() == 0
        out = disk.path / "out"
        out.mkdir()
        disk.set(errors={"getattr": "EIO", "link": "EIO", "create": "EIO"}, within="out")
        old = base / "library/2024/05/a.jpg"
        for rows in (True, False):
            moves = [{"old": str(old), "new": str(out / "a:b.jpg"), "sha256": "0" * 64}]
            journal = {"image_id": 1, "to": str(out), "moves": moves, "rows": rows}
            with closing(sqlite3.connect(base / "state/darkroom.db")) as database:
                value = json.dumps(journal)
                database.execute("INSERT OR REPLACE INTO setting (key, value) VALUES ('undo', ?)", (value,))
                database.commit()
            if not rows:
                old = base / "library/2024"  # a folder can't be unlinked: the last step fails for good
                moves[0]["old"] = str(old)
            (base / "log").unlink()
            with Program(base) as again:
                put(again, f"b{rows}.jpg", jpeg(seed=2 + rows))
                again.wait_for(done=2 + (not rows))
                assert again.stop() == 0
        answer = darkroom(base, "undo", "1", "--to", str(out))
        assert answer.returncode == 1
        assert "Traceback" not in answer.stderr


@pytest.mark.slow
@on_a_faulty_disk
def test_a_disk_that_is_full_of_the_database(tmp_path: Path) -> None:
    """What arrives then is queued once there is room, and nobody says that darkroom is at fault."""
    with on_disk(tmp_path / "room", "state") as (program, disk):
        put(program, "1.jpg", jpeg(seed=1))
        program.wait_for(done=1)
        disk.set(errors={"write": "ENOSPC"}, within="darkroom.db")
        put(program, "2.jpg", jpeg(seed=2))
        wait_until(lambda: "disk" in health(program)["watcher"]["detail"], what="the fault of the watcher")
        assert "darkroom itself" not in str(health(program))
        disk.heal()
        program.wait_for(done=2)
        wait_until(lambda: is_well(program), 30)


@pytest.mark.slow
@on_a_faulty_disk
def test_a_hung_share_holds_up_neither_the_health_check_nor_the_end(tmp_path: Path) -> None:
    with on_disk(tmp_path / "room", "library") as (program, disk):
        assert program.stop() == 0
        disk.set(hang=["statfs"])
        (program.base / "log").unlink()
        with Program(program.base) as again:
            wait_until(disk.hanging, what="the check of the free space at the start")
            began = time.monotonic()
            status, answer = again.ask("/healthz")
            assert status == 503
            assert "does not answer" in answer["error"]["message"]
            assert time.monotonic() - began < 8
            assert again.stop() == 0


@pytest.mark.slow
def test_words_that_were_written_before_filing_stay(tmp_path: Path) -> None:
    with Gemini() as server:
        environ = {"GEMINI_API_KEY": "key", "GOOGLE_GEMINI_BASE_URL": server.url}
        with Program(tmp_path / "room", QUICK, **environ) as program:
            path = program.base / "inbox/a.jpg"
            photo = jpeg(seed=1)
            with path.open("wb") as slow:
                slow.write(photo[:100])
                slow.flush()
                wait_until(lambda: program.query("SELECT count(*) FROM image") == [(1,)], what="the row")
                words = json.dumps({"caption": "The garden in May", "keywords": ["garden"]}).encode()
                assert program.ask("/api/images/1", "PATCH", words)[0] == 200
                slow.write(photo[100:])
            program.wait_for(done=1)
            put(program, "b.jpg", jpeg(seed=2))
            wait_until(lambda: program.query("SELECT caption_status FROM image WHERE id = 2") == [("done",)])
            mine = program.ask("/api/images/1")[1]["data"]
            assert (mine["caption"], mine["caption_status"]) == ("The garden in May", "done")
            assert mine["keywords"] == ["garden"]
            assert len(server.asked) == 1, "no model was asked for the words that are there"


@pytest.mark.slow
def test_a_second_status_never_stops_a_start(tmp_path: Path) -> None:
    base = tmp_path / "room"
    with Program(base, QUICK) as program:
        assert program.stop() == 0
    code = "import sys, pathlib, daemon.lock\nwhile True: daemon.lock.running(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(base / "state")]
    asking = [subprocess.Popen(command, env=environment()) for _ in range(2)]
    try:
        for _ in range(3):
            assert darkroom(base, "run", "--once").returncode == 0
    finally:
        for one in asking:
            one.kill()
            one.wait()
