import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from daemon.files.atomic import Root
from daemon.files.mounts import filesystem, is_network, mount_point
from daemon.files.walk import DEFAULT_IGNORE, Found, batched, is_below, is_junk, look, outermost, walk
from daemon.inbox.events import PendingEvents
from daemon.inbox.scanner import EventCheck, Scanner

ROOT = Path(__file__).parents[2]


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"photo")


def paths(folder: Path, ignore: Sequence[str] = DEFAULT_IGNORE, *, recursive: bool = True) -> list[str]:
    return sorted(found.path for found in walk(Root(folder), ignore, recursive))


def in_namespace(prepare: str, code: str, *arguments: str) -> str:
    """Run Python in a mount namespace of its own, after some shell commands."""
    command = ["unshare", "-Urm", "sh", "-c"]
    if subprocess.run([*command, prepare], capture_output=True).returncode:
        pytest.skip("needs user namespaces (unshare -Urm)")
    program = [*command, f'{prepare} && exec "$@"', "sh", sys.executable, "-c", code, *arguments]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout


class Keeper:
    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.renames: list[tuple[str, str]] = []

    def enqueue(self, files: Sequence[Found], now: float) -> list[str]:
        self.batches.append([file.path for file in files])
        return self.batches[-1]

    def rename(self, old: str, new: str, now: float) -> None:
        self.renames.append((old, new))


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden.jpg", "._IMG_1.jpg", ".DS_Store", "IMG.jpg.part", "IMG.JPG.CRDOWNLOAD", "x.TMP", "~$album.docx"),
        *("Thumbs.db", "THUMBS.DB", "desktop.ini", "IMG.jpg.filepart", "IMG.jpg~", ".syncthing.IMG.jpg.tmp"),
        *("~syncthing~IMG.jpg.tmp", "IMG.jpg.!qb", "Icon\r", "IMG.jpg.sb-1a2b3c4d-Ab12Cd", ".IMG.jpg.Xy12Ab"),
        *("@eaDir/IMG.jpg/SYNOPHOTO_THUMB_M.jpg", "trip/@eaDir/x.jpg", "#recycle/IMG.jpg", "$RECYCLE.BIN/$R1.jpg"),
        *("lost+found/IMG.jpg", "__MACOSX/._IMG.jpg", ".darkroom-upload-1", "System Volume Information/x.jpg"),
    ],
)
def test_junk_is_known(name: str) -> None:
    assert is_junk(name, DEFAULT_IGNORE)


@pytest.mark.parametrize(
    "name", ["IMG_1.jpg", "part.jpg", "tmp/IMG.jpg", "Thumbs/IMG.jpg", "a.b/c~d.jpg", "\udcff.jpg"]
)
def test_photos_are_no_junk(name: str) -> None:
    assert not is_junk(name, DEFAULT_IGNORE)


def test_own_temporaries_are_junk_whatever_is_configured() -> None:
    assert is_junk(".darkroom-x/IMG.jpg", ())
    assert not is_junk(".hidden.jpg", ())
    assert is_junk("two\nlines.BAK", ("*.bak",))
    assert is_junk("cache/x.jpg", ("cache/",))


def test_a_walk_tells_size_and_mtime_of_all_that_is_no_junk(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "trip/day 1/b.jpg", "trip/.thumbs/c.jpg", "@eaDir/d.jpg", "e.jpg.part")
    os.utime(tmp_path / "a.jpg", ns=(1, 1_700_000_000_123_456_789))
    assert paths(tmp_path) == ["a.jpg", "trip/day 1/b.jpg"]
    assert paths(tmp_path, recursive=False) == ["a.jpg"]
    assert paths(tmp_path, ignore=("a*",)) == ["@eaDir/d.jpg", "e.jpg.part", "trip/.thumbs/c.jpg", "trip/day 1/b.jpg"]
    assert Found("a.jpg", 5, 1_700_000_000_123_456_789) in list(walk(Root(tmp_path), (), False))
    assert [found.path for found in walk(Root(tmp_path), (), True, below="trip/day 1")] == ["trip/day 1/b.jpg"]
    assert list(walk(Root(tmp_path), (), True, below="nowhere")) == []


def test_links_and_special_files_are_told_and_not_followed(tmp_path: Path) -> None:
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    make(outside, "secret.jpg")
    inbox.mkdir()
    (inbox / "folder").symlink_to(outside)
    (inbox / "loop").symlink_to(inbox)
    (inbox / "nowhere").symlink_to("nothing")
    os.mkfifo(inbox / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        with contextlib.chdir(inbox):  # a socket's path may have but 107 bytes
            server.bind("socket")
        assert paths(inbox) == ["folder", "loop", "nowhere", "pipe", "socket"]
    assert look(Root(inbox), "folder") is not None
    assert look(Root(inbox), "gone") is None
    assert look(Root(tmp_path), "inbox") is None


def test_names_of_any_bytes_are_walked(tmp_path: Path) -> None:
    names = {b"two\nlines.jpg", b"caf\xe9.jpg", b"x" * 255}
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"1")
    assert {os.fsencode(path) for path in paths(tmp_path)} == names


def test_what_vanishes_or_is_swapped_during_a_walk_does_no_harm(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    make(tmp_path / "outside", "secret.jpg")
    make(inbox, "a.jpg", "gone/b.jpg", "swapped/c.jpg")
    found = walk(Root(inbox), (), True)
    seen = [next(found).path]
    # The folders are on the walk's list already, unless it met the file first: then they are met as they are now.
    (inbox / "gone/b.jpg").unlink()
    (inbox / "gone").rmdir()
    (inbox / "swapped").rename(tmp_path / "away")
    (inbox / "swapped").symlink_to(tmp_path / "outside")
    seen += [one.path for one in found]
    assert not [path for path in seen if "secret" in path]


def test_a_missing_inbox_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(walk(Root(tmp_path / "inbox"), (), True))


def test_a_folder_without_permission_is_passed_over_and_told_once(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "locked/b.jpg", "open/c.jpg")
    (tmp_path / "locked").chmod(0)
    code = """if True:
        import logging, os, sys
        from pathlib import Path
        from daemon.files.atomic import Root
        from daemon.files.walk import walk
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        os.chdir(sys.argv[1])
        if os.geteuid() == 0:
            os.seteuid(65534)
        reported = set()
        for _ in range(2):
            print(sorted(found.path for found in walk(Root(Path(".")), (), True, reported=reported)))
        """
    for folder in (tmp_path, tmp_path / "open"):
        folder.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (tmp_path / "locked").chmod(0o755)
    assert result.stdout.splitlines() == [
        "the folder 'locked' in . can't be read: Permission denied",
        "['a.jpg', 'open/c.jpg']",
        "['a.jpg', 'open/c.jpg']",
    ]


def test_a_folder_inside_itself_is_walked_once(tmp_path: Path) -> None:
    make(tmp_path, "trip/a.jpg", "trip/loop/nothing.part")
    code = """if True:
        import sys
        from pathlib import Path
        from daemon.files.atomic import Root
        from daemon.files.walk import DEFAULT_IGNORE, walk
        print([found.path for found in walk(Root(Path(sys.argv[1])), DEFAULT_IGNORE, True)])
        """
    loop = f"mount --bind '{tmp_path}/trip' '{tmp_path}/trip/loop'"
    assert in_namespace(loop, code, str(tmp_path)) == "['trip/a.jpg']\n"


def test_a_walk_is_cut_into_batches(tmp_path: Path) -> None:
    many = [Found(str(number), 0, 0) for number in range(2500)]
    assert [len(batch) for batch in batched(many)] == [1000, 1000, 500]
    assert list(batched([])) == []


def test_folders_below_others_are_left_out() -> None:
    assert outermost(["a/b", "a", "ab", "c/d/e", "c/d"]) == ["a", "ab", "c/d"]
    assert is_below("a/b/c.jpg", {"a"})
    assert not is_below("a", {"a"})


def test_hints_are_followed_and_vanished_files_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "new.jpg", "trip/deep/b.jpg", "trip/a.jpg", "@eaDir/x.jpg")
    keeper = Keeper()
    Scanner(Root(tmp_path), keeper, DEFAULT_IGNORE, True).scan_pending(
        PendingEvents(
            files=dict.fromkeys(["gone.jpg", "new.jpg", "trip/a.jpg", "x.part", "trip"]),
            folders=dict.fromkeys(["trip/deep", "trip", "@eaDir", "gone"]),
            renames=[("old.jpg", "new.jpg"), ("x.part", "y.jpg"), ("z.jpg", "z.part")],
        )
    )
    assert keeper.renames == [("old.jpg", "new.jpg")]
    assert [sorted(batch) for batch in keeper.batches] == [["new.jpg"], ["trip/a.jpg", "trip/deep/b.jpg"]]


def test_a_sweep_goes_in_batches_and_can_be_ended(tmp_path: Path) -> None:
    make(tmp_path, *(f"{number}.jpg" for number in range(2500)))
    keeper = Keeper()
    sweep = Scanner(Root(tmp_path), keeper, DEFAULT_IGNORE, True)
    count, sample = sweep.scan()
    assert (count, len(sample)) == (2500, 1000)
    assert [len(batch) for batch in keeper.batches] == [1000, 1000, 500]
    assert sweep.last is not None
    assert sweep.scan(between=lambda: False)[0] == 1000


def test_events_are_distrusted_after_three_misses_in_a_row(tmp_path: Path) -> None:
    make(tmp_path, *"abcdefg")
    later = time.time() + 60
    check = EventCheck()
    check.seen(["a"])
    assert check.judge(Root(tmp_path), ["a"], later) is None  # an event told of it: a slow writer
    assert check.judge(Root(tmp_path), ["b"], later) is None
    assert check.judge(Root(tmp_path), ["c"], later) is None
    assert check.judge(Root(tmp_path), [], later) is None  # the row is broken
    assert check.judge(Root(tmp_path), ["d"], later) is None
    assert check.judge(Root(tmp_path), ["e"], later) is None
    assert check.judge(Root(tmp_path), ["e", "gone"], later) is None  # counted already
    assert check.judge(Root(tmp_path), ["f"], time.time()) is None  # its event may still be on the way
    assert [check.judge(Root(tmp_path), [name], later) for name in "fgb"] == [None, None, None]
    make(tmp_path, "h")
    assert check.judge(Root(tmp_path), ["h"], later) is None


def test_the_third_miss_names_a_file(tmp_path: Path) -> None:
    make(tmp_path, *"abc")
    check = EventCheck()
    assert [check.judge(Root(tmp_path), [name], time.time() + 60) for name in "abc"] == [None, None, "c"]


def test_what_events_told_is_remembered_within_bounds() -> None:
    check = EventCheck()
    for number in range(30_000):
        check.seen([str(number)])
    assert len(check._known) == 10_000


def test_filesystems_and_mount_points(tmp_path: Path) -> None:
    assert (filesystem(Path("/proc/self")), mount_point(Path("/proc/self"))) == ("proc", Path("/proc"))
    assert filesystem(tmp_path / "not/yet/there") == filesystem(tmp_path)
    (tmp_path / "link").symlink_to("/proc")
    assert filesystem(tmp_path / "link/1") == "proc"
    assert [
        kind for kind in ("nfs4", "cifs", "fuse.sshfs", "9p", "ext4", "fuseblk", "tmpfs", "") if is_network(kind)
    ] == [*("nfs4", "cifs", "fuse.sshfs", "9p")]


def test_of_mounts_at_one_place_the_last_one_counts(tmp_path: Path) -> None:
    place = tmp_path / "my photos"
    (place / "in").mkdir(parents=True)
    (tmp_path / "my").mkdir()
    code = """if True:
        import sys
        from pathlib import Path
        from daemon.files.mounts import filesystem, mount_point
        for name in ("my photos/in", "my", "bound/x"):
            path = Path(sys.argv[1], name)
            print(filesystem(path), mount_point(path).name)
        """
    (tmp_path / "bound").mkdir()
    over = "mount -t ramfs x 'my photos' && mount -t tmpfs x 'my photos' && mount --bind 'my photos' bound"
    prepare = f"cd '{tmp_path}' && {over} && cd '{ROOT}'"
    told = in_namespace(prepare, code, str(tmp_path)).splitlines()
    assert told[0] == "tmpfs my photos"
    assert told[1].split()[0] == filesystem(tmp_path)
    assert told[2] == "tmpfs bound"


def test_the_log_is_quiet_about_a_healthy_inbox(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    make(tmp_path, "a.jpg", "trip/b.jpg")
    assert len(paths(tmp_path)) == 2
    assert not caplog.records
