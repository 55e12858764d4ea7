"""`import` brings in what the library does not hold, changes nothing at its source, and its receipt is true."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.app import roots
from daemon.files.atomic import Root
from daemon.filing import sources
from daemon.filing.holdings import Holdings
from daemon.filing.sources import ImportFile, Sources
from tests.captions.darkroom import FullRoom
from tests.program import HUMBLE, Program, darkroom, environment
from tests.support import Room, jpeg, slow, tree, wait_until

AAE = b"<?xml version='1.0'?><plist></plist>"
NO_WAIT = "[inbox]\nsettle_seconds = 0.2\n[web]\nport = 0\n"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "room"
    folder.mkdir()
    (folder / "config.toml").write_text(NO_WAIT)
    return folder


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """Return a card with two photos of one name, one with its edits, and what a camera keeps for itself."""
    folder = tmp_path / "card"
    for number in (100, 101):
        put(folder / f"DCIM/{number}CANON/IMG_1.JPG", jpeg(seed=number, taken=f"2024:05:0{number - 99} 12:00:00"))
    put(folder / "DCIM/100CANON/IMG_1.AAE", AAE)
    put(folder / "MISC/M0100.CTG", b"\0\1")
    put(folder / ".Trashes/IMG_0.JPG", b"\0")
    return folder


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def run(base: Path, *words: str) -> tuple[int, str, str]:
    done = darkroom(base, "import", *words)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.rstrip("\n"), done.stderr


def document(base: Path, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(base, *words, "--json")[1])
    return found


def reasons(found: dict[str, Any]) -> dict[str, str]:
    return {Path(one["path"]).name: one["reason"] for one in found["others"]}


def looks(folder: Path) -> dict[str, tuple[int, int, int]]:
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) for path in paths}


def photos(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(folder).items() if not name.endswith(".xmp")}


def filed(base: Path, content: bytes) -> Path:
    """Return where some bytes lie in the library."""
    [path] = [base / "library" / name for name, its in tree(base / "library").items() if its == content]
    return path


def test_a_card_is_brought_in_and_once_only(base: Path, card: Path) -> None:
    before, content = looks(card), photos(card)
    code, said, errors = run(base, "../card")
    assert (code, said) == (0, "2 photos, 1 file beside them: 3 filed and read back: safe to delete"), errors
    assert "passed over, since no photos are called so: " in errors
    assert looks(card) == before
    library = photos(base / "library")
    one = filed(base, content["DCIM/100CANON/IMG_1.JPG"])
    assert {one.name, filed(base, content["DCIM/101CANON/IMG_1.JPG"]).name} == {"IMG_1.JPG", "IMG_1-1.JPG"}
    assert (filed(base, AAE).stem, len(library)) == (one.stem, 3)
    assert (base / "library/2024/05/IMG_1.JPG").stat().st_mtime == 1_700_000_000
    assert list((base / "inbox").iterdir()) == []
    code, said, errors = run(base, "../card/DCIM")
    assert (code, said) == (0, "2 photos, 1 file beside them: 3 in the library already: safe to delete"), errors
    assert photos(base / "library") == library


def test_as_a_dry_run_it_leaves_no_trace(base: Path, card: Path) -> None:
    (base / "config.toml").unlink()
    put(card / "notes.txt", b"roses")
    code, said, errors = run(base, str(card), "--dry-run")
    assert code == 1, "one is no image"
    assert said.splitlines() == [
        f"{card}/DCIM/100CANON/IMG_1.AAE → inbox/card/DCIM/100CANON/IMG_1.AAE",
        f"{card}/DCIM/100CANON/IMG_1.JPG → inbox/card/DCIM/100CANON/IMG_1.JPG",
        f"{card}/DCIM/101CANON/IMG_1.JPG → inbox/card/DCIM/101CANON/IMG_1.JPG",
        "3 would be copied (0.0 MB), 0 are in the library already, 1 is not, and would not be copied;"
        " nothing was changed",
    ]
    assert errors == f"{card}/notes.txt: it is no image\n"
    assert list(base.iterdir()) == []


@pytest.mark.slow
def test_a_running_darkroom_files_what_is_copied(base: Path, card: Path) -> None:
    with Program(base) as program:
        code, said, errors = run(base, "../card")
        assert (code, said) == (0, "2 photos, 1 file beside them: 3 filed and read back: safe to delete"), errors
        assert "image 1" not in errors, "that is in the other's log"
        put(card / "DCIM/100CANON/IMG_2.JPG", jpeg(seed=2))
        put(card / "DCIM/100CANON/IMG_2.AAE", AAE)
        found = document(base, "../card")
        assert (len(found["filed"]), len(found["known"]), found["others"]) == (2, 3, [])
        program.wait_for(done=3, duplicate=0, failed=0)
        assert program.stop() == 0


@pytest.mark.slow
def test_a_darkroom_that_ends_meanwhile_is_replaced(base: Path, card: Path) -> None:
    for number in range(40):
        put(card / f"DCIM/100CANON/DSC_{number}.JPG", jpeg((1200, 900), seed=number))
    with Program(base) as program:
        work = subprocess.Popen(
            [sys.executable, "-m", "daemon", "import", "../card"],
            cwd=base,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: program.query("SELECT n FROM tally WHERE status = 'done'")[0][0] > 2, what="some photos")
        os.killpg(program.process.pid, signal.SIGKILL)
        said, errors = work.communicate(timeout=120)
    assert work.returncode == 0, errors
    assert said == "42 photos, 1 file beside them: 43 filed and read back: safe to delete\n"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["deleted", "rejected", "edited", "moved to duplicates"])
def test_what_its_owner_took_away_is_never_safe(base: Path, card: Path, how: str) -> None:
    assert run(base, "../card")[0] == 0
    photo = filed(base, (card / "DCIM/101CANON/IMG_1.JPG").read_bytes())
    if how == "deleted":
        photo.unlink()
        darkroom(base, "sync")
    elif how == "rejected":
        listed = json.loads(darkroom(base, "list", "--json").stdout)
        inside = str(photo.relative_to(base / "library"))
        [number] = [str(row["image_id"]) for row in listed if row["destination"] == inside]
        darkroom(base, "reject", number)
    elif how == "edited":
        photo.write_bytes(jpeg(seed=7))
        darkroom(base, "sync")
    else:
        put(base / "inbox/copy.jpg", photo.read_bytes())
        darkroom(base, "run", "--once")
        photo.unlink()
    said = {
        "deleted": "you deleted it from the library on ",
        "rejected": "you threw it away on ",
        "edited": "you have edited it in the library since (image ",
        "moved to duplicates": "image ",
    }[how]
    copies = []
    for _ in range(3):
        code, receipt, errors = run(base, "../card")
        assert code == 1
        assert receipt.endswith("2 in the library already, 1 not in the library: NOT safe to delete"), errors
        assert f"101CANON/IMG_1.JPG: {said}" in errors
        copies.append(sorted(photos(base / "duplicates")))
    assert copies[1] == copies[2], "it does not pile up there"
    assert (card / "DCIM/101CANON/IMG_1.JPG").exists()
    assert run(base, "../card", "--move")[0] == 1
    assert sorted(photos(card)) == [".Trashes/IMG_0.JPG", "DCIM/101CANON/IMG_1.JPG", "MISC/M0100.CTG"]


@pytest.mark.slow
def test_what_fails_or_is_no_photo_is_named(base: Path, card: Path) -> None:
    put(card / "DCIM/100CANON/MVI_3.MOV", b"\0\0\0\x18ftypqt  ")
    put(card / "DCIM/100CANON/bad.jpg", b"no image at all, whatever it is called")
    put(card / "DCIM/100CANON/cut.jpg", jpeg((400, 300))[:3000])
    put(card / "DCIM/100CANON/empty.jpg", b"")
    (card / "DCIM/100CANON/link.jpg").symlink_to("IMG_1.JPG")
    for _ in range(2):
        found = document(base, "../card")
        assert not found["safe"]
        assert {name: reason.partition(" (")[0] for name, reason in reasons(found).items()} == {
            "MVI_3.MOV": "it is no image, and belongs to none beside it",
            "bad.jpg": "it failed: not an image: it looks like a text file",
            "cut.jpg": "it waits in the inbox: incomplete: the JPEG ends early",
            "empty.jpg": "it is empty",
            "link.jpg": "it is no regular file, but a link, a pipe or a device",
        }
    assert len(photos(base / "failed")) == 2, "what failed once is not brought again, and has its reason beside it"


@pytest.mark.slow
def test_moved_is_what_was_just_read_in_the_library(base: Path, card: Path, tmp_path: Path) -> None:
    put(card / "DCIM/102CANON/notes.txt", b"roses")
    os.link(card / "DCIM/100CANON/IMG_1.JPG", tmp_path / "another name")
    code, said, errors = run(base, "../card", "--move")
    assert code == 1
    assert said == (
        "2 photos, 1 file beside them, 1 other: 3 filed and read back, 1 not in the library:"
        " 3 removed from where they were, 1 stays"
    ), errors
    assert sorted(tree(card)) == [".Trashes/IMG_0.JPG", "DCIM/102CANON/notes.txt", "MISC/M0100.CTG"]
    assert not (card / "DCIM/100CANON").exists()
    assert len(photos(base / "library")) == 3


@pytest.mark.slow
def test_the_library_itself_is_never_taken_for_a_second_copy(base: Path, card: Path, tmp_path: Path) -> None:
    assert run(base, "../card")[0] == 0
    other = tmp_path / "other"
    other.mkdir()
    os.link(base / "library/2024/05/IMG_1.JPG", other / "a.jpg")
    code, _, errors = run(base, str(other), "--move")
    assert code == 1
    assert "is this very file, under another name" in errors
    assert (other / "a.jpg").exists()
    for folder in ("library", "library/2024", ".", "..", "gone", "config.toml", "inbox"):
        refused = run(base, folder)
        assert (refused[0], refused[1]) == (1, ""), folder
        assert len(refused[2].splitlines()) == 1, refused[2]
    (base / "config.toml").write_text(NO_WAIT.replace("[inbox]\n", "[inbox]\nrecursive = false\n"))
    assert run(base, "../card")[0] == 2


@pytest.mark.slow
def test_what_lies_in_the_inbox_under_its_name_is_left_alone(base: Path, card: Path) -> None:
    other = put(base / "inbox/card/DCIM/100CANON/IMG_1.JPG", jpeg(seed=77)).read_bytes()
    with (base / "inbox/card/DCIM/100CANON/IMG_1.JPG").open("ab"):
        # Somebody has it open, so it stays.
        code, said, errors = run(base, "../card")
    assert (code, said) == (0, "2 photos, 1 file beside them: 3 filed and read back: safe to delete"), errors
    assert tree(base / "inbox") == {"card/DCIM/100CANON/IMG_1.JPG": other}
    listed = json.loads(darkroom(base, "list", "--json").stdout)
    folders = {row["destination"]: row["original_name"] for row in listed}
    assert len(folders) == 3
    assert sorted(photos(base / "library").values()) == sorted(photos(card / "DCIM").values())


@pytest.mark.slow
def test_what_comes_after_its_photo_goes_beside_it(base: Path, card: Path) -> None:
    put(base / "inbox/IMG_1.JPG", (card / "DCIM/100CANON/IMG_1.JPG").read_bytes())
    assert darkroom(base, "run", "--once").returncode == 0
    code, said, errors = run(base, "../card")
    assert code == 0, errors
    assert said == "2 photos, 1 file beside them: 2 filed and read back, 1 in the library already: safe to delete"
    assert sorted(photos(base / "library")) == [f"2024/05/IMG_1{end}" for end in ("-1.JPG", ".AAE", ".JPG")]


@pytest.mark.slow
def test_edits_find_their_photo_whatever_else_has_its_bytes(base: Path, card: Path) -> None:
    """Beside a copy of it on the card, and where the library has it by another name."""
    photo = (card / "DCIM/100CANON/IMG_1.JPG").read_bytes()
    put(card / "DCIM/100CANON/COPY.JPG", photo)
    put(base / "inbox/other.jpg", (card / "DCIM/101CANON/IMG_1.JPG").read_bytes())
    assert darkroom(base, "run", "--once").returncode == 0
    put(card / "DCIM/101CANON/IMG_1.AAE", AAE + b"<!-- of the second -->")
    found = document(base, "../card")
    assert (found["others"], len(found["filed"]), len(found["known"])) == ([], 4, 1)
    assert sorted(path.stem for path in (base / "library").rglob("*.AAE")) == ["IMG_1", "other"]
    again = document(base, "../card")
    assert (again["others"], again["filed"], len(again["known"])) == ([], [], 5)
    assert tree(base / "failed") == {}


@pytest.mark.slow
def test_what_was_moved_out_comes_back_with_its_own_sidecar(base: Path, card: Path, tmp_path: Path) -> None:
    assert run(base, "../card")[0] == 0
    out = tmp_path / "out"
    assert darkroom(base, "undo", "--since", "1h", "--to", str(out)).returncode == 0
    assert sum(name.endswith(".xmp") for name in tree(out)) == 2
    found = document(base, "../out")
    assert (found["safe"], len(found["filed"])) == (True, 5)
    again = document(base, "../out", "--move")
    assert (again["safe"], len(again["known"]), len(again["removed"])) == (True, 5, 3)
    assert {Path(one["path"]).suffix for one in again["stays"]} == {".xmp"}


@pytest.mark.slow
def test_what_has_rotted_in_the_library_is_not_safe(base: Path, card: Path) -> None:
    assert run(base, "../card")[0] == 0
    photo = filed(base, (card / "DCIM/100CANON/IMG_1.JPG").read_bytes())
    was = photo.stat()
    content = bytearray(photo.read_bytes())
    content[-10] ^= 1
    photo.write_bytes(content)
    os.utime(photo, ns=(was.st_atime_ns, was.st_mtime_ns))
    found = document(base, "../card")
    assert not found["safe"]
    assert "has other bytes: darkroom verify" in reasons(found)["IMG_1.JPG"]


@pytest.mark.slow
@pytest.mark.skipif(not HUMBLE, reason="needs root, to be without its rights")
def test_what_nobody_may_read_is_not_safe(base: Path, card: Path) -> None:
    put(card / "DCIM/100CANON/secret.jpg", jpeg(seed=5)).chmod(0)
    put(card / "locked/IMG_9.JPG", jpeg(seed=6)).parent.chmod(0)
    done = darkroom(base, "import", "../card", "--json", under=HUMBLE)
    found = json.loads(done.stdout)
    assert (done.returncode, found["safe"]) == (1, False)
    assert {Path(one["path"]).name for one in found["others"]} == {"secret.jpg", "locked"}
    assert "permission denied" in reasons(found)["secret.jpg"]


@pytest.mark.slow
def test_a_card_that_changes_meanwhile_is_not_safe(base: Path, card: Path) -> None:
    """A photo is replaced, and another one taken, while all is copied and filed."""
    for number in range(20):
        put(card / f"DCIM/102CANON/DSC_{number}.JPG", jpeg((1600, 1200), seed=number))
    work = subprocess.Popen(
        [sys.executable, "-m", "daemon", "import", "../card", "--json"],
        cwd=base,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    wait_until(lambda: (base / "inbox/card/DCIM/102CANON/DSC_19.JPG").exists(), what="the last copy")
    put(card / "DCIM/100CANON/IMG_1.JPG", jpeg(seed=1234))
    os.utime(card / "DCIM/100CANON/IMG_1.JPG")
    put(card / "DCIM/102CANON/DSC_20.JPG", jpeg(seed=1235))
    found = json.loads(work.communicate(timeout=120)[0])
    assert reasons(found) == {
        "IMG_1.JPG": "it has changed, or is gone, since it was read",
        "DSC_20.JPG": "it came after the others were read",
    }


@contextmanager
def medium(folder: Path) -> Iterator[None]:
    """Mount a medium of its own for a block, or skip the test."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_medium_of_its_own_is_safe_to_format(base: Path, card: Path, tmp_path: Path) -> None:
    mounted = tmp_path / "medium"
    with medium(mounted):
        shutil.copytree(card, mounted, dirs_exist_ok=True)
        put(mounted / "MP_ROOT/C0001.MP4", b"a film")
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        assert run(base, str(mounted / "DCIM"))[1].endswith("3 filed and read back: safe to delete")
        code, said, errors = run(base, str(mounted))
        assert (code, said.rpartition(": ")[2]) == (1, "NOT safe to format"), errors
        subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
        (mounted / "MP_ROOT/C0001.MP4").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        assert run(base, str(mounted))[:2] == (
            0,
            "2 photos, 1 file beside them: 3 in the library already: safe to format",
        )
        (code, said, errors) = run(base, str(mounted), "--move")
        assert (code, "Read-only file system" in errors) == (1, True)
        assert said.endswith(": 0 removed from where they were, 3 stay")


@pytest.mark.slow
def test_an_inbox_without_room(tmp_path: Path, card: Path) -> None:
    base = tmp_path / "small"
    with medium(base):
        subprocess.run(["mount", "-o", "remount,size=30m", str(base)], check=True)
        (base / "config.toml").write_text(NO_WAIT + "[limits]\nmin_free_mb = 10\n")
        put(card / "DCIM/100CANON/large.jpg", jpeg() + b"\0" * (25 << 20))
        found = document(base, str(card))
        assert reasons(found) == {"large.jpg": "there is no room for it in the inbox"}
        assert len(found["filed"]) == 3


# -- the parts


def listed(folder: Path, *more: Path, ignore: tuple[str, ...] = (".*",)) -> list[ImportFile]:
    found = Sources([folder, *more], {}, ignore)
    return [sources.read(one, 1 << 30) for one in found.listed()]


def test_each_folder_of_a_source_has_one_in_the_inbox(tmp_path: Path) -> None:
    for name in ("one/DCIM", "two/DCIM", "two/DCIM/.x", "photos.tmp"):
        put(tmp_path / name / "a.jpg", jpeg())
    found = listed(*(tmp_path / name for name in ("one/DCIM", "two/DCIM", "one/DCIM", "photos.tmp")), ignore=("*.tmp",))
    assert sorted(f"{one.folder}/{one.name}" for one in found) == [
        *("DCIM-1/.x/a.jpg", "DCIM-1/a.jpg", "DCIM/a.jpg", "import/a.jpg"),
    ]
    assert len(listed(tmp_path, tmp_path / "one")) == 3, "what lies in another one is read once"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jpg", jpeg(), "photo"),
        ("a.xyz", jpeg(), "photo"),
        ("a.jpg", b"whatever", "photo"),
        ("a.aae", AAE, "companion"),
        ("a.jpg.json", b"{}", "companion"),
        ("a.thm", jpeg(), "companion"),
        ("a.mov", jpeg(), "photo"),
        ("a.jpg.xmp", b'<x xmlns:d="https://github.com/darkroom-photos/darkroom/ns/1.0/">', "companion"),
        ("notes.txt", b"roses", "other"),
        slow("a.mp4", b"\0\0\0\x18ftypmp42", "companion"),
    ],
)
def test_what_a_file_is(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    put(tmp_path / "x" / name, content)
    [file] = listed(tmp_path / "x")
    assert (file.kind, file.fault) == (kind, None)


def test_an_edit_that_two_photos_share_is_held_beside_each(tmp_path: Path) -> None:
    """The same bytes beside one photo are not those beside another."""
    full = FullRoom(tmp_path / "room")
    for name in ("a", "b"):
        put(tmp_path / f"card/{name}.jpg", jpeg(seed=ord(name)))
        put(tmp_path / f"card/{name}.aae", AAE)
    full.put("card/a.jpg", (tmp_path / "card/a.jpg").read_bytes())
    full.put("card/a.aae", AAE)
    full.put("card/b.jpg", (tmp_path / "card/b.jpg").read_bytes())
    for _ in range(3):
        full.drain(time.time() + 60)
    files = listed(tmp_path / "card")
    holdings = Holdings(full.catalogue, roots(full.config))
    held = holdings.of(files, sources.together(files, holdings.came_before))
    assert {file.name for file, one in held.items() if one.at is None} == {"b.aae"}
    full.close()


def test_a_copy_that_was_begun_by_one_that_died_is_removed(room: Room, tmp_path: Path) -> None:
    put(room.inbox / "card/.darkroom-import-0123.part", b"half")
    put(room.inbox / "card/.darkroom-upload-0123.part", b"another's")
    with sources.importing(room.state):
        sources.remove_partial_copies(Root(room.inbox), room.state)
        assert len(tree(room.inbox)) == 2, "while one is at work nothing is touched"
    sources.remove_partial_copies(Root(room.inbox), room.state)
    assert list(tree(room.inbox)) == ["card/.darkroom-upload-0123.part"]


def test_a_copy_never_shares_the_file_it_is_of(room: Room) -> None:
    put(room.config.base / "card/a.jpg", jpeg())
    [file] = listed(room.config.base / "card")
    assert sources.copy(file, Root(room.inbox), file.folder) == "card/a.jpg"
    assert sources.copy(file, Root(room.inbox), file.folder) == "card/a.jpg", "an earlier import has made it"
    copied = (room.inbox / "card/a.jpg").stat()
    assert (copied.st_nlink, copied.st_mtime, copied.st_mode & 0o7777) == (1, 1_700_000_000, 0o644)
    put(room.inbox / "card/a.jpg", b"another's")
    with pytest.raises(FileExistsError):
        sources.copy(file, Root(room.inbox), file.folder)
