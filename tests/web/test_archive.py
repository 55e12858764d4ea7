"""Many photos as one ZIP archive, streamed: whole, unique names, true times; what is missing is named in it."""

import io
import json
import os
import subprocess
import time
import zipfile
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
import pytest

from daemon.catalogue.schema import Image
from tests.captions.darkroom import FullRoom
from tests.program import Program
from tests.support import jpeg, wait_until
from tests.web.serving import Served, photo
from web import archive
from web.archive import ZipEntry, ZipWriter


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Served]:
    """A served room that writes sidecars, with three photos in it."""
    room = FullRoom(tmp_path / "room")
    for seed in range(3):
        room.put(f"{seed}.jpg", photo(seed))
    room.drain()
    with Served(room) as made:
        yield made
    room.close()


def download(served: Served, **more: Any) -> Any:
    answer = served.http.post("/api/images/bulk", json={"act": "download", **more})
    assert answer.status_code == 200, answer.text
    return answer


def opened(content: bytes, tmp_path: Path) -> zipfile.ZipFile:
    """Open an archive that Info-ZIP's unzip finds nothing wrong with."""
    file = tmp_path / "downloaded.zip"
    file.write_bytes(content)
    run = subprocess.run(["unzip", "-t", str(file)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    made = zipfile.ZipFile(io.BytesIO(content))
    # What the Archive Utility of macOS needs: sizes and checksums before the bytes.
    assert not [info.filename for info in made.infolist() if info.flag_bits & 0x08 or info.compress_type]
    return made


def contents(made: zipfile.ZipFile) -> dict[str, bytes]:
    assert len(set(made.namelist())) == len(made.namelist())
    return {name: made.read(name) for name in made.namelist()}


def paths(served: Served) -> dict[str, Path]:
    """Return the filed photos by their names in an archive."""
    return {row["destination"]: served.room.library / row["destination"] for row in served.room.rows()}


def test_photos_come_under_their_paths_with_their_times(full: Served, tmp_path: Path) -> None:
    os.utime(full.room.library / "2024/05/0.jpg", (1_000_000_001, 1_000_000_001))
    answer = download(full, filter={"status": "done"}, expected=3)
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="darkroom-3-photos.zip"'
    made = opened(answer.content, tmp_path)
    assert contents(made) == {name: file.read_bytes() for name, file in paths(full).items()}
    folder = tmp_path / "unpacked"
    subprocess.run(["unzip", "-q", str(tmp_path / "downloaded.zip"), "-d", str(folder)], check=True)
    for name, file in paths(full).items():
        assert int((folder / name).stat().st_mtime) == int(file.stat().st_mtime)
    assert made.getinfo("2024/05/0.jpg").date_time == datetime.fromtimestamp(1e9).astimezone().timetuple()[:6]


def test_sidecars_come_along_where_they_are_wanted(full: Served, tmp_path: Path) -> None:
    (full.room.library / "2024/05/1.jpg.xmp").unlink()
    answer = download(full, ids=[1, 2, 3], sidecars=True)
    found = contents(opened(answer.content, tmp_path))
    assert set(found) == {"2024/05/0.jpg", "2024/05/0.jpg.xmp", "2024/05/1.jpg", "2024/05/2.jpg", "2024/05/2.jpg.xmp"}
    assert found["2024/05/0.jpg.xmp"] == (full.room.library / "2024/05/0.jpg.xmp").read_bytes()


def test_what_can_not_come_is_named_at_the_end(full: Served, tmp_path: Path) -> None:
    library = full.room.library
    first = full.room.row_of("0.jpg")
    (library / first["destination"]).unlink()
    second = library / full.room.row_of("1.jpg")["destination"]
    second.unlink()
    second.symlink_to("/etc/passwd")
    full.upload("waits.jpg", photo(9))
    answer = download(full, ids=[1, 2, 3, 4, 99])
    found = contents(opened(answer.content, tmp_path))
    text = found.pop("_missing.txt").decode()
    assert found == {full.room.row_of("2.jpg")["destination"]: photo(2)}
    assert list(zipfile.ZipFile(io.BytesIO(answer.content)).namelist())[-1] == "_missing.txt"
    lines = text.splitlines()
    assert lines[0] == "These are not in this archive:"
    assert f"image {first['id']}, 0.jpg: no longer there" in lines
    assert "image 4, waits.jpg: it is queued, and not filed" in lines
    assert "image 99: there is no such image any more" in lines
    assert len(lines) == 5
    assert str(full.room.config.base) not in text
    assert b"root:" not in answer.content


def test_names_that_differ_by_their_case_alone_are_told_apart(full: Served, tmp_path: Path) -> None:
    for number, name in ((1, "IMG.jpg"), (2, "img.JPG"), (3, "duplicates/ä\\b.jpg")):
        (full.room.library / name).parent.mkdir(exist_ok=True)
        (full.room.library / name).write_bytes(photo(number))
        (full.room.library / f"{name}.xmp").write_bytes(b"%d" % number)
        with full.room.catalogue.writing():
            Image.update(destination=name).where(Image.id == number).execute()
    (full.room.duplicates / "a\u0308\\b.jpg").write_bytes(photo(4))
    with full.room.catalogue.writing():
        row = Image.get_by_id(1).__data__
        own = {"id": 4, "status": "duplicate", "place": "duplicates", "destination": "a\u0308\\b.jpg"}
        Image.insert({**row, **own}).execute()
    answer = download(full, ids=[1, 2, 3, 4], sidecars=True)
    found = contents(opened(answer.content, tmp_path))
    assert found == {
        "IMG.jpg": photo(1),
        "IMG.jpg.xmp": b"1",
        "img-1.JPG": photo(2),
        "img-1.JPG.xmp": b"2",
        "duplicates/ä_b.jpg": photo(3),
        "duplicates/ä_b.jpg.xmp": b"3",
        "duplicates/a\u0308_b-1.jpg": photo(4),
    }


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_changes_while_it_is_read_is_left_out(
    full: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    file = full.room.library / full.room.row_of("1.jpg")["destination"]
    if not whole:
        monkeypatch.setattr(archive, "_WHOLE", 0)
    real = archive._blocks

    def blocks(opened: Any, size: int) -> Iterator[bytes]:
        for block in real(opened, size):
            if os.path.samestat(os.fstat(opened.fileno()), file.stat()):
                with file.open("ab") as other:
                    other.write(b"more")
            yield block

    monkeypatch.setattr(archive, "_blocks", blocks)
    found = contents(opened(download(full, ids=[1, 2, 3]).content, tmp_path))
    assert "1.jpg: it was changed while it was read" in found.pop("_missing.txt").decode()
    assert sorted(found.values()) == sorted([photo(0), photo(2)])


@pytest.mark.parametrize("how", ["other bytes", "fewer bytes", "EIO"])
def test_a_large_file_that_changes_while_it_is_sent_breaks_nothing_else(
    full: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(archive, "_WHOLE", 0)
    real, turns = archive._blocks, []

    def blocks(opened: Any, size: int) -> Iterator[bytes]:
        turns.append(size)
        if len(turns) != 4:  # the second file's second turn
            yield from real(opened, size)
        elif how == "EIO":
            raise OSError(5, "Input/output error")
        else:
            yield b"x" * (size if how == "other bytes" else size // 2)

    monkeypatch.setattr(archive, "_blocks", blocks)
    made = zipfile.ZipFile(io.BytesIO(download(full, ids=[1, 2, 3]).content))
    names = made.namelist()
    assert names[-1] == "_missing.txt"
    with pytest.raises(zipfile.BadZipFile, match="Bad CRC-32"):
        made.read(names[1])
    assert {made.read(names[0]), made.read(names[2])} <= {photo(0), photo(1), photo(2)}
    said = made.read("_missing.txt").decode()
    assert "what is in here of it is damaged" in said


def test_nothing_is_downloaded_of_nothing_or_of_others_than_were_meant(full: Served) -> None:
    for more, code in (
        ({"filter": {"q": "nothing"}}, "nothing_selected"),
        ({"ids": []}, "nothing_selected"),
        ({"filter": {}, "expected": 2}, "count_changed"),
    ):
        answer = full.http.post("/api/images/bulk", json={"act": "download", **more})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, code)


def test_a_browsers_form_downloads_and_is_told_of_a_refusal_by_a_page(full: Served, tmp_path: Path) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": full.url}
    body = urlencode({"request": json.dumps({"act": "download", "ids": [1]})})
    answer = full.http.post("/api/images/bulk", content=body, headers=form)
    assert answer.headers["content-disposition"] == 'attachment; filename="darkroom-1-photo.zip"'
    assert len(opened(answer.content, tmp_path).namelist()) == 1
    body = urlencode({"request": json.dumps({"act": "download", "ids": []})})
    answer = full.http.post("/api/images/bulk", content=body, headers=form)
    assert (answer.status_code, answer.headers["content-type"]) == (409, "text/html; charset=utf-8")


def test_a_client_that_goes_away_leaves_nothing_open(full: Served) -> None:
    large = full.room.library / full.room.row_of("0.jpg")["destination"]
    os.truncate(large, 500 << 20)
    with full.http.stream("POST", "/api/images/bulk", json={"act": "download", "ids": [1, 2, 3]}) as answer:
        next(answer.iter_bytes())
    process, library = psutil.Process(), str(full.room.library)
    wait_until(
        lambda: not [file.path for file in process.open_files() if file.path.startswith(library)],
        what="its file to be closed",
    )


def test_zip64_where_32_bits_do_not_hold_it(tmp_path: Path) -> None:
    """Of terabytes there is the directory alone, at the end of a sparse file."""
    writer, file = ZipWriter(), tmp_path / "large.zip"
    sizes = [0, 2**32 - 2, 2**32 - 1, 5 << 40, 7]
    with file.open("wb") as made:
        at = 0
        for number, size in enumerate(sizes):
            header = writer.begin(ZipEntry(b"%d.jpg" % number, size, zlib.crc32(bytes(size if size < 10 else 0)), 1e9))
            made.seek(at)
            made.write(header)
            at += len(header) + size
        made.seek(at)
        made.write(writer.end())
    with zipfile.ZipFile(file) as read:
        assert [info.file_size for info in read.infolist()] == sizes
        assert [read.read(name) for name in ("0.jpg", "4.jpg")] == [b"", bytes(7)]
    listed = subprocess.run(["zipinfo", "-l", str(file)], capture_output=True, text=True, check=True).stdout
    assert str(5 << 40) in listed


def test_more_files_than_16_bits_count(tmp_path: Path) -> None:
    for n in (0xFFFE, 0xFFFF):
        writer = ZipWriter()
        content = b"".join(writer.begin(ZipEntry(b"%d" % number, 0, 0, number * 1e5)) for number in range(n))
        file = tmp_path / "many.zip"
        file.write_bytes(content + writer.end())
        with zipfile.ZipFile(file) as read:
            assert len(read.namelist()) == n
            assert read.read(str(n - 1)) == b""


@pytest.mark.parametrize("mtime", [-1e10, -1, 0, 315_532_800, 4_354_819_200, 1e11], ids=str)
def test_times_that_dos_does_not_know(tmp_path: Path, mtime: float) -> None:
    writer = ZipWriter()
    content = writer.begin(ZipEntry(b"x", 0, 0, mtime)) + writer.end()
    [info] = opened(content, tmp_path).infolist()
    assert 1980 <= info.date_time[0] <= 2107


@pytest.mark.slow
def test_two_gigabytes_take_no_memory(tmp_path: Path) -> None:
    """400 real photos of 5 MB and one of 300 MB; unzip finds nothing wrong with what has come."""
    base = tmp_path / "room"
    with Program(base, "[limits]\nfile_mb = 500\n") as program:
        block = os.urandom(1 << 20)
        for seed in range(400):
            with (program.folders.inbox / f"{seed:03}.part").open("wb") as file:
                file.write(jpeg((300, 200), seed=seed))
                for _ in range(5):
                    file.write(block)
            os.rename(file.name, file.name.replace(".part", ".jpg"))
        with (program.folders.inbox / "large.part").open("wb") as file:
            file.write(jpeg((300, 200), seed=999))
            for _ in range(300):
                file.write(block)
        os.rename(file.name, file.name.replace(".part", ".jpg"))
        program.wait_for(250, done=401)
        program.ask("/api/stats")
        process, target = psutil.Process(program.process.pid), tmp_path / "all.zip"
        body = json.dumps({"act": "download", "filter": {"status": "done"}, "sidecars": True})
        # Once before, so that what is loaded only then is not taken for a leak.
        fetch(program, json.dumps({"act": "download", "ids": [1, 2]}), target).wait()
        before, most = process.memory_info().rss, 0
        running = fetch(program, body, target)
        while running.poll() is None:
            most = max(most, process.memory_info().rss)
            time.sleep(0.02)
        assert running.returncode == 0
    assert target.stat().st_size > 2_300_000_000
    assert most - before < 20_000_000, f"{before >> 20} MB before, {most >> 20} MB at most"
    run = subprocess.run(["unzip", "-tq", str(target)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "No errors detected" in run.stdout


def fetch(program: Program, body: str, target: Path) -> "subprocess.Popen[bytes]":
    [url] = {line.split("serving ")[1] for line in program.log().splitlines() if "serving http" in line}
    command = ["curl", "-sSf", "-o", str(target), "-d", body, f"{url}api/images/bulk"]
    return subprocess.Popen(command)
