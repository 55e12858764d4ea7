"""A RAW file and its JPEG have one stem, and no others do; what is filed keeps its name."""

import os
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.catalogue.schema import Image
from daemon.decoding import DateTexts, Decoded, Exif
from tests.support import Room, tree


class Shelf:
    """A room whose decoder believes the suffix, and knows the dates that it is told."""

    def __init__(self, base: Path) -> None:
        self.room = Room(base)
        self.dates: dict[bytes, str | None] = {}
        self.room.decode_with(self._decode)

    def _decode(self, path: Path) -> Decoded:
        decoded = self.room.decoder.decode(path)
        suffix = Path(os.readlink(path)).suffix.lower()
        taken = self.dates.get(path.read_bytes(), "2024-05-01T12:34:56")
        return replace(decoded, suffixes=(suffix,), exif=Exif(datetime_original=taken, dates=DateTexts(original=taken)))

    def file(self, name: str, content: bytes, taken: str | None = "2024-05-01T12:34:56") -> None:
        """Put one file into the inbox and have it filed."""
        self.dates[content] = taken
        self.room.put(name, content)
        self.room.drain()

    def library(self) -> dict[str, bytes]:
        """Return what is filed under May 2024."""
        return {name.removeprefix("2024/05/"): content for name, content in tree(self.room.library).items()}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path / "room")
    yield made
    made.room.close()


@pytest.mark.parametrize("order", [["IMG_1.CR2", "IMG_1.JPG"], ["IMG_1.JPG", "IMG_1.CR2"]])
@pytest.mark.parametrize("taken", ["IMG_1.JPG", "IMG_1.CR2", "IMG_1.DNG"])
def test_a_pair_has_one_stem_whichever_name_is_taken(shelf: Shelf, order: list[str], taken: str) -> None:
    shelf.file(f"old/{taken}", b"of another camera", "2024-05-30T08:00:00")
    for name in order:
        shelf.file(f"new/{name}", name.encode())
    assert shelf.library() == {
        taken: b"of another camera",
        # A DNG beside another RAW file is no reason to tell them apart, but beside a JPEG it is.
        **(
            {"IMG_1.CR2": b"IMG_1.CR2", "IMG_1.JPG": b"IMG_1.JPG"}
            if taken == "IMG_1.DNG" and order[0] == "IMG_1.CR2"
            else {"IMG_1-1.CR2": b"IMG_1.CR2", "IMG_1-1.JPG": b"IMG_1.JPG"}
        ),
    }


def test_the_number_is_free_for_every_suffix(shelf: Shelf) -> None:
    shelf.file("a/IMG_1.JPG", b"first")
    shelf.file("a/IMG_1-1.NEF", b"another", "2024-05-02T08:00:00")
    shelf.file("b/IMG_1.JPG", b"second", "2024-05-03T08:00:00")
    shelf.file("b/IMG_1.NEF", b"its raw", "2024-05-03T08:00:00")
    assert shelf.library() == {
        "IMG_1.JPG": b"first",
        "IMG_1-1.NEF": b"another",
        "IMG_1-2.JPG": b"second",
        "IMG_1-2.NEF": b"its raw",
    }


def test_letter_case_and_unicode_form_make_no_difference(shelf: Shelf) -> None:
    shelf.file("old/Gärten.jpg", b"another", "2024-05-30T08:00:00")
    shelf.file(unicodedata.normalize("NFD", "new/Gärten.NEF"), b"raw")
    shelf.file(unicodedata.normalize("NFC", "new/GÄRTEN.jpg"), b"jpeg")
    assert shelf.library() == {"Gärten.jpg": b"another", "Gärten-1.NEF": b"raw", "Gärten-1.jpg": b"jpeg"}


def test_the_second_that_comes_a_year_later_is_known_by_its_second(shelf: Shelf) -> None:
    shelf.file("old/IMG_1.JPG", b"another", "2024-05-30T08:00:00")
    shelf.file("new/IMG_1.ARW", b"raw")
    with shelf.room.catalogue.writing():
        Image.update(created_at=time.time() - 3e7).execute()
    shelf.file("new/IMG_1.JPG", b"jpeg", "2024-05-01T12:34:56+02:00")
    assert shelf.library()["IMG_1-1.JPG"] == b"jpeg"


def test_two_of_one_name_and_different_times_are_no_pair(shelf: Shelf) -> None:
    shelf.file("card/IMG_1.ARW", b"raw")
    shelf.file("card/IMG_1.JPG", b"of another camera", "2024-05-01T12:34:57")
    assert shelf.library() == {"IMG_1.ARW": b"raw", "IMG_1-1.JPG": b"of another camera"}


def test_without_a_date_those_are_a_pair_that_come_together(shelf: Shelf) -> None:
    shelf.file("x/IMG_1.RAF", b"raw", "2024-05-01T12:34:56")
    shelf.file("x/IMG_1.png", b"developed", None)
    late = {name: content for name, content in tree(shelf.room.library).items() if content == b"developed"}
    assert [name.rpartition("/")[2] for name in late] == ["IMG_1.png"]
    with shelf.room.catalogue.writing():
        Image.update(created_at=time.time() - 601).execute()
    os.utime(shelf.room.put("x/IMG_1.jpeg", b"any"), (1_714_600_000, 1_714_600_000))
    shelf.dates[b"any"] = None
    shelf.room.drain()
    assert shelf.room.row_of("IMG_1.jpeg")["destination"].endswith("IMG_1-1.jpeg")


def test_pictures_without_a_raw_file_may_share_a_stem(shelf: Shelf) -> None:
    for name in ("IMG_1.JPG", "IMG_1.HEIC", "IMG_1.png"):
        shelf.file(name, name.encode(), f"2024-05-0{len(name) % 9 + 1}T08:00:00")
    assert set(shelf.library()) == {"IMG_1.JPG", "IMG_1.HEIC", "IMG_1.png"}


def test_what_is_filed_is_not_renamed(shelf: Shelf) -> None:
    shelf.file("new/IMG_1.NEF", b"raw")
    shelf.room.library.joinpath("2024/05/IMG_1.JPG").write_bytes(b"the owner's own")
    shelf.file("new/IMG_1.JPG", b"jpeg")
    assert shelf.library() == {"IMG_1.NEF": b"raw", "IMG_1.JPG": b"the owner's own", "IMG_1-1.JPG": b"jpeg"}
