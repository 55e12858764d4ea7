"""The state is its account's alone, whatever the umask and whatever an earlier version has left; the library is not."""

import fcntl
import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from daemon.app import open_catalogue
from daemon.config import load
from daemon.files import state_folder
from daemon.files.atomic import Root
from tests.program import HUMBLE, Program, darkroom
from tests.support import Room, jpeg, rest_slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


def modes(folder: Path) -> dict[str, str]:
    """Return the modes of a folder and of all that is in it, by relative path."""
    found = [folder, *sorted(folder.rglob("*"))]
    return {str(path.relative_to(folder)): f"{stat.S_IMODE(path.lstat().st_mode):o}" for path in found}


def open_ones(state: Path) -> list[str]:
    """List what in a state folder another account has any right to."""
    return [name for name, mode in modes(state).items() if not mode.endswith("00")]


@pytest.mark.parametrize("umask", rest_slow(["000", "022", "077"], 1))
def test_the_state_is_private_and_the_library_follows_its_folders_whatever_the_umask(
    tmp_path: Path, umask: str
) -> None:
    for name, mode in (("inbox", 0o755), ("library", 0o2775), ("failed", 0o750)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    (tmp_path / "config.toml").write_text("[web]\nport = 0\n")
    for name, content, mode in (("a.jpg", jpeg(), 0o600), ("b.jpg", jpeg(seed=2), 0o640), ("c.jpg", b"text", 0o644)):
        (tmp_path / "inbox" / name).write_bytes(content)
        (tmp_path / "inbox" / name).chmod(mode)
        os.utime(tmp_path / "inbox" / name, (1_714_560_000, 1_714_560_000))
    done = darkroom(tmp_path, "run", "--once", under=("sh", "-c", f'umask {umask}; exec "$@"', "sh"))
    assert "2 filed, 0 duplicates, 1 failed" in done.stderr
    assert open_ones(tmp_path / "state") == []
    assert {"darkroom.db", "lock", "thumbnails"} <= {path.name for path in (tmp_path / "state").iterdir()}
    filed = modes(tmp_path / "library")
    assert {mode for name, mode in filed.items() if "." not in name or name == "."} == {"2775"}
    assert {Path(name).name: mode for name, mode in filed.items() if ".jpg" in name} == {
        "a.jpg": "600",
        "a.jpg.xmp": "600",
        "b.jpg": "640",
        "b.jpg.xmp": "640",
    }
    assert modes(tmp_path / "failed")["c.jpg.reason.txt"] == "640", "who may look into the folder may read it"


@pytest.mark.slow
def test_a_running_program_leaves_nothing_in_its_state_open(tmp_path: Path) -> None:
    with Program(tmp_path, under=("sh", "-c", 'umask 000; exec "$@"', "sh")) as program:
        (tmp_path / "inbox/a.jpg").write_bytes(jpeg())
        program.wait_for(done=1)
        assert {"darkroom.db-wal", "darkroom.db-shm"} <= {path.name for path in (tmp_path / "state").iterdir()}
        assert open_ones(tmp_path / "state") == []


def test_what_an_earlier_version_has_left_is_closed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path / "room")
    room.put("a.jpg", b"a")
    room.drain()
    room.close()
    (room.state / "undo.lock").touch()
    for path in (room.state, *room.state.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (room.state / "theirs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").touch(0o644)
    assert len(open_ones(room.state)) > 250
    open_catalogue(room.config).close()
    assert open_ones(room.state) == ["theirs"], "a link has no mode of its own"
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o644
    monkeypatch.setattr(state_folder, "_below", lambda _: pytest.fail("the thumbnails are looked through again"))
    open_catalogue(room.config).close()


def test_a_filesystem_without_modes_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "state").mkdir(mode=0o755)
    monkeypatch.setattr(os, "chmod", refuse)
    state_folder.make(tmp_path / "state", tmp_path / "state/thumbnails")
    assert "stays open to other accounts: Operation not permitted" in caplog.text


@as_root
def test_nobody_else_can_take_a_lock_in_it() -> None:
    # Not in pytest's own folder, which is closed to others as a whole.
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o755)
        assert darkroom(base, "run", "--once").returncode == 0
        assert _locked_by_another_account(base / "library").returncode == 0
        for file in ("state", "state/lock", "state/darkroom.db", "state/thumbnails"):
            assert "Permission denied" in _locked_by_another_account(base / file).stderr, file


def _locked_by_another_account(path: Path) -> subprocess.CompletedProcess[str]:
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = [*other, "flock", "-n", str(path), "true"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_lock_that_somebody_holds_is_tried_again_by_systemd(tmp_path: Path) -> None:
    from daemon.systemd.units import Program as Started
    from daemon.systemd.units import unit

    (tmp_path / "config.toml").write_text("")
    (tmp_path / "state").mkdir()
    with (tmp_path / "state/lock").open("ab") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        refused = darkroom(tmp_path, "run")
    assert refused.returncode == 1, refused.stderr
    assert "already running" in refused.stderr
    lines = unit(load(tmp_path / "config.toml", {}), None, Started(("darkroom",), ()), "system", "anna").splitlines()
    assert {"Restart=on-failure", "RestartPreventExitStatus=2", "StartLimitIntervalSec=0"} <= set(lines)


def test_a_new_file_has_the_rights_of_its_folder_and_never_a_group_s_to_write(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        for folder, file in ((0o700, 0o600), (0o755, 0o644), (0o2770, 0o640), (0o1777, 0o644), (0o300, 0o600)):
            tmp_path.chmod(folder)
            with (Root(tmp_path) / f"{folder:o}").entry() as entry, entry.create() as made:
                assert stat.S_IMODE(os.fstat(made.fileno()).st_mode) == file, oct(folder)
    finally:
        os.umask(before)
        tmp_path.chmod(0o755)


@pytest.mark.slow
def test_an_account_without_rights_runs_it_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/a.jpg").write_bytes(jpeg())
    for _ in range(2):
        done = darkroom(tmp_path, "run", "--once", under=HUMBLE)
        assert done.returncode == 0, done.stderr
    assert open_ones(tmp_path / "state") == []
