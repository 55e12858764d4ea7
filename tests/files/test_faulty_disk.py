"""The disk that misbehaves: sound it is like any other, and each fault comes, is confined, and goes."""

import ctypes
import errno
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.faulty_disk import FaultyDisk, NotMounted, can_mount, faulty_disk
from tests.support import wait_until

pytestmark = pytest.mark.skipif(not can_mount(), reason="no FUSE filesystem can be mounted here")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FaultyDisk]:
    with faulty_disk(tmp_path / "disk") as made:
        yield made


def refused(act: Callable[[], object]) -> str:
    """Return the name of the errno that a call fails with, "" if it does not."""
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def test_files_are_what_they_are_below(disk: FaultyDisk) -> None:
    file, below = disk.path / "a.jpg", disk.backing / "a.jpg"
    file.write_bytes(b"12345678")
    file.chmod(0o640)
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    (disk.path / "b.jpg").hardlink_to(file)
    os.setxattr(file, "user.tag", b"blue")
    seen, real = file.stat(), below.stat()
    assert (seen.st_mode, seen.st_size, seen.st_nlink, seen.st_ino) == (stat.S_IFREG | 0o640, 8, 2, real.st_ino)
    assert (
        (seen.st_atime_ns, seen.st_mtime_ns) == (1, 1_234_567_890_123_456_789) == (real.st_atime_ns, real.st_mtime_ns)
    )
    assert seen.st_ino == (disk.path / "b.jpg").stat().st_ino
    assert os.getxattr(below, "user.tag") == b"blue"
    os.truncate(file, 3)
    with file.open("r+b") as opened:
        opened.truncate(2)
        opened.seek(0, os.SEEK_END)
        opened.write(b"!")
    with file.open("ab") as opened:
        opened.write(b"?")
    assert below.read_bytes() == file.read_bytes() == b"12!?"
    before = file.stat().st_mtime_ns
    subprocess.run(["touch", "-a", file], check=True)
    assert file.stat().st_mtime_ns == before
    assert file.stat().st_atime_ns > before


def test_names_and_folders_are_what_they_are_below(disk: FaultyDisk) -> None:
    deep = disk.path.joinpath(*["folder of a name that is long enough"] * 30)
    deep.mkdir(parents=True)
    odd = os.fsencode(deep) + b"/caf\xe9.jpg"
    Path(os.fsdecode(odd)).write_bytes(b"odd")
    (deep / "link").symlink_to(os.fsdecode(b"caf\xe9.jpg"))
    assert sorted(os.listdir(os.fsencode(deep))) == [b"caf\xe9.jpg", b"link"]
    assert (deep / "link").read_bytes() == b"odd"
    assert {entry.name: entry.is_symlink() for entry in os.scandir(deep)}["link"]
    assert refused((deep / "link").mkdir) == "EEXIST"
    assert refused(deep.parent.rmdir) == "ENOTEMPTY"
    assert os.statvfs(disk.path).f_blocks == os.statvfs(disk.backing).f_blocks
    assert os.statvfs(disk.path).f_namemax == 255


def test_nothing_is_replaced_unasked(disk: FaultyDisk) -> None:
    first, second = disk.path / "first", disk.path / "second"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    assert renameat2(-100, os.fsencode(first), -100, os.fsencode(second), 1) == -1  # RENAME_NOREPLACE
    assert ctypes.get_errno() == errno.EEXIST
    assert refused(lambda: os.open(second, os.O_CREAT | os.O_EXCL | os.O_WRONLY)) == "EEXIST"
    assert refused(lambda: os.link(first, second)) == "EEXIST"
    assert second.read_bytes() == b"2"
    assert renameat2(-100, os.fsencode(first), -100, os.fsencode(second.with_name("third")), 1) == 0
    second.with_name("third").replace(second)
    assert {path.name: path.read_bytes() for path in disk.backing.iterdir()} == {"second": b"1"}


def test_a_file_deleted_while_open_is_in_nobodys_way(disk: FaultyDisk) -> None:
    folder = disk.path / "folder"
    folder.mkdir()
    with (folder / "a").open("w+b") as opened:
        opened.write(b"still there")
        opened.flush()
        (folder / "a").unlink()
        assert os.listdir(folder) == os.listdir(disk.backing / "folder") == []
        assert os.fstat(opened.fileno()).st_nlink == 0
        opened.seek(0)
        assert opened.read() == b"still there"
        folder.rmdir()
        opened.seek(0)
        assert opened.read() == b"still there"
    assert os.listdir(disk.path) == []


def test_a_database_can_be_kept_on_it(disk: FaultyDisk) -> None:
    with closing(sqlite3.connect(disk.path / "some.db")) as one, closing(sqlite3.connect(disk.path / "some.db")) as two:
        assert one.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        with one:
            one.execute("CREATE TABLE t AS SELECT 1 AS n")
        assert two.execute("SELECT n FROM t").fetchall() == [(1,)]


def test_other_accounts_may_use_it_within_their_rights() -> None:
    with tempfile.TemporaryDirectory() as folder, faulty_disk(Path(folder) / "disk") as disk:
        Path(folder).chmod(0o755)
        (disk.path / "theirs").mkdir()
        os.chown(disk.path / "theirs", 65534, 65534)
        (disk.path / "mine").mkdir()
        command = "umask 027; touch theirs/file && mkdir theirs/folder && ! touch mine/file 2>/dev/null"
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", command]
        subprocess.run(nobody, cwd=disk.path, check=True)
        for name, mode in (("file", stat.S_IFREG | 0o640), ("folder", stat.S_IFDIR | 0o750)):
            found = (disk.backing / "theirs" / name).stat()
            assert (found.st_uid, found.st_gid, found.st_mode) == (65534, 65534, mode)


def test_long_names(disk: FaultyDisk) -> None:
    long, fits = disk.path / ("é" * 72), disk.path / ("é" * 71)
    long.write_bytes(b"from before")
    disk.set(name_max=143)
    assert os.statvfs(disk.path).f_namemax == 143
    fits.write_bytes(b"")
    acts: list[Callable[[], object]] = [long.stat, long.read_bytes, long.unlink, lambda: fits.rename(long)]
    acts += [lambda: os.link(fits, long), lambda: long.write_bytes(b""), (disk.path / ("x" * 144)).mkdir]
    assert {refused(act) for act in acts} == {"ENAMETOOLONG"}
    disk.heal()
    assert long.read_bytes() == b"from before"


def test_refused_characters(disk: FaultyDisk) -> None:
    plain, refuses = disk.path / "plain", disk.path / "12:34:56"
    plain.write_bytes(b"")
    disk.set(refuse=':"?')
    acts: list[Callable[[], object]] = [refuses.stat, refuses.mkdir, lambda: plain.rename(refuses)]
    acts += [lambda: os.link(plain, refuses), lambda: refuses.symlink_to(plain), lambda: refuses.write_bytes(b"")]
    assert {refused(act) for act in acts} == {"EINVAL"}
    disk.heal()
    refuses.mkdir()


def test_each_operation_can_fail(disk: FaultyDisk) -> None:
    file, folder, link, new = (disk.path / name for name in ("file", "folder", "link", "new"))
    file.write_bytes(b"bytes")
    folder.mkdir()
    link.symlink_to("file")

    def write() -> None:
        new.write_bytes(b"bytes")

    def sync() -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    acts: dict[str, Callable[[], object]] = {
        "chmod": lambda: file.chmod(0o600),
        "chown": lambda: os.chown(file, 1, 1),
        "create": write,
        "flush": write,
        "fsyncdir": sync,
        "getattr": file.stat,
        "link": lambda: os.link(file, new),
        "listxattr": lambda: os.listxattr(file),
        "mkdir": new.mkdir,
        "mknod": lambda: os.mkfifo(new),
        "open": file.read_bytes,
        "opendir": lambda: os.listdir(folder),
        "read": file.read_bytes,
        "readdir": lambda: os.listdir(folder),
        "readlink": lambda: os.readlink(link),
        "rename": lambda: file.rename(new),
        "rmdir": folder.rmdir,
        "setxattr": lambda: os.setxattr(file, "user.tag", b""),
        "statfs": lambda: os.statvfs(folder),
        "symlink": lambda: new.symlink_to(file),
        "truncate": lambda: os.truncate(file, 1),
        "unlink": file.unlink,
        "utimens": lambda: os.utime(file),
        "write": write,
    }
    for operation, act in acts.items():
        disk.set(errors={operation: "EHOSTDOWN"})
        assert (operation, refused(act)) == (operation, "EHOSTDOWN")
        disk.heal()
        new.unlink(missing_ok=True)
    assert sorted(os.listdir(disk.backing)) == ["file", "folder", "link"]
    assert file.read_bytes() == b"bytes"


def test_faults_stay_within_their_paths(disk: FaultyDisk) -> None:
    for name in ("2024", "2025"):
        (disk.path / name).mkdir()
    disk.set(errors={"create": "EIO", "rename": "EILSEQ"}, name_max=10, within="2024/")
    (disk.path / "2025/12345678901").write_bytes(b"")
    assert refused(lambda: (disk.path / "2024/1").write_bytes(b"")) == "EIO"
    assert refused((disk.path / "2024/12345678901").stat) == "ENAMETOOLONG"
    assert refused(lambda: (disk.path / "2025/12345678901").rename(disk.path / "2024/2")) == "EILSEQ"


def test_faults_reach_files_that_are_open(disk: FaultyDisk) -> None:
    (disk.path / "a").write_bytes(b"12345678")
    with (disk.path / "a").open("r+b", buffering=0) as opened:
        assert opened.read(4) == b"1234"
        disk.set(errors={"read": "ESTALE", "write": "ENOSPC", "fsync": "EDQUOT", "getattr": "EHOSTDOWN"})
        assert refused(opened.read) == "ESTALE"
        assert refused(lambda: opened.write(b"5")) == "ENOSPC"
        assert refused(lambda: os.fsync(opened.fileno())) == "EDQUOT"
        assert refused(lambda: os.fstat(opened.fileno())) == "EHOSTDOWN"
        disk.heal()
        assert opened.read() == b"5678"


@contextmanager
def reading(path: Path, script: str = 'exec cat "$1"') -> Iterator[subprocess.Popen[bytes]]:
    """Read a file in another process, which is killed if need be."""
    command = ["sh", "-c", script, "sh", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_hangs_goes_on_when_healed_and_others_go_on_before(disk: FaultyDisk) -> None:
    (disk.path / "a").write_bytes(b"of a")
    (disk.path / "b").write_bytes(b"of b")
    disk.set(hang={"open"}, within="a")
    with reading(disk.path / "a") as hung:
        wait_until(disk.hanging, what="hanging")
        assert (disk.path / "b").read_bytes() == b"of b"
        assert hung.poll() is None
        disk.heal()
        assert hung.communicate(timeout=10)[0] == b"of a"
    assert disk.hanging() == 0


def test_many_may_hang_and_then_fail(disk: FaultyDisk) -> None:
    (disk.path / "a").write_bytes(b"some")
    (disk.path / "b").write_bytes(b"some")
    disk.set(hang={"open"}, within="a")
    with ExitStack() as stack:
        hung = [stack.enter_context(reading(disk.path / "a")) for _ in range(20)]
        wait_until(lambda: disk.hanging() == 20, what="hanging")
        assert (disk.path / "b").read_bytes() == b"some"
        disk.set(errors={"open": "EIO"})
        assert all(b"Input/output error" in each.communicate(timeout=10)[1] for each in hung)


@pytest.mark.parametrize("operation", ["getattr", "open", "flush"])
def test_a_program_that_hangs_can_be_killed(disk: FaultyDisk, operation: str) -> None:
    (disk.path / "a").write_bytes(b"some")
    disk.set(hang={operation}, within="a")
    with reading(disk.path / "a", 'trap "echo goes on" TERM; read some < "$1"; read some < "$1"') as hung:
        wait_until(disk.hanging, what="hanging")
        hung.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            hung.wait(0.2)
        hung.kill()
        assert hung.communicate(timeout=10) == (b"", b"")
    wait_until(lambda: disk.hanging() == 0, what="the end")


def test_unmounting_leaves_nothing_whatever_hangs(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with faulty_disk(tmp_path) as disk:
            (disk.path / "a").write_bytes(b"some")
            assert str(disk.path) in mounts()
            disk.set(hang={"getattr"})
            hung = stack.enter_context(reading(disk.path / "a"))
            wait_until(disk.hanging, what="hanging")
        assert hung.communicate(timeout=10)[1]
    assert str(disk.path) not in mounts()
    assert list(disk.path.iterdir()) == []
    assert (disk.backing / "a").read_bytes() == b"some"
    with pytest.raises(ProcessLookupError):
        os.kill(disk.pid, 0)
    with faulty_disk(tmp_path) as again:
        assert (again.path / "a").read_bytes() == b"some"


def test_a_test_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from tests.faulty_disk import faulty_disk
        with faulty_disk(Path(sys.argv[1])) as disk:
            print(disk.pid, flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", "if True:" + script, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert str(tmp_path) in mounts()
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: str(tmp_path) not in mounts(), what="unmounting")
    wait_until(lambda: not Path(f"/proc/{child}/fd").exists() or not os.listdir(f"/proc/{child}/fd"), what="its end")


def test_mistakes_are_named(disk: FaultyDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="access"):
        disk.set(errors={"access": "EIO"})
    with pytest.raises(ValueError, match="EWHATEVER"):
        disk.set(errors={"open": "EWHATEVER"})
    with pytest.raises(ValueError, match="ENOSYS"):
        disk.set(errors={"opendir": "ENOSYS"})
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "/nowhere/libfuse.so")
    with pytest.raises(NotMounted, match=r"/nowhere/libfuse.so"), faulty_disk(tmp_path / "other"):
        pass
    os.kill(disk.pid, signal.SIGKILL)
    wait_until(lambda: refused(disk.path.stat) == "ENOTCONN", what="the end")
    with pytest.raises(NotMounted):
        disk.heal()
