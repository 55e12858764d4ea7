"""Without the calls that Linux alone has, as on macOS, photos are filed all the same.

That is as much as can be tried here: no Mac has played it. The decoders, which start with an environment of their own,
are as they are.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import Program, environment
from tests.support import jpeg, tree, wait_until

ROOT = Path(__file__).parent.parent
# What Python's modules lack there.
_LACKING = """
import fcntl, os, socket
for module, names in (
    (os, "fdatasync listxattr getxattr setxattr removexattr posix_fadvise sched_getaffinity copy_file_range O_PATH"),
    (fcntl, "F_SETLEASE F_GETLEASE F_NOTIFY F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW"),
    (socket, "SO_PEERCRED SOCK_CLOEXEC SOCK_NONBLOCK"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""


@pytest.mark.slow
def test_photos_are_filed_without_the_calls_of_linux(tmp_path: Path) -> None:
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking/sitecustomize.py").write_text(_LACKING)
    lacking = {"PYTHONPATH": f"{tmp_path / 'lacking'}:{ROOT}"}

    def darkroom(*words: str) -> str:
        command = [sys.executable, "-m", "daemon", *words]
        there = tmp_path / "room"
        return subprocess.run(
            command, cwd=there, env=environment(**lacking), capture_output=True, text=True, check=True
        ).stdout

    with Program(tmp_path / "room", "[inbox]\nsettle_seconds = 0.5\n", **lacking) as program:
        probe = "import os, socket; print(hasattr(os, 'fdatasync') or hasattr(socket, 'SO_PEERCRED'))"
        asked = [sys.executable, "-c", probe]
        assert subprocess.run(asked, env=environment(**lacking), capture_output=True).stdout == b"False\n"
        for number in (1, 2, 3):
            (program.folders.inbox / f"{number}.jpg").write_bytes(jpeg(seed=number, taken="2024:05:01 12:00:00"))
        program.wait_for(done=3)
        wait_until(lambda: not tree(program.folders.inbox), what="the inbox empty")
        assert "trash/library/2024/05/2.jpg" in darkroom("reject", "2")
        darkroom("restore", "2")
        assert program.stop() == 0
    darkroom("verify")
    darkroom("undo", "1", "--to", "out")
    darkroom("sync")
    (tmp_path / "room/out/1.jpg").rename(tmp_path / "room/inbox/1.jpg")
    darkroom("run", "--once")
    assert sorted(path.name for path in program.folders.library.rglob("*.jpg")) == ["1.jpg", "2.jpg", "3.jpg"]
