"""Companions reach their photo before, with and after it, and are never lost; the rules of their names."""

import os
import time
import unicodedata
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path, PurePosixPath
from typing import Literal

import pytest

from daemon.catalogue.companions import CompanionRows
from daemon.catalogue.schema import Image
from daemon.errors import EnvironmentFault, Rejected
from daemon.files import atomic
from daemon.files.atomic import Entry
from daemon.filing.companions import numbered, of_photo, parse
from daemon.filing.consumer import Turn
from daemon.sidecar import xmp
from tests.captions.darkroom import FullRoom
from tests.support import jpeg, packet_of, slow, tree

XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>"""
PHOTO, VIDEO = b"a photo", b"the video of it"


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullRoom]:
    made = FullRoom(tmp_path / "room")
    made.decoder.errors = {}
    yield made
    made.close()


def library(room: FullRoom) -> dict[str, bytes]:
    """The library without the sidecars."""
    return {name: content for name, content in tree(room.library).items() if not name.endswith(".JPG.xmp")}


@pytest.mark.parametrize(
    ("name", "photo"),
    [
        ("IMG_1.xmp", "IMG_1.JPG"),
        ("img_1.XMP", "IMG_1.JPG"),
        ("IMG_1.JPG.xmp", "IMG_1.jpg"),
        ("IMG_1.AAE", "IMG_1.HEIC"),
        ("IMG_1.MOV", "IMG_1.heic"),
        ("PXL_1.MP.mp4", "PXL_1.MP.jpg"),
        ("IMG_E1234.MOV", "IMG_E1234.JPG"),
        ("IMG_E1234.MOV", "IMG_1234.HEIC"),
        ("IMG_O1234.AAE", "IMG_1234.HEIC"),
        ("a.json", "a.jpg"),
        ("a.jpg.json", "a.jpg"),
        ("a.jpg.supplemental-metadata.json", "a.jpg"),
        ("a.jpg.suppl.json", "a.jpg"),
        ("a.jpg.s.json", "a.jpg"),
        ("a.jpg(1).json", "a(1).jpg"),
        ("a.jpg.supplemental-metadata(2).json", "a(2).jpg"),
        ("a(1).json", "a(1).jpg"),
        (f"{'x' * 46}.json", f"{'x' * 60}.jpg"),
        (f"{'x' * 43}.jp.json", f"{'x' * 43}.jpg"),
        (f"{'x' * 40}.jpg.s.json", f"{'x' * 40}.jpg"),
        ("a.jpg(1).suppl.json", "a(1).jpg"),
        ("A.JPG.SUPPLEMENTAL-METADATA.JSON", "a.jpg"),
        ("a.jpg.json", "a-edited.jpg"),
        ("a(1).jpg.json", "a(1)-bearbeitet.jpg"),
        ("a(1).jpg.json", "a-modifié(1).jpg"),
        ("PXL_1.MP", "PXL_1.MP.jpg"),
        ("PXL_1.MP", "PXL_1.jpg"),
        ("PXL_1.MP~2", "PXL_1.MP~2.jpg"),
        ("PXL_1.MP~2", "PXL_1~2.jpg"),
        ("MVIMG_1.MV", "MVIMG_1.jpg"),
        ("IMG_0042_HEVC.MOV", "IMG_0042.HEIC"),
        ("IMG_1234.AAE", "IMG_E1234.JPG"),
        ("DSC_7_02.JPG.xmp", "DSC_7.JPG"),
        ("DSC_7.NEF.pp3", "DSC_7.NEF"),
        ("DSC_7.NEF.dop", "DSC_7.NEF"),
        ("CRW_7.THM", "CRW_7.CRW"),
        ("GOPR7.LRV", "GOPR7.JPG"),
        ("DSC_7.WAV", "DSC_7.NEF"),
        ("DSC_7.JPG.wav", "DSC_7.JPG"),
        ("img_ä.jpg.XMP", unicodedata.normalize("NFD", "IMG_Ä.JPG")),
    ],
)
def test_names_that_belong_together(name: str, photo: str) -> None:
    assert of_photo(photo, [(7, name)]) == [7]


@pytest.mark.parametrize(
    ("name", "photo"),
    [
        ("IMG_1.xmp", "IMG_10.JPG"),
        ("IMG_10.xmp", "IMG_1.JPG"),
        ("IMG_1.PNG.xmp", "IMG_1.JPG"),
        ("a.jpg(1).json", "a.jpg"),
        ("a.jpg.json", "a(1).jpg"),
        ("xx.json", "xxx.jpg"),
        ("IMG_E123.MOV", "IMG_123.HEIC"),
        ("IMG_1.txt", "IMG_1.JPG"),
        (".xmp", ".jpg"),
        ("a.jpg.json", "a-edit.jpg"),
        ("a-edited.jpg.json", "a.jpg"),
        ("PXL_1.MP", "PXL_1.MP~2.jpg"),
        ("IMG_0042_HEVC.MOV", "IMG_00421.HEIC"),
        ("DSC_7_02.xmp", "DSC_7.JPG"),
        ("DSC_7_2.JPG.xmp", "DSC_7.JPG"),
    ],
)
def test_names_that_do_not(name: str, photo: str) -> None:
    assert of_photo(photo, [(7, name)]) == []


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("IMG_1.MOV", "2024/NEW-1.MOV"),
        ("IMG_1.JPG.xmp", "2024/NEW-1.xmp"),
        ("IMG_1.jpg.json", "2024/NEW-1.jpg.json"),
        ("IMG_1.jpg.suppl.json", "2024/NEW-1.jpg.suppl.json"),
        ("IMG_1.json", "2024/NEW-1.json"),
        ("IMG_1.jpg(2).json", "2024/NEW-1.jpg.json"),
        (f"{'x' * 46}..json", "2024/NEW-1.json"),
        ("IMG_1_HEVC.MOV", "2024/NEW-1_HEVC.MOV"),
        ("IMG_1_03.jpg.xmp", "2024/NEW-1_03.jpg.xmp"),
        ("IMG_1.jpg.pp3", "2024/NEW-1.jpg.pp3"),
        ("IMG_1.MP", "2024/NEW-1.MP"),
    ],
)
def test_the_name_beside_the_photo(name: str, wanted: str) -> None:
    companion = parse(name)
    assert companion is not None
    assert str(companion.beside(PurePosixPath("2024/NEW-1.jpg"), "IMG_1.jpg")) == wanted


def test_a_second_companion_is_not_named_like_another_photos() -> None:
    assert str(numbered(PurePosixPath("a/IMG_1.xmp"), 1)) == "a/IMG_1.1.xmp"


def test_the_video_of_a_photo_whose_name_says_so_has_that_name() -> None:
    companion = parse("PXL_1.MP")
    assert companion is not None
    assert str(companion.beside(PurePosixPath("2024/PXL_1.MP.jpg"), "PXL_1.MP.jpg")) == "2024/PXL_1.MP"


FILES = {"IMG_1.JPG": PHOTO, "IMG_1.MOV": VIDEO, "IMG_1.xmp": XMP, "IMG_1.AAE": b"edits", "IMG_1.JPG.json": b"{}"}


@pytest.mark.parametrize("order", [[*order] for order in permutations(["IMG_1.JPG", "IMG_1.MOV", "IMG_1.xmp"])])
def test_in_any_order(full: FullRoom, order: list[str]) -> None:
    for name in order:
        full.put(name, FILES[name])
        full.drain()
    full.drain(time.time() + 5)
    assert library(full) == {f"2024/05/{name}": FILES[name] for name in order}
    assert tree(full.inbox) == tree(full.failed) == {}
    [photo] = full.rows()
    assert full.statistics.stats(time.time()).counts == {
        **dict.fromkeys(("queued", "processing", "duplicate", "failed", "deleted", "rejected"), 0),
        "done": 1,
    }
    assert full.beside() == {f"library/2024/05/{n}": photo["id"] for n in order if n != "IMG_1.JPG"}


def test_all_kinds_at_once_under_the_new_stem(full: FullRoom) -> None:
    full.put("IMG_1.JPG", b"another photo that has the name already")
    full.drain()
    for name, content in FILES.items():
        full.put(f"trip/{name}", content)
    full.drain()
    assert {name: content for name, content in library(full).items() if "-1" in name} == {
        "2024/05/IMG_1-1.JPG": PHOTO,
        "2024/05/IMG_1-1.MOV": VIDEO,
        "2024/05/IMG_1-1.xmp": XMP,
        "2024/05/IMG_1-1.AAE": b"edits",
        "2024/05/IMG_1-1.JPG.json": b"{}",
    }
    sidecar = packet_of((full.library / "2024/05/IMG_1-1.JPG.xmp").read_bytes())
    assert sidecar.text(xmp.XMP, "Rating") == "4"


def test_what_waits_says_so_and_fails_when_nothing_comes(full: FullRoom) -> None:
    full.put("IMG_1.xmp", XMP)
    full.decoder.errors = {"IMG_1.xmp": [Rejected("not an image: XML")] * 9}
    now = time.time() + 0.1
    assert full.drain(now) == [Turn.WAITING, Turn.IDLE]
    assert (full.row()["status"], full.row()["waiting"]) == ("queued", "waiting for its photo")
    turns, at = 0, now
    while full.row()["status"] == "queued":
        at = full.queue.next_due() or at
        full.drain(at)
        turns += 1
    assert 590 < at - now < 610
    assert turns < 15
    assert full.row()["error"] == "not an image: XML; and no photo named IMG_1.* came that it would belong to"
    assert tree(full.failed)["IMG_1.xmp"] == XMP
    assert tree(full.inbox) == {}


def test_the_end_of_one_pass_waits_for_nobody(full: FullRoom) -> None:
    full.put("clip.MP4", VIDEO)
    full.decoder.errors = {"clip.MP4": [Rejected("not an image: a video")]}
    full.drain()
    assert full.companions.give_up()
    full.drain()
    assert full.row()["status"] == "failed"
    assert not full.companions.give_up()


def test_an_image_under_a_companions_name_is_an_image(full: FullRoom) -> None:
    full.put("odd.mov", PHOTO)
    full.drain()
    full.drain(time.time() + 601)
    assert full.row()["status"] == "done"


def test_a_companion_fails_with_its_photo(full: FullRoom) -> None:
    full.put("IMG_1.JPG", b"broken")
    full.put("IMG_1.MOV", VIDEO)
    full.decoder.errors = {"IMG_1.JPG": [Rejected("not an image")]}
    full.drain()
    assert {name for name in tree(full.failed) if not name.endswith(".txt")} == {"IMG_1.JPG", "IMG_1.MOV"}
    assert "its photo, IMG_1.JPG, could not be filed" in str(full.row_of("IMG_1.MOV")["error"])


def test_an_old_photo_is_a_companions_only_when_no_new_one_comes(full: FullRoom) -> None:
    full.put("IMG_1.JPG", b"of last week")
    full.drain()
    with full.catalogue.writing():
        Image.update(created_at=time.time() - 7 * 86400).execute()
    full.put("IMG_1.xmp", XMP)
    # One time for all turns, however long they take.
    assert full.drain(time.time() + 1) == [Turn.WAITING, Turn.IDLE]
    full.put("IMG_1.JPG", PHOTO)
    full.drain()
    assert full.beside() == {"library/2024/05/IMG_1-1.xmp": full.rows()[-1]["id"]}
    full.put("IMG_1.AAE", b"edits")
    full.drain()
    assert full.rows()[-1]["status"] == "done"


def test_an_old_photo_days_later(full: FullRoom) -> None:
    full.put("IMG_1.JPG", PHOTO)
    full.drain()
    with full.catalogue.writing():
        Image.update(created_at=time.time() - 7 * 86400).execute()
    full.put("IMG_1.xmp", XMP)
    full.drain()
    full.drain(time.time() + 31)
    assert full.beside() == {"library/2024/05/IMG_1.xmp": 1}


def test_a_lone_video_is_not_given_to_a_photo_that_has_one(full: FullRoom) -> None:
    for name in ("IMG_1.JPG", "IMG_1.MOV"):
        full.put(name, FILES[name])
    full.drain()
    full.put("IMG_1.MOV", b"another video")
    full.decoder.errors = {"IMG_1.MOV": [Rejected("not an image: a video")]}
    full.drain()
    assert tree(full.failed)["IMG_1.MOV"] == b"another video"
    assert library(full)["2024/05/IMG_1.MOV"] == VIDEO


def test_changed_edits_are_kept_beside_the_first(full: FullRoom) -> None:
    full.put("IMG_1.JPG", PHOTO)
    full.put("IMG_1.AAE", b"edits")
    full.drain()
    full.put("IMG_1.AAE", b"other edits")
    full.drain()
    assert library(full)["2024/05/IMG_1.AAE"] == b"edits"
    assert library(full)["2024/05/IMG_1.1.AAE"] == b"other edits"


@pytest.mark.parametrize("duplicates", ["keep", "delete"])
def test_a_pair_that_comes_twice(tmp_path: Path, duplicates: str) -> None:
    room = FullRoom(tmp_path / "room", f'[filing]\nduplicates = "{duplicates}"\n')
    for _ in range(2):
        for name in ("IMG_1.JPG", "IMG_1.MOV"):
            room.put(name, FILES[name])
        room.drain()
    assert library(room) == {"2024/05/IMG_1.JPG": PHOTO, "2024/05/IMG_1.MOV": VIDEO}
    kept = {"IMG_1.JPG": PHOTO, "IMG_1.MOV": VIDEO} if duplicates == "keep" else {}
    assert {name: content for name, content in tree(room.duplicates).items() if not name.endswith(".xmp")} == kept
    assert tree(room.inbox) == tree(room.failed) == {}
    room.close()


def test_a_duplicates_new_companion_goes_to_the_filed_photo(full: FullRoom) -> None:
    full.put("IMG_1.JPG", PHOTO)
    full.drain()
    full.put("again/IMG_1.JPG", PHOTO)
    full.put("again/IMG_1.xmp", XMP)
    full.drain()
    assert full.beside() == {"library/2024/05/IMG_1.xmp": 1}


def test_a_name_that_is_taken_in_the_library_is_left_alone(full: FullRoom) -> None:
    (full.library / "2024/05").mkdir(parents=True)
    (full.library / "2024/05/IMG_1.MOV").write_bytes(b"the owner's own")
    for name in ("IMG_1.JPG", "IMG_1.MOV"):
        full.put(name, FILES[name])
    full.drain()
    assert library(full) == {
        "2024/05/IMG_1.JPG": PHOTO,
        "2024/05/IMG_1.MOV": b"the owner's own",
        "2024/05/IMG_1.1.MOV": VIDEO,
    }


class _Killed(BaseException):
    """Stands for a power cut: no handler of the program catches it."""


_STEPS = ["plan", "place", "arrived", "write", "unlink", "forget"]


# Before a step is all but after the one before it.
@pytest.mark.parametrize("step", _STEPS)
@pytest.mark.parametrize("after", [slow(False), True])
def test_killed_at_any_step(full: FullRoom, monkeypatch: pytest.MonkeyPatch, step: str, after: bool) -> None:
    full.put("IMG_1.JPG", PHOTO)
    full.drain()
    full.put("IMG_1.xmp", XMP)

    def dying(work: object) -> object:
        def die(*args: object, **named: object) -> None:
            if after:
                work(*args, **named)  # type: ignore[operator]
            raise _Killed

        return die

    where: dict[str, object] = {"plan": full.queue, "write": full.sidecars}
    where |= {"arrived": CompanionRows, "forget": CompanionRows}
    with monkeypatch.context() as patch:
        if step == "place":
            patch.setattr(atomic, "place", dying(atomic.place))
        elif step == "unlink":
            patch.setattr(Entry, "unlink", dying(Entry.unlink))
        else:
            patch.setattr(where[step], step, dying(getattr(where[step], step)))
        with pytest.raises(_Killed):
            full.drain()
    assert XMP in tree(full.inbox).values() or XMP in tree(full.library).values()
    full.recover()
    full.drain()
    assert library(full) == {"2024/05/IMG_1.JPG": PHOTO, "2024/05/IMG_1.xmp": XMP}
    assert tree(full.inbox) == tree(full.failed) == {}
    assert full.beside() == {"library/2024/05/IMG_1.xmp": 1}
    assert [row["status"] for row in full.rows()] == ["done"]
    sidecar = packet_of((full.library / "2024/05/IMG_1.JPG.xmp").read_bytes())
    full.caption()
    assert sidecar.text(xmp.XMP, "Rating") == "4"


def test_a_full_disk_pauses_and_goes_on(full: FullRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    full.put("IMG_1.JPG", PHOTO)
    full.drain()
    full.put("IMG_1.MOV", VIDEO)
    with monkeypatch.context() as patch:

        def full_disk(*_: object) -> None:
            raise EnvironmentFault("library: No space left on device")

        patch.setattr(atomic, "place", full_disk)
        assert full.drain()[-1] is Turn.PAUSED
    full.drain()
    full.drain(time.time() + 40)
    assert library(full)["2024/05/IMG_1.MOV"] == VIDEO


def test_a_photo_that_was_taken_away_has_no_companions(full: FullRoom) -> None:
    full.put("IMG_1.JPG", PHOTO)
    full.drain()
    (full.library / "2024/05/IMG_1.JPG").unlink()
    full.put("IMG_1.xmp", XMP)
    full.decoder.errors = {"IMG_1.xmp": [Rejected("not an image")]}
    full.drain()
    assert full.row_of("IMG_1.xmp")["status"] == "failed"


def test_mode_and_time_are_kept(full: FullRoom) -> None:
    full.put("IMG_1.JPG", PHOTO)
    path = full.put("IMG_1.MOV", VIDEO)
    path.chmod(0o640)
    os.utime(path, (1_500_000_000, 1_500_000_000))
    full.drain()
    info = (full.library / "2024/05/IMG_1.MOV").stat()
    assert (info.st_mode & 0o777, info.st_mtime) == (0o640, 1_500_000_000)


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("companion_first", [True, False])
def test_unicode_form_and_letter_case_part_no_pair(
    full: FullRoom, form: Literal["NFC", "NFD"], other: Literal["NFC", "NFD"], companion_first: bool
) -> None:
    photo, companion = unicodedata.normalize(form, "Blüten.JPG"), unicodedata.normalize(other, "BLÜTEN.jpg.Xmp")
    files = {companion: XMP, photo: PHOTO} if companion_first else {photo: PHOTO, companion: XMP}
    for name, content in files.items():
        full.put(name, content)
        full.drain()
    assert full.beside() == {"library/2024/05/Blüten.Xmp": full.row()["id"]}


def test_what_is_a_photo_by_its_bytes_is_no_companion(full: FullRoom) -> None:
    full.put("IMG_1.JPG", PHOTO)
    full.put("IMG_1.mov", jpeg())
    full.put("IMG_1.THM", jpeg(seed=1))
    full.drain()
    assert full.beside() == {"library/2024/05/IMG_1.THM": full.row_of("IMG_1.JPG")["id"]}
    assert sorted(row["original_name"] for row in full.rows()) == ["IMG_1.JPG", "IMG_1.mov"]


def test_a_photo_may_be_named_like_a_duplicate(full: FullRoom) -> None:
    full.put("DSC_07.JPG", PHOTO)
    full.put("DSC_07.JPG.xmp", XMP)
    full.drain()
    assert full.beside() == {"library/2024/05/DSC_07.xmp": full.row()["id"]}
    sidecar = packet_of((full.library / "2024/05/DSC_07.JPG.xmp").read_bytes())
    assert sidecar.text(xmp.XMP, "Rating") == "4"


def test_the_edits_of_a_duplicate_are_not_the_photos(full: FullRoom) -> None:
    full.put("DSC_7.JPG", PHOTO)
    full.put("DSC_7_01.JPG.xmp", XMP)
    assert full.drain()[-2:] == [Turn.WAITING, Turn.IDLE]
    full.drain(time.time() + 31)
    assert full.beside() == {"library/2024/05/DSC_7_01.JPG.xmp": 1}
    sidecar = packet_of((full.library / "2024/05/DSC_7.JPG.xmp").read_bytes())
    assert sidecar.text(xmp.XMP, "Rating") is None


@pytest.mark.parametrize(
    "names",
    [
        ["PXL_1.MP.jpg", "PXL_1.MP", "PXL_1.MP.jpg.json"],
        ["MVIMG_1.jpg", "MVIMG_1.MV"],
        ["IMG_42.HEIC", "IMG_42_HEVC.MOV"],
        ["DSC_7.NEF", "DSC_7.NEF.pp3", "DSC_7.NEF.dop", "DSC_7.WAV"],
    ],
)
@pytest.mark.parametrize("backwards", [True, slow(False)])
def test_companions_in_wide_use(full: FullRoom, names: list[str], backwards: bool) -> None:
    full.decoder.errors = {}
    for name in names[:: -1 if backwards else 1]:
        full.put(name, name.encode())
        full.drain()
    full.drain(time.time() + 31)
    assert tree(full.inbox) == tree(full.failed) == {}
    assert len(full.beside()) == len(names) - 1
    assert set(full.beside().values()) == {full.row()["id"]}
