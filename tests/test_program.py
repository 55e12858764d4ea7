import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.program import Program, darkroom, environment
from tests.support import jpeg, slow, tree, wait_until


def photos_in(library: Path) -> list[bytes]:
    """Return the filed photos, without their sidecars."""
    return [content for name, content in tree(library).items() if not name.endswith(".xmp")]


def test_photos_copied_into_the_inbox_come_out_filed(tmp_path: Path) -> None:
    photos = {f"IMG_{n}.jpg": jpeg(seed=n, taken=f"2024:0{n}:01 12:00:00") for n in range(1, 6)}
    card = tmp_path / "card/DCIM"
    card.mkdir(parents=True)
    for name, content in photos.items():
        (card / name).write_bytes(content)
    with Program(tmp_path / "room") as program:
        shutil.copytree(tmp_path / "card", program.base / "inbox/card")
        program.wait_for(done=5, queued=0)
        filed = tree(program.base / "library")
        assert {name: filed[f"2024/0{n}/IMG_{n}.jpg"] for n, name in enumerate(photos, 1)} == photos
        for thumbnail in (program.base / "state/thumbnails").rglob("*.jpg"):
            with Image.open(thumbnail) as picture:
                picture.load()
        assert program.stop() == 0
    assert "Traceback" not in program.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT)])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: int) -> None:
    with Program(tmp_path / "room") as program:
        begin = time.monotonic()
        assert program.stop(number) == 0
        assert time.monotonic() - begin < 8
    assert "Traceback" not in program.log()
    assert darkroom(program.base, "status").stdout.startswith("darkroom is not running")


@pytest.mark.slow
def test_a_slow_writer_is_never_taken_half_way(tmp_path: Path) -> None:
    photo = jpeg((400, 300))
    with Program(tmp_path / "room", "[inbox]\nsettle_seconds = 0.1\nrescan_seconds = 0.3\n") as program:
        with (program.base / "inbox/slow.jpg").open("wb", buffering=0) as writer:
            for part in range(4):
                writer.write(photo[part * len(photo) // 4 : (part + 1) * len(photo) // 4])
                # It is looked at, and looked at again, with the file open.
                wait_until(lambda: program.query("SELECT waiting FROM image") == [("writer",)])
                before = program.query("SELECT claimed_at FROM image")
                wait_until(lambda: program.query("SELECT claimed_at FROM image") > before)  # noqa: B023
                program.wait_for(done=0)
        program.wait_for(done=1)
        [filed] = photos_in(program.base / "library")
        assert filed == photo
        assert program.images()[0]["attempts"] == 1


@pytest.mark.slow
def test_kill_and_start_again(tmp_path: Path) -> None:
    photos = {f"{n}.jpg": jpeg((800, 600), seed=n) for n in range(12)}
    with Program(tmp_path / "room") as program:
        for name, content in photos.items():
            (program.base / "inbox" / name).write_bytes(content)
        wait_until(lambda: tree(program.base / "library"))
        os.killpg(program.process.pid, signal.SIGKILL)
        program.process.wait()
    with program:
        program.wait_for(done=12, queued=0, processing=0)
        assert sorted(photos_in(program.base / "library")) == sorted(photos.values())
        assert tree(program.base / "inbox") == {}
        assert program.stop() == 0


@pytest.mark.slow
def test_what_can_not_be_filed_goes_to_failed_and_the_rest_goes_on(tmp_path: Path) -> None:
    with Program(tmp_path / "room", "[inbox]\nincomplete_minutes = 0.01\n") as program:
        inbox = program.base / "inbox"
        (inbox / "text.jpg").write_text("no photo at all\n" * 10)
        (inbox / "empty.jpg").touch()
        (inbox / "half.jpg").write_bytes(jpeg((400, 300))[:-9000])
        (inbox / "link.jpg").symlink_to("/etc/passwd")
        os.mkfifo(inbox / "pipe.jpg")
        (inbox / "odd\n\"name'.jpg").write_bytes(jpeg(seed=1))
        (inbox / ("x" * 251 + ".jpg")).write_bytes(jpeg(seed=2))
        program.wait_for(done=2, failed=5, queued=0)
        reasons = {row["original_name"]: row["error"] for row in program.images() if row["status"] == "failed"}
        assert "text" in reasons["text.jpg"]
        assert "empty" in reasons["empty.jpg"]
        assert "end" in reasons["half.jpg"]
        assert "symbolic link" in reasons["link.jpg"]
        assert "pipe" in reasons["pipe.jpg"]
        for name in ("text.jpg", "empty.jpg", "half.jpg", "link.jpg", "pipe.jpg"):
            assert (program.base / "failed" / f"{name}.reason.txt").is_file()
        assert list(inbox.iterdir()) == []
        listing = darkroom(program.base, "list", "--status", "failed").stdout
        assert "failed/text.jpg" in listing
        failed_ids = [str(row["image_id"]) for row in program.images() if row["original_name"] == "half.jpg"]
        (program.base / "failed/half.jpg").write_bytes(jpeg((400, 300), seed=3))
        assert darkroom(program.base, "retry", *failed_ids).returncode == 0
        program.wait_for(done=3, failed=4, queued=0)
        assert not (program.base / "failed/half.jpg.reason.txt").exists()


def test_once_files_what_is_there_and_says_what_failed(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[inbox]\nsettle_seconds = 0.05\n")
    (tmp_path / "inbox/card").mkdir(parents=True)
    (tmp_path / "inbox/card/a.jpg").write_bytes(jpeg())
    first = darkroom(tmp_path, "run", "--once")
    assert first.returncode == 0, first.stderr
    assert len(photos_in(tmp_path / "library")) == 1
    assert list((tmp_path / "inbox").iterdir()) == [], "the emptied subfolder is removed"
    (tmp_path / "inbox/b.jpg").write_text("text")
    with (tmp_path / "inbox/c.jpg").open("wb") as writer:
        writer.write(b"\xff\xd8")
        writer.flush()
        second = darkroom(tmp_path, "run", "--once")
    assert second.returncode == 1
    assert "1 failed" in second.stderr
    assert "open for writing" in second.stderr
    assert list(tree(tmp_path / "inbox")) == ["c.jpg"]


@pytest.mark.slow
def test_a_second_program_on_the_same_folders_refuses_to_start(tmp_path: Path) -> None:
    with Program(tmp_path / "room") as program:
        second = darkroom(program.base, "run")
        assert (second.returncode, "already running" in second.stderr) == (1, True)
        (tmp_path / "other").mkdir()
        (tmp_path / "other/config.toml").write_text(f'[folders]\ninbox = "{program.base}/inbox"\n')
        third = darkroom(tmp_path / "other", "run")
        assert (third.returncode, "another darkroom" in third.stderr) == (1, True)
        assert "Traceback" not in second.stderr + third.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a capability")
def test_decoders_do_without_the_right_that_the_unit_gives(tmp_path: Path) -> None:
    with Program(tmp_path, under=("setpriv", "--inh-caps=-all", "--bounding-set=-all,+lease")) as program:
        (tmp_path / "inbox/a.jpg").write_bytes(jpeg())
        program.wait_for(done=1)
        started = psutil.Process(program.process.pid).children(recursive=True)
        decoders = [one.pid for one in started]
        assert decoders
        assert capabilities(program.process.pid) == {"CapPrm": 1 << 28, "CapEff": 1 << 28}
        for pid in decoders:
            assert capabilities(pid) == {"CapPrm": 0, "CapEff": 0}


def capabilities(pid: int) -> dict[str, int]:
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {line[0].rstrip(":"): int(line[1], 16) for line in lines if line[0] in {"CapPrm:", "CapEff:"}}


_AS_NOBODY = """
import os, sys
from pathlib import Path
from tests.support import Room, tree
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
room = Room(Path(sys.argv[1]), "[inbox]\\nsettle_seconds = 0.05\\n[limits]\\nattempts = 1\\n")
room.drain()
while (due := room.queue.next_due()) is not None:
    room.drain(due)
print(sorted((row["original_name"], row["status"], row["error"]) for row in room.rows()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_file_that_another_user_keeps_to_himself() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "inbox").mkdir()
        for name, mode in (("mine.jpg", 0o600), ("ours.jpg", 0o644)):
            (base / "inbox" / name).write_bytes(name.encode())
            (base / "inbox" / name).chmod(mode)
        for open_to_all in (base, base / "inbox"):
            open_to_all.chmod(0o777)
        command = [sys.executable, "-c", _AS_NOBODY, folder]
        ran = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        assert "'mine.jpg', 'failed', 'permission denied: owned by root, mode 0600" in ran.stdout
        assert "'ours.jpg', 'done'" in ran.stdout
        assert tree(base / "failed")["mine.jpg"] == b"mine.jpg"
        # Not the owner: no lease and no link are to be had, so it is the quiet time and a copy.
        assert list(tree(base / "library").values()) == [b"ours.jpg"]
        assert tree(base / "inbox") == {}


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--help"], 0, "COMMAND"),
        (["run", "--help"], 0, "example: darkroom run"),
        ([], 2, "COMMAND"),
        (["retry"], 2, "or say --failed"),
        (["list", "--limit", "0"], 2, "1 or more"),
        (["run", "--config", "none.toml"], 2, "no such file"),
        (["status"], 1, "there is no darkroom in "),
    ],
)
def test_the_command_line(tmp_path: Path, words: list[str], code: int, part: str) -> None:
    answer = darkroom(tmp_path, *words)
    assert (answer.returncode, part in answer.stdout + answer.stderr) == (code, True)
    assert "Traceback" not in answer.stderr


def test_folders_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "library").write_text("a file")
    (tmp_path / "failed").write_text("a file")
    answer = darkroom(tmp_path, "run")
    assert answer.returncode == 2
    assert "library" in answer.stderr
    assert "failed" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [("list",), ("list", "--json"), ("status",), ("doctor",)])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "inbox").mkdir()
    for number in range(3):
        (tmp_path / f"inbox/{number}.jpg").write_bytes(jpeg(seed=number))
    darkroom(tmp_path, "run", "--once")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "daemon", *words]
    outcome = subprocess.run(
        command, cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (outcome.returncode, outcome.stderr) == (1, b"")


@pytest.mark.slow
def test_output_that_cannot_be_written_is_said_in_a_line(tmp_path: Path) -> None:
    darkroom(tmp_path, "run", "--once")
    with Path("/dev/full").open("wb") as full:
        outcome = subprocess.run(
            [sys.executable, "-m", "daemon", "status"],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("darkroom: ")
    assert "No space left" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
