import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.commands.explain import writers
from daemon.errors import DarkroomError, EnvironmentFault, Postponed, Rejected, Transient, Unresponsive, Withdrawn
from daemon.files.atomic import Root
from daemon.files.opening import (
    Lease,
    LeaseState,
    Snapshot,
    check_complete,
    compare,
    open_regular,
    seconds_until_stable,
)

ROOT = Path(__file__).parents[2]
FRESH = Snapshot(5, 0, 1000.0)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"photo" * 1000)
    return path


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = open_regular(path)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def child(code: str, path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that says "ready" and then does what it does until its standard input closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


WRITER = "import sys; f = open(sys.argv[1], 'ab'); print('ready', flush=True); sys.stdin.read()"
READER = "import sys; f = open(sys.argv[1], 'rb'); print('ready', flush=True); sys.stdin.read()"
MAPPER = """if True:
    import mmap, sys
    with open(sys.argv[1], 'r+b') as f:
        memory = mmap.mmap(f.fileno(), 0)
    print('ready', flush=True)
    sys.stdin.read()
"""


# Opening.


def test_a_regular_file_is_opened_for_reading(photo: Path) -> None:
    with opened(photo) as fd:
        assert os.read(fd, 5) == b"photo"
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert not os.get_inheritable(fd)


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_link, "is a symbolic link to '/etc/passwd', not a regular file"),
        (os.mkfifo, "is a named pipe"),
        (os.mkdir, "is a folder"),
    ],
)
def test_what_is_no_regular_file_is_rejected(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / "x.jpg")
    with pytest.raises(Rejected, match=message):
        open_regular(tmp_path / "x.jpg")


def test_a_device_is_never_opened() -> None:
    with pytest.raises(Rejected, match="is a device"):
        open_regular(Path("/dev/zero"))


def test_a_file_behind_a_linked_folder_is_not_there(tmp_path: Path) -> None:
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    for folder in (inbox / "trip", outside):
        folder.mkdir(parents=True)
        (folder / "x.jpg").write_bytes(b"1")
    (inbox / "linked").symlink_to(outside)
    os.close(open_regular(Root(inbox) / "trip/x.jpg"))
    with pytest.raises(Withdrawn):
        open_regular(Root(inbox) / "linked/x.jpg")
    assert (Root(inbox) / "linked/x.jpg").lstat() is None
    # The inbox itself may be reached by a link.
    (tmp_path / "link").symlink_to(inbox)
    os.close(open_regular(Root(tmp_path / "link") / "trip/x.jpg"))


def test_a_missing_file_is_withdrawn_and_a_missing_inbox_is_not(tmp_path: Path, photo: Path) -> None:
    with pytest.raises(Withdrawn):
        open_regular(Root(tmp_path) / "gone.jpg")
    with pytest.raises(Withdrawn):
        open_regular(Root(tmp_path) / photo.name / "gone.jpg")
    with pytest.raises(EnvironmentFault, match=r"the folder .* can't be read: No such file or directory"):
        open_regular(Root(tmp_path / "inbox") / "gone.jpg")


def test_names_that_no_filesystem_takes_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="name is too long"):
        open_regular(Root(tmp_path) / ("x" * 256))


@contextmanager
def unprivileged() -> Iterator[Path]:
    """Return a folder that a stranger may enter, and be that stranger if we are root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def as_stranger() -> Iterator[None]:
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_that_may_not_be_read_says_whose_it_is() -> None:
    with unprivileged() as folder:
        (folder / "mine.jpg").write_bytes(b"1")
        (folder / "mine.jpg").chmod(0)
        (folder / "locked").mkdir()
        (folder / "locked/x.jpg").write_bytes(b"1")
        (folder / "locked").chmod(0o000)
        try:
            owner = (folder / "mine.jpg").owner()
        except KeyError:
            owner = f"user {os.geteuid()}"
        with as_stranger():
            with pytest.raises(Transient, match=f"permission denied: owned by {owner}, mode 0000; give"):
                open_regular(Root(folder) / "mine.jpg")
            with pytest.raises(Transient, match=f"its folder 'locked' is owned by {owner}, mode 0000"):
                open_regular(Root(folder) / "locked/x.jpg")
            with pytest.raises(EnvironmentFault, match="Permission denied"):
                open_regular(Root(folder / "locked") / "x.jpg")
        (folder / "locked").chmod(0o700)


def test_a_process_out_of_descriptors_is_no_fault_of_the_image(photo: Path) -> None:
    code = """if True:
        import os, resource, sys
        from pathlib import Path
        from daemon.errors import EnvironmentFault
        from daemon.files.atomic import Root
        from daemon.files.opening import open_regular
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
        fds = []
        try:
            while True:
                fds.append(os.open("/", os.O_RDONLY))
        except OSError:
            pass
        try:
            open_regular(Root(Path(sys.argv[1]).parent) / Path(sys.argv[1]).name)
        except EnvironmentFault as fault:
            os.write(1, str(fault).encode())
        """
    said = subprocess.run([sys.executable, "-c", code, photo], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "photo.jpg can't be opened: Too many open files"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *(
            (errno.EIO, Unresponsive),
            (errno.ESTALE, Unresponsive),
            (errno.EINVAL, Transient),
            (errno.EAGAIN, Postponed),
        ),
        *((errno.ELOOP, Withdrawn), (errno.ENXIO, Rejected), (errno.ENOENT, Withdrawn)),
        *((errno.ENOTCONN, Unresponsive), (errno.ENFILE, EnvironmentFault), (errno.ETIMEDOUT, Unresponsive)),
    ],
)
def test_errors_are_told_apart(
    photo: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[DarkroomError]
) -> None:
    def failing(*arguments: object, **options: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(expected) as told:
        open_regular(Root(photo.parent) / photo.name)
    assert type(told.value) is expected


def test_a_file_that_samba_leases_is_postponed(photo: Path) -> None:
    code = """if True:
        import fcntl, os, signal, sys
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        fd = os.open(sys.argv[1], os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        print('ready', flush=True)
        sys.stdin.read()
        """
    with child(code, photo), pytest.raises(Postponed, match="another program holds a lease"):
        open_regular(photo)
    os.close(open_regular(photo))


# Leases.


def test_a_complete_file_is_taken_at_once(photo: Path) -> None:
    with child(READER, photo), opened(photo) as fd, Lease(fd) as lease:
        assert lease.state is LeaseState.GRANTED
        check_complete(lease, FRESH, 1000.0, 60.0)
        assert not lease.broken()
    photo.write_bytes(b"free again")


@pytest.mark.parametrize("writer", [WRITER, MAPPER], ids=["open", "mapped"])
def test_a_file_with_a_writer_is_postponed_however_long_it_pauses(photo: Path, writer: str) -> None:
    with child(writer, photo) as process:
        with opened(photo) as fd, Lease(fd) as lease:
            assert lease.state is LeaseState.HELD_BY_WRITER
            with pytest.raises(Postponed, match="open for writing") as told:
                check_complete(lease, FRESH, 1_000_000.0, 2.5)
            assert told.value.seconds == 2.5
            assert not lease.broken()
        name = Path(f"/proc/{process.pid}/comm").read_text().strip()
        assert writers(photo) == [f"{name}, pid {process.pid}"]
    with opened(photo) as fd, Lease(fd) as lease:
        check_complete(lease, FRESH, 1000.0, 2.5)


def test_a_writer_breaks_the_lease_and_harms_nobody(photo: Path) -> None:
    code = """if True:
        import os, sys, time
        from pathlib import Path
        from daemon.files.opening import Lease, open_regular
        fd = open_regular(Path(sys.argv[1]))
        with Lease(fd) as lease:
            print('ready', flush=True)
            deadline = time.monotonic() + 10
            while not lease.broken() and time.monotonic() < deadline:
                time.sleep(0.005)
            was = lease.broken()
        print('broken' if was else 'whole', flush=True)
        sys.stdin.read()
        """
    with child(code, photo) as process:
        assert process.stdout is not None
        with photo.open("ab") as file:  # waits until the lease is given back
            file.write(b"more")
        assert process.stdout.readline() == "broken\n"
    assert process.returncode == 0


def test_a_truncation_waits_for_the_lease_too(photo: Path) -> None:
    code = """if True:
        import os, sys
        print('ready', flush=True)
        sys.stdin.readline()
        os.truncate(sys.argv[1], 1)
        print('done', flush=True)
        """
    with opened(photo) as fd, child(code, photo) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with Lease(fd) as lease:
            process.stdin.write("go\n")
            process.stdin.flush()
            while not lease.broken():
                time.sleep(0.001)
            assert os.fstat(fd).st_size == 5000
        assert process.stdout.readline() == "done\n"
        assert os.fstat(fd).st_size == 1


def test_leases_tell_nothing_on_network_filesystems(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.files.mounts.filesystem", lambda path: "cifs")
    with child(WRITER, photo), opened(photo) as fd, Lease(fd) as lease:
        assert lease.state is LeaseState.UNSUPPORTED
        assert not lease.broken()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make another owner's file")
def test_leases_are_not_to_be_had_on_other_owners_files() -> None:
    with unprivileged() as folder:
        (folder / "theirs.jpg").write_bytes(b"1")
        (folder / "theirs.jpg").chmod(0o644)
        with as_stranger(), opened(folder / "theirs.jpg") as fd, Lease(fd) as lease:
            assert lease.state is LeaseState.UNSUPPORTED
            with pytest.raises(Postponed, match=r"unchanged for less than 2 s"):
                check_complete(lease, FRESH, 1001.5, 2.0)
            check_complete(lease, FRESH, 1002.0, 2.0)


# The quiet time.


def test_the_quiet_time_counts_from_the_last_change(photo: Path) -> None:
    info = photo.stat()
    first = compare(None, info, 1000.0)
    assert first == Snapshot(info.st_size, info.st_mtime_ns, 1000.0)
    assert compare(first, info, 1001.0) == first
    assert [seconds_until_stable(first, now, 2.0) for now in (1000.0, 1001.5, 1002.0, 9999.0)] == [2.0, 0.5, 0.0, 0.0]
    with photo.open("ab") as file:
        file.write(b"more")
    assert compare(first, photo.stat(), 1001.0).since == 1001.0
    os.utime(photo, ns=(1, 1))
    assert compare(first, photo.stat(), 1003.0).since == 1003.0


def test_a_clock_set_back_delays_nothing_for_long(photo: Path) -> None:
    info = photo.stat()
    before = compare(None, info, 5000.0)
    assert seconds_until_stable(before, 1000.0, 2.0) == 2.0
    after = compare(before, info, 1000.0)
    assert after.since == 1000.0
    assert seconds_until_stable(compare(after, info, 1002.0), 1002.0, 2.0) == 0.0


def test_writers_of_a_missing_file_are_none(tmp_path: Path) -> None:
    assert writers(tmp_path / "gone.jpg") == []
