import unicodedata
from datetime import datetime
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.files import names

DAY = datetime(2024, 5, 1, 12, 34, 56)  # noqa: DTZ001


def values(**changes: object) -> names.Values:
    usual: dict[str, object] = {
        "taken": DAY,
        "name": "IMG_1.JPG",
        "folder": "card/DCIM",
        "camera": "Canon EOS 40D",
        "make": "Canon",
        "model": "Canon EOS 40D",
        "lens": None,
        "format": "JPEG",
        "source": "inbox",
    }
    return names.Values(**{**usual, **changes})  # type: ignore[arg-type]


@given(st.text(st.sampled_from(list("a.~ /\\:\0\x1b\u00fc\u202e\ud800C")) | st.characters(), max_size=300))
def test_a_folder_is_refused_or_made_of_legal_names(text: str) -> None:
    try:
        made = names.folder(text)
    except ValueError:
        return
    parts = PurePosixPath(made).parts
    assert made == "/".join(parts)
    assert all(part == names.component(part) for part in parts)
    assert names.folder(made) == made


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{taken:%Y/%m}/{name}", "2024/05/IMG_1.JPG"),
        ("{taken:%Y%m%d_%H%M%S}", "20240501_123456.JPG"),
        ("{camera}/{lens}/{stem}_x{suffix}", "Canon EOS 40D/unknown/IMG_1_x.JPG"),
        ("{folder}/{name}", "card/DCIM/IMG_1.JPG"),
        ("{format}//{source}/{name}", "jpeg/inbox/IMG_1.JPG"),
        ("{stem}..{suffix}", "IMG_1.JPG"),
        ("{taken:%Y}/[{camera}/]{name}", "2024/Canon EOS 40D/IMG_1.JPG"),
        ("{taken:%Y}/[{lens}/]{name}", "2024/IMG_1.JPG"),
        ("[{make} {lens}/]{taken:%Y}[-{folder}]/{name}", "2024-card/DCIM/IMG_1.JPG"),
        ("{stem}[ with {lens}][ by {make}]{suffix}", "IMG_1 by Canon.JPG"),
        ("[[{lens}]]/{name}", "[unknown]/IMG_1.JPG"),
        ("[[[{camera}]]] {{x}}/{name}", "[Canon EOS 40D] {x}/IMG_1.JPG"),
    ],
)
def test_templates(template: str, expected: str) -> None:
    assert str(names.expand(names.check_template(template), values())) == expected


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{nme}", "unknown field"),
        ("{taken}/{name}", "needs a format"),
        ("{name:>10}", "takes no format"),
        ("{name!r}", "takes no format"),
        ("{name.__class__}", "unknown field"),
        ("{camera}", "one name"),
        ("{name}/", "ends with a folder"),
        ("{name", "each { needs its }"),
        ("{name}}", "each } its {"),
        ("../../{name}", "leads out of the library"),
        ("{taken:%Y/../%m}/{name}", "leads out of the library"),
        ("{folder}/./{name}", "leads out of the library"),
        ("/{name}", "leads out of the library"),
        ("[{camera}/{name}", "a \\[ without its \\]"),
        ("{camera}]/{name}", "a \\] without its \\["),
        ("[{camera}[ {lens}]]/{name}", "brackets in brackets"),
        ("[{camera} [{lens}] x]/{name}", "brackets in brackets"),
        ("[{taken:%Y}] {name}", r"has one of \{camera\}, .*; a bracket itself is written \[\[ or \]\]"),
        ("x[y]/{name}", "has one of"),
        ("[{camera} {name}]", "outside of brackets"),
        ("{name}[/{camera}/]", "ends with a folder"),
    ],
)
def test_bad_templates(template: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        names.check_template(template)


@pytest.mark.parametrize("empty", [None, "", " "])
def test_a_part_in_brackets_vanishes_where_a_field_in_it_is_empty(empty: str | None) -> None:
    for field in names.MAY_BE_MISSING if empty is not None else ("camera", "lens", "make", "model"):
        template = names.check_template(f"a[b{{{field}}}c{{source}}/]{{name}}")
        assert (
            str(names.expand(template, values(**{field: empty or ("" if field == "folder" else None)}))) == "aIMG_1.JPG"
        )
        assert str(names.expand(template, values(**{field: "x"}))) == "abxcinbox/IMG_1.JPG"


anything = st.text(st.characters(blacklist_categories=()), max_size=300)


@given(anything, anything, anything)
def test_no_value_escapes(name: str, folder: str, camera: str) -> None:
    path = names.expand("{camera}/{folder}/{name}", values(name=name or "x", folder=folder, camera=camera))
    assert not path.is_absolute()
    for part in path.parts:
        assert part not in {"", ".", ".."}
        assert not part.startswith(".")
        assert "/" not in part
        assert not any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in part)
        assert len(part.encode()) <= 240


@given(anything)
def test_components_are_stable(text: str) -> None:
    assert names.component(names.component(text)) == names.component(text)


@pytest.mark.parametrize(
    ("name", "suffixes", "expected"),
    [
        ("a.JPG", (".jpg", ".jpeg"), "a.JPG"),
        ("a.png", (".jpg", ".jpeg"), "a.jpg"),
        ("a", (".jpg",), "a.jpg"),
        ("holiday.2024", (".jpg",), "holiday.2024.jpg"),
        ("a.jpg.png", (".jpg",), "a.jpg.jpg"),
        ("a.", (".jpg",), "a.jpg"),
    ],
)
def test_wrong_suffixes_are_corrected(name: str, suffixes: tuple[str, ...], expected: str) -> None:
    assert names.with_true_suffix(name, suffixes) == expected


def test_numbers_go_before_the_suffix() -> None:
    assert str(names.numbered(PurePosixPath("2024/a.tar.jpg"), 2)) == "2024/a.tar-2.jpg"
    assert str(names.numbered(PurePosixPath("2024/a.jpg"), 0)) == "2024/a.jpg"


def test_portable_names() -> None:
    assert str(names.portable(PurePosixPath('a:b/c?"d.jpg'))) == "a_b/c__d.jpg"
    assert len(names.portable(PurePosixPath("ü" * 200 + ".jpg")).name.encode()) <= 84


def test_names_as_people_write_them_stay() -> None:
    for name in ("Screenshot at 1.34.56\u202fPM.png", "写真\u3000一.jpg", "👨\u200d👩\u200d👧.jpg", "a\u00a0b.jpg"):
        assert names.display(name) == names.component(name) == name


def test_display_escapes_what_a_line_of_text_can_not_hold() -> None:
    assert names.display("a\nb\udcff\x1b[31m.jpg") == "a\\nb\\udcff\\x1b[31m.jpg"


@given(st.text(), st.integers(0, 60))
def test_a_beginning_has_so_many_units_and_whole_characters(text: str, units: int) -> None:
    beginning, composed = names.beginning(text, units), unicodedata.normalize("NFC", text)
    assert composed.startswith(beginning)
    size = len(beginning.encode("utf-16-le", "surrogatepass")) // 2
    assert size in {units, units - 1} or (size < units and beginning == composed)


@pytest.mark.parametrize("other", ["GÄRTEN.JPG", "gärten.jpg", unicodedata.normalize("NFD", "Gärten.jpg")])
def test_letter_case_and_unicode_form_are_folded(other: str) -> None:
    assert names.fold(other) == names.fold("Gärten.jpg")
