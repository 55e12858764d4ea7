"""Whatever is asked for, no page reads the whole table: SQLite says how it would find each."""

from dataclasses import replace

import pytest

from daemon.catalogue.schema import Image
from daemon.catalogue.search import _HOLDING, ImageQuery, _statement
from tests.support import Room

PAGE = ImageQuery(before=1000)


@pytest.mark.parametrize(
    "wanted",
    [
        ImageQuery(),
        PAGE,
        replace(PAGE, status="failed"),
        replace(PAGE, text="img 12"),
        replace(PAGE, text="img", camera="canon", status="done"),
        replace(PAGE, camera="canon", has_gps=False),
        replace(PAGE, taken_from="2020-01-01", taken_to="2020-02-01"),
        ImageQuery(sort="taken"),
        replace(PAGE, sort="taken"),
        replace(PAGE, sort="taken", has_gps=True),
        # What the contact sheet asks for.
        ImageQuery(status="done"),
        replace(PAGE, status="done", has_gps=True, captioned=True, folder="Alps"),
        replace(PAGE, status="done", text="img", has_gps=True),
        replace(PAGE, status="failed", text="img"),
        replace(PAGE, rating=5),
        replace(PAGE, rating=3, rating_or_more=True),
        ImageQuery(status="done", rating=3, rating_or_more=True),
        ImageQuery(status="done", rating=3, rating_or_more=True, sort="taken"),
        ImageQuery(status="rejected"),
        ImageQuery(status="done", month="2024-05"),
        ImageQuery(status="done", month="2024-05", sort="taken"),
        ImageQuery(status="done", at=1000),
        ImageQuery(status="done", after=1000),
        ImageQuery(status="done", after=1000, sort="taken"),
        ImageQuery(status="done", at=1000, sort="taken"),
        ImageQuery(status="done", at=1000, month="2024-05", sort="taken"),
    ],
)
def test_a_page_is_found_through_an_index(room: Room, wanted: ImageQuery) -> None:
    sql, parameters = _statement(wanted, 50)
    with room.catalogue.session():
        plan = [str(step[3]) for step in Image.raw(f"EXPLAIN QUERY PLAN {sql}", *parameters).tuples()]
    assert plan
    for step in plan:
        # Ranges of dates are sorted, but within their index.
        allowed = (
            ("SEARCH", "SCAN image_text VIRTUAL TABLE INDEX")
            if wanted.before or wanted.text
            else ("SCAN image", "SEARCH image")
        )
        if wanted.sort == "taken" and (step.startswith("SCALAR SUBQUERY") or "(rowid=?)" in step):
            continue  # where the page before ended
        if wanted.text and step.startswith("LIST SUBQUERY"):
            continue  # what has the words, looked up in an index of few
        assert step.startswith(allowed) or (wanted.taken_from and step == "USE TEMP B-TREE FOR ORDER BY"), plan
    assert not [step for step in plan if "TEMP" in step and not wanted.taken_from]


def test_frequent_words_by_date_are_not_sorted(room: Room) -> None:
    sql, parameters = _statement(ImageQuery(status="done", text="jpg", sort="taken"), 50, is_frequent=True)
    with room.catalogue.session():
        plan = [str(step[3]) for step in Image.raw(f"EXPLAIN QUERY PLAN {sql}", *parameters).tuples()]
    assert plan[0] == "SCAN image USING INDEX image_taken_order"
    assert not [step for step in plan if "TEMP" in step]


def test_bytes_are_found_through_the_indexes_of_their_hashes(room: Room) -> None:
    with room.catalogue.session():
        sql, hashes = _HOLDING.replace("()", "(?, ?)"), ["a"] * 6
        plan = [str(step[3]) for step in Image.raw(f"EXPLAIN QUERY PLAN {sql}", *hashes).tuples()]
    assert [step.partition(" USING ")[2] for step in plan if step.startswith("SEARCH")] == [
        "INDEX image_filed_bytes (sha256=?)",
        "INDEX image_waiting_bytes (sha256=?)",
        "INDEX image_status (status=?)",
    ]
