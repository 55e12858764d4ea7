"""The owner at work on his library with his own programs, while the program runs: it follows, and loses nothing."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.program import Program, darkroom
from tests.support import jpeg, tree, wait_until

pytestmark = pytest.mark.skipif(
    not (shutil.which("exiftool") and shutil.which("exiv2")), reason="needs exiftool and exiv2"
)
FOLDER = "library/2024/05"
TOML = "[inbox]\nsettle_seconds = 0.05\n"


def run(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


@cache
def photo(number: int) -> bytes:
    return jpeg((80, 60), seed=number, taken=f"2024:05:0{number} 12:00:00")


def put(program: Program, *names: str) -> None:
    """Copy photos into the inbox, one after the other, and wait for each."""
    final = "SELECT count(*) FROM image WHERE status NOT IN ('queued', 'processing') AND path IS NULL"
    for name in names:
        [(before,)] = program.query(final)
        (program.base / "inbox" / name).parent.mkdir(exist_ok=True)
        (program.base / "inbox" / name).write_bytes(photo(int(Path(name).stem[-1])))
        wait_until(lambda: program.query(final) == [(before + 1,)], 60, name)  # noqa: B023


def image(program: Program, number: int) -> dict[str, Any]:
    status, answer = program.ask(f"/api/images/{number}")
    assert status == 200
    found: dict[str, Any] = answer["data"]
    return found


def sync(program: Program, *words: str) -> str:
    outcome = darkroom(program.base, "sync", *words)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def test_edited_moved_deleted_and_new(tmp_path: Path) -> None:
    with Program(tmp_path / "room", TOML) as program:
        library = program.base / "library"
        put(program, "p1.jpg", "p2.jpg", "p3.jpg", "p4.jpg")
        program.ask("/api/images/1", "PATCH", json.dumps({"caption": "Mine", "keywords": ["sea"]}).encode())
        run("exiftool", "-overwrite_original", "-Artist=Me", "-XMP-xmp:Rating=5", program.base / f"{FOLDER}/p1.jpg")
        (library / "Album").mkdir()
        run("mv", program.base / f"{FOLDER}/p2.jpg", library / "Album/best.jpg")
        (program.base / f"{FOLDER}/p3.jpg").unlink()
        sidecar = program.base / f"{FOLDER}/p4.jpg.xmp"
        run("exiv2", "-M", "set Xmp.xmp.Rating 2", "-M", "set Xmp.lr.hierarchicalSubject XmpBag Places|Rome", sidecar)
        (library / "old.jpg").write_bytes(photo(9))
        said = sync(program)
        assert "1 edited, 1 moved, 1 deleted, 1 with other words in the sidecar" in said
        assert "1 photo there was never filed" in said
        edited = image(program, 1)
        assert (edited["caption"], edited["keywords"], edited["rating"]) == ("Mine", ["sea"], 5)
        assert image(program, 2)["library_path"] == "Album/best.jpg"
        assert (library / "Album/best.jpg.xmp").exists()
        assert (image(program, 3)["status"], program.ask("/api/images/3/original")[0]) == ("deleted", 404)
        assert (image(program, 4)["rating"], image(program, 4)["hierarchical_keywords"]) == (2, ["Places|Rome"])
        assert [one["image_id"] for one in program.ask("/api/images?rating=3..")[1]["data"]] == [1]
        assert [one["image_id"] for one in program.ask("/api/images")[1]["data"]] == [4, 2, 1]
        assert darkroom(program.base, "verify").returncode == 0
        assert "1 adopted" in sync(program, "--adopt")
        assert (library / "old.jpg").read_bytes() == photo(9)
        assert "nothing has changed" in sync(program)
        for one in library.rglob("*.xmp"):
            assert run("exiftool", "-warning", "-error", "-a", one) == ""
        assert program.stop() == 0
    assert "Traceback" not in program.log()


@pytest.mark.slow
def test_what_was_taken_away_comes_again(tmp_path: Path) -> None:
    with Program(tmp_path / "room", f'{TOML}[filing]\nduplicates = "delete"\n') as program:
        duplicates = program.base / "duplicates"
        put(program, "p1.jpg", "p2.jpg", "p3.jpg")
        (program.base / f"{FOLDER}/p1.jpg").unlink()
        run("exiftool", "-overwrite_original", "-Artist=Me", program.base / f"{FOLDER}/p2.jpg")
        assert program.ask("/api/images/3", "DELETE")[0] == 200
        sync(program)
        put(program, "again/p1.jpg", "again/p2.jpg", "again/p3.jpg")
        assert sorted(name for name in tree(duplicates) if name.endswith(".jpg")) == [
            *("again/p1.jpg", "again/p2.jpg", "again/p3.jpg")
        ]
        remarks = {one["image_id"]: one["warning"] for one in program.images()}
        assert "you deleted this from the library on" in remarks[4]
        assert "as it was filed, before you edited it" in remarks[5]
        assert "you threw this away on" in remarks[6]
        assert darkroom(program.base, "restore", "1").returncode == 0
        assert (program.base / f"{FOLDER}/p1.jpg").read_bytes() == photo(1)
        # The same bytes as one that lies there: that alone is deleted.
        put(program, "more/p1.jpg")
        assert "more/p1.jpg" not in tree(duplicates)
        assert darkroom(program.base, "restore", "3").returncode == 0
        assert darkroom(program.base, "verify").returncode == 0
        assert program.stop() == 0
    assert "Traceback" not in program.log()


@pytest.mark.slow
def test_rot_is_told_from_edits_and_a_rebuild_knows_all(tmp_path: Path) -> None:
    with Program(tmp_path / "room", TOML) as program:
        put(program, "p1.jpg", "p2.jpg", "p3.jpg", "p4.jpg")
        program.ask("/api/images/2", "PATCH", json.dumps({"caption": "Two", "rating": 4, "label": "Red"}).encode())
        (program.base / f"{FOLDER}/p3.jpg").unlink()
        sync(program)
        assert darkroom(program.base, "reject", "4").returncode == 0
        rotten = program.base / f"{FOLDER}/p1.jpg"
        was, content = rotten.stat(), bytearray(rotten.read_bytes())
        content[-3] ^= 1
        with rotten.open("r+b") as disk:
            disk.write(content)
        os.utime(rotten, ns=(was.st_atime_ns, was.st_mtime_ns))
        run("exiftool", "-overwrite_original", "-Artist=Me", program.base / f"{FOLDER}/p2.jpg")
        outcome = darkroom(program.base, "verify")
        assert outcome.returncode == 1
        kinds = {line.split()[0]: line for line in outcome.stdout.splitlines() if "/p" in line}
        assert ("p1.jpg" in kinds["rotten"], "p2.jpg" in kinds["edited"]) == (True, True)
        rotten.write_bytes(photo(1))
        assert darkroom(program.base, "verify").returncode == 0
        sync(program)
        assert program.stop() == 0
        shutil.rmtree(program.base / "state")
        assert darkroom(program.base, "rebuild").returncode == 0
        assert program.query("SELECT id, status FROM image ORDER BY id") == [
            *((1, "done"), (2, "done"), (3, "deleted"), (4, "rejected"))
        ]
        assert program.query("SELECT caption, rating, label FROM image WHERE id = 2") == [("Two", 4, "Red")]
    with program:
        put(program, "again/p3.jpg", "again/p4.jpg")
        assert sorted(name for name in tree(program.base / "duplicates") if name.endswith(".jpg")) == [
            *("again/p3.jpg", "again/p4.jpg")
        ]
        assert darkroom(program.base, "restore", "4").returncode == 0
        assert darkroom(program.base, "verify").returncode == 0
        assert program.stop() == 0
    assert "Traceback" not in program.log()
