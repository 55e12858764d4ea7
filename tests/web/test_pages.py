"""The pages as they are served, without a browser: what they find, where they lead, whose words they show as text."""

import re
import time
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import web
from daemon.catalogue.facets import Facets
from daemon.catalogue.stats import Statistics
from tests.support import Room, jpeg
from tests.web import photographs
from tests.web.serving import Served
from web.photo import keywords_of, keywords_text, renamed_because
from web.rendering import size

STATIC = Path(web.__file__).parent / "static"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; -- {{ 7 * 7 }} {% raw %}",
    "\u202egpj.exe",
    "x" * 10_000,
    "&lt;b&gt;&amp;",
]


def fill(room: Room, count: int, *, pictures: bool = False, **columns: Any) -> None:
    """File some photos, a day after each other from 2024 on, in the database alone; with `pictures` all look alike."""
    rows = []
    for number in range(count):
        at = 1_704_100_000 + number * 86_400
        row = {
            "status": "done",
            "original_name": f"IMG_{number:04}.jpg",
            "folder": "",
            "source": "inbox",
            "created_at": at,
            "not_before": at,
            "attempts": 1,
            "place": "library",
            "destination": f"{number}.jpg",
            "sha256": f"{number:064x}",
            "width": 6000,
            "height": 4000,
            # Taken in another order than they came.
            "taken_at": f"20{10 + number % 7}-0{1 + number % 9}-11T12:00:00",
            "taken_order": 1e9 + (number * 7919) % 1000,
            **columns,
        }
        rows.append(row)
    names = ", ".join(rows[0])
    marks = ", ".join(f":{name}" for name in rows[0])
    if pictures:
        _link_pictures(room, count)
    with room.catalogue.writing():
        from daemon.catalogue.database import CURRENT

        CURRENT.cursor().executemany(f"INSERT INTO image ({names}) VALUES ({marks})", rows)


def _link_pictures(room: Room, count: int) -> None:
    content = photographs.jpeg(1, (200, 133))
    room.thumbnails.save("f" * 64, content, content)
    kept = room.thumbnails.path("f" * 64, "small")
    for number in range(count):
        path = room.thumbnails.path(f"{number:064x}", "small")
        path.hardlink_to(kept)
        path.with_name(path.name.replace("-200", "-800")).hardlink_to(kept)


def ids(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'<a id="i(\d+)"', page)]


def link(page: str, name: str) -> str | None:
    found = re.search(rf'id="{name}" href="([^"]*)"', page)
    return unescape(found[1]) if found else None


@pytest.mark.parametrize("sort", ["arrived", "taken"])
def test_the_sheet_leads_through_all_photos_and_back(served: Served, sort: str) -> None:
    fill(served.room, 450)
    down, at = [], f"/?sort={sort}"
    while True:
        page = served.http.get(at).text
        down.append(ids(page))
        following = link(page, "older")
        if following is None:
            break
        at = following
    everything = [number for part in down for number in part]
    assert len(everything) == len(set(everything)) == 450
    if sort == "arrived":
        assert everything == sorted(everything, reverse=True)
    up = ids(served.http.get(at).text)
    while (newer := link(served.http.get(at).text, "newer")) is not None:
        at = newer
        part = ids(served.http.get(at).text)
        up = part + [number for number in up if number not in part]
    assert up == everything


@pytest.mark.parametrize("sort", ["arrived", "taken"])
def test_the_sheet_opens_at_any_photo_and_at_any_month(served: Served, sort: str) -> None:
    fill(served.room, 450)
    for number in (1, 200, 450):
        assert number in ids(served.http.get(f"/?sort={sort}&at={number}").text)
    index = re.findall(r'href="(/\?[^"]*at=(\d{4}-\d\d)[^"]*)"', served.http.get(f"/?sort={sort}").text)
    assert len(index) > 10
    for address, month in index:
        page = served.http.get(unescape(address)).text
        sections = re.findall(r'data-month="([^"]*)"', page)
        assert sections[0] == month or sort == "taken"
        assert month in sections
    # What it was to open at is gone: the newest are shown.
    assert ids(served.http.get(f"/?sort={sort}&at=99999").text)


def test_the_sections_say_how_many_a_month_has(served: Served) -> None:
    fill(served.room, 60)
    page = served.http.get("/").text
    assert re.findall(r"<h2>(\w+ \d+) <span>(\d+)</span></h2>", page) == [
        ("February 2024", "29"),
        ("January 2024", "31"),
    ]


def test_filters_are_chips_that_can_be_taken_away(served: Served) -> None:
    fill(served.room, 3, folder="Alps & Co", camera_model="X-T30", lat=47.0, lon=11.0)
    given = "/?q=img&camera=X-T30&folder=Alps+%26+Co&has_gps=true&month=2024-01&sort=arrived"
    page = served.http.get(given).text
    assert len(ids(page)) == 3
    chips = re.findall(r'<li><a id="[^"]*" href="([^"]*)" aria-label="Remove the filter ([^"]*)"', page)
    assert [unescape(words) for _, words in chips] == ["X-T30", "January 2024", "folder Alps & Co", "has a place"]
    for address, _ in chips:
        assert len(ids(served.http.get(unescape(address)).text)) == 3
    assert ids(served.http.get("/?has_caption=true").text) == []
    assert "Nothing matches" in served.http.get("/?q=unicorn").text


def test_a_search_keeps_the_filters(served: Served) -> None:
    fill(served.room, 3)
    given = {
        "q": "img",
        "status": "failed",
        "camera": "none of these",
        "month": "1999-01",
        "folder": "Alps & Co",
        "from": "2020-01-01",
        "has_gps": "false",
        "has_caption": "true",
        "caption_status": "off",
        "rating": "3",
        "sort": "taken",
    }
    page = served.http.get("/", params=given).text
    sent = dict(re.findall(r'<input (?:id="q" )?type="(?:hidden|search)" name="([^"]*)" value="([^"]*)"', page))
    sent |= dict(re.findall(r'<input type="checkbox" name="([^"]*)" value="([^"]*)" form="search" checked', page))
    for name, options in re.findall(r'<select name="([^"]*)" form="search">(.*?)</select>', page, re.DOTALL):
        [chosen] = re.findall(r'<option(?: value="([^"]*)")? selected>([^<]*)', options)
        sent[name] = chosen[0] or chosen[1]
    assert {key: unescape(value) for key, value in sent.items()} == given


def test_a_visit_has_what_came_since_the_last_one(served: Served) -> None:
    fill(served.room, 3)
    first = served.http.get("/")
    assert "new since your last visit" not in first.text
    [visit] = served.http.cookies.values()
    since, newest, at = map(int, visit.split("-"))
    assert (since, newest) == (3, 3)
    for seed in range(2):
        served.room.put(f"{seed}.jpg", jpeg(seed=seed))
    served.room.drain()
    served.http.cookies.clear()

    def page(cookie: str) -> str:
        return served.http.get("/", headers={"Cookie": f"darkroom-visit={cookie}"}).text

    # It goes on; half an hour later the next one begins.
    assert "new since your last visit" not in page(f"5-5-{at}")
    assert "2 new since your last visit" in page(f"3-3-{at}")
    later = page(f"0-3-{at - 1801}")
    assert "2 new since your last visit" in later
    assert [number for number in ids(later) if f'fresh"><a id="i{number}"' in later] == [5, 4]
    for odd in ("", "x", "1-2", "-1-2-3", f"1-2-{'9' * 30}"):
        assert "new since your last visit" not in page(odd)


def test_a_page_of_nothing_but_new_photos_says_that_there_are_more(served: Served) -> None:
    fill(served.room, 250)
    page = served.http.get("/", headers={"Cookie": f"darkroom-visit=1-1-{int(time.time())}"}).text
    assert "200+ new since your last visit" in page


def test_all_scripts_but_those_of_the_documentation_are_small() -> None:
    scripts = [file for file in STATIC.glob("*.js") if file.name != "docs.js"]
    assert len(scripts) > 3
    assert sum(file.stat().st_size for file in scripts) <= 25_000


def test_a_camera_that_is_chosen_is_no_other_whose_name_begins_so(served: Served) -> None:
    fill(served.room, 2, camera_model="Canon EOS R6")
    served.sql("UPDATE image SET camera_model = 'Canon EOS R6 Mark II' WHERE id = 2")
    assert ids(served.http.get("/?camera=Canon+EOS+R6").text) == [1]
    assert ids(served.http.get("/?camera=canon+eos").text) == [2, 1]


@pytest.mark.parametrize("text", HOSTILE)
def test_other_peoples_words_are_text(served: Served, text: str) -> None:
    served.room.put("a.jpg", jpeg())
    served.room.drain()
    quoted = text.replace("'", "''")
    served.room.captions.edit(1, time.time(), caption=text[:10_000], keywords=[text[:200]])
    served.sql(
        f"UPDATE image SET original_name = '{quoted}', folder = '{quoted}', camera_model = '{quoted}',"
        f" lens_model = '{quoted}', visible_text = '{quoted}', title = '{quoted}', warning = '{quoted}'"
    )
    for path in ("/", "/images/1", "/stats", "/?sort=taken", "/?camera=x", "/?q=%3Cscript%3E"):
        answer = served.http.get(path)
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text
    shown = unescape(served.http.get("/images/1").text)
    # A direction mark is shown as what it is: it would turn the name around.
    assert text.replace("\u202e", "\\u202e")[:200] in shown or text[:200] in shown
    served.sql(f"UPDATE image SET status = 'failed', error = '{quoted}'")
    assert "<script>alert" not in served.http.get("/failed").text


@pytest.mark.parametrize("key", ["q", "camera", "folder"])
@pytest.mark.parametrize("value", ["true", "false", "-1", "..", "null", "\u202e"])
def test_any_words_may_be_looked_for(served: Served, key: str, value: str) -> None:
    assert served.http.get("/", params={key: value}).status_code == 200


@pytest.mark.parametrize("rating", ["-1", "0", "5", "3..", "-1.."])
def test_any_number_of_stars_may_be_looked_for(served: Served, rating: str) -> None:
    assert served.http.get("/", params={"rating": rating}).status_code == 200


@pytest.mark.parametrize("month", ["0000-01", "2026-13", "\uff12026-11", "x"])
def test_what_is_no_month_is_refused(served: Served, month: str) -> None:
    assert served.http.get("/", params={"month": month}).status_code == 400
    assert served.http.get("/api/images", params={"month": month}).status_code == 400


@pytest.mark.parametrize("sort", ["arrived", "taken"])
@pytest.mark.parametrize("month", ["0001-01", "9999-12"])
def test_the_first_and_the_last_month_are_months(served: Served, month: str, sort: str) -> None:
    fill(served.room, 3)
    assert served.http.get("/", params={"month": month, "sort": sort}).status_code == 200
    assert served.http.get("/api/images", params={"month": month, "sort": sort}).status_code == 200


def test_refusals_are_pages(served: Served) -> None:
    for path, status in {"/images/99": 404, "/images/x": 404, "/?status=none": 400, "/?month=2024-13": 400}.items():
        answer = served.http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert "<h1>" in answer.text


def test_a_photo_says_what_is_known_of_it(served: Served) -> None:
    served.room.put("Alps/IMG_1.jpg", jpeg(seed=1))
    served.room.put("IMG_1.jpg", jpeg(seed=2))
    served.room.drain()
    pages = [served.http.get(f"/images/{number}").text for number in (1, 2)]
    assert "1 May 2024, 12:34, from EXIF DateTimeOriginal" in pages[0]
    assert any("another photo had that name" in page for page in pages)
    assert "found in the inbox as" in pages[0]
    assert 'id="back" href="/?at=1#i1"' in pages[0]
    # Its neighbours are those of the view that it was opened from.
    alps = next(row["id"] for row in served.room.rows() if row["folder"] == "Alps")
    assert f'href="/images/{3 - alps}' in served.http.get(f"/images/{alps}").text
    assert f'href="/images/{3 - alps}' not in served.http.get(f"/images/{alps}?q=alps").text


def test_words_are_edited_by_a_form_alone(served: Served) -> None:
    served.room.put("a.jpg", jpeg())
    served.room.drain()
    served.room.captions.edit(1, time.time(), keywords=["Smith, John", "sea"])
    page = served.http.get("/images/1").text
    kept = re.search(r'name="keywords"[^>]* value="([^"]*)"', page)
    assert kept is not None
    form = {"act": "edit", "caption": "The\r\ngarden", "keywords": unescape(kept[1])}
    assert served.http.post("/images/1?q=a", data=form).headers["location"] == "/images/1?q=a"
    row = served.room.row()
    assert (row["caption"], row["keywords"]) == ("The\ngarden", ["Smith, John", "sea"])
    assert "by you" in served.http.get("/images/1").text
    before = len(served.room.kinds())
    served.http.post("/images/1", data=form)
    assert len(served.room.kinds()) == before, "what has not changed is nobody's words anew"
    assert served.http.post("/images/1", data={"act": "edit", "caption": "x" * 10_001}).status_code == 400
    assert served.http.post("/images/1", data={}).status_code == 400
    assert served.http.post("/images/7", data=form).status_code == 404


def test_stars_and_a_label_are_given_by_a_form_alone(served: Served) -> None:
    served.room.put("a.jpg", jpeg())
    served.room.drain()
    form = {"act": "edit", "caption": "", "keywords": "", "rating": "4", "label": " Red "}
    assert served.http.post("/images/1", data=form).status_code == 303
    row = served.room.row()
    assert (row["rating"], row["label"], row["caption"], row["edited"]) == (4, "Red", None, None)
    page = served.http.get("/images/1").text
    assert '<option value="4" selected>' in page
    assert 'value="Red"' in page
    assert ids(served.http.get("/?rating=4..").text) == [1]
    assert "★★★★ or more" in served.http.get("/?rating=4..").text
    assert ids(served.http.get("/?rating=5").text) == []
    served.http.post("/images/1", data={**form, "rating": "", "label": ""})
    row = served.room.row()
    assert (row["rating"], row["label"]) == (None, None)
    for wrong in ({"rating": "6"}, {"rating": "many"}, {"label": "x" * 201}):
        assert served.http.post("/images/1", data={"act": "edit", **wrong}).status_code == 400
    assert served.http.get("/?rating=7").status_code == 400


def test_a_photo_is_thrown_away_and_taken_back_by_buttons(served: Served) -> None:
    for name in ("a.jpg", "b.jpg"):
        served.room.put(name, jpeg(seed=ord(name[0])))
        served.room.drain()
    assert 'value="reject"' in served.http.get("/images/1").text
    assert served.http.post("/images/1", data={"act": "reject"}).status_code == 303
    page = served.http.get("/images/1").text
    assert "Thrown away on" in page
    assert "trash/library/2024/05/a.jpg" in page
    assert 'value="reject"' not in page
    assert ids(served.http.get("/").text) == [2]
    assert ids(served.http.get("/?status=rejected").text) == [1]
    assert served.http.post("/images/1", data={"act": "reject"}).status_code == 409
    assert served.http.post("/images/1", data={"act": "restore"}).status_code == 303
    assert ids(served.http.get("/").text) == [2, 1]
    (served.room.library / "2024/05/b.jpg").unlink()
    assert served.http.get("/api/images/2/original").status_code == 404
    page = served.http.get("/images/2").text
    assert "Deleted from the library on" in page
    assert ids(served.http.get("/").text) == [1]


def test_failures_are_grouped_and_tried_again(served: Served) -> None:
    from tests.decoding.images import decode

    served.room.decode_with(decode)
    for number in range(3):
        served.room.put(f"notes{number}.jpg", b"%PDF-1.4 " + bytes([number]))
    served.room.put("cut.jpg", jpeg()[:-200])
    for _ in range(4):
        served.room.drain(time.time() + 1e6)
    page = served.http.get("/failed").text
    assert '<title id="title">4 failed' in page
    assert re.findall(r'<h2 id="g\d">([^<]*) <span>(\d)</span>', page) == [("Not an image", "3"), ("Incomplete", "1")]
    assert "it looks like a PDF document" in page
    cut = served.room.row_of("cut.jpg")["id"]
    assert re.findall(r'<img src="([^"]+)"', page) == [f"/api/images/{cut}/original"], "what a browser shows a part of"
    first = re.search(r'name="id" value="(\d+)"><button id="[^"]*" aria-label="Try notes', page)
    assert first is not None
    assert served.http.post("/failed", data={"id": first[1]}).headers["location"] == "/failed?again=1"
    assert served.http.post("/failed", data={"reason": "not an image"}).headers["location"] == "/failed?again=2"
    assert served.http.post("/failed", data={"all": "1"}).headers["location"] == "/failed?again=1"
    assert "Nothing failed" in served.http.get("/failed").text
    assert served.http.post("/failed", data={"reason": "none"}).status_code == 400


def test_a_failure_is_shown_by_the_thumbnail_that_was_made_before(served: Served) -> None:
    served.room.put("one.jpg", jpeg())
    served.room.drain()
    row = served.room.row_of("one.jpg")
    served.sql("UPDATE image SET status = 'failed', failure = 'internal', error = 'gone'")
    page = served.http.get("/failed").text
    shown = re.findall(r'<img src="([^"]+)"', page)
    assert shown == [f"/api/images/{row['id']}/thumbnails/small"]
    assert served.http.get(shown[0]).headers["content-type"] == "image/jpeg"


def test_pages_are_compressed_and_small(served: Served) -> None:
    fill(served.room, 450, caption="A lighthouse on a rock in the evening, with gulls above it and a boat behind")
    answer = served.http.get("/")
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) < 60_000
    plain = served.http.get("/", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == answer.text


def test_the_sidecar_is_served(tmp_path: Any) -> None:
    room = Room(tmp_path / "room", sidecars=True)
    with Served(room) as served:
        room.put("a.jpg", jpeg())
        room.drain()
        answer = served.http.get("/api/images/1/sidecar")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/rdf+xml")
        assert answer.content == next(room.library.rglob("*.xmp")).read_bytes()
        assert (
            served.http.get("/api/images/1/sidecar", headers={"If-None-Match": answer.headers["etag"]}).status_code
            == 304
        )
        assert served.http.get("/api/images/2/sidecar").status_code == 404
    room.close()


def test_keywords_are_edited_as_one_line() -> None:
    for words in [(), ("a",), ("Smith, John", 'the "old" house', "sea"), ('"quoted"',), ("a\nb",)]:
        again = keywords_of(keywords_text(words))
        assert again == tuple(word.replace("\n", " ") for word in words)


def test_counts_are_kept_whatever_happens_to_a_row(room: Room) -> None:
    fill(room, 20, camera_make="Canon", folder="x", format="JPEG")
    facets = Facets(room.catalogue)
    assert facets.counts("camera") == {"Canon": 20}
    from daemon.catalogue.database import CURRENT

    with room.catalogue.writing():
        for statement in (
            "UPDATE image SET status = 'failed' WHERE id <= 3",
            "UPDATE image SET camera_model = 'EOS' WHERE id <= 10",
            "UPDATE image SET taken_at = '1999-01-01' WHERE id IN (2, 12)",
            "UPDATE image SET folder = '' WHERE id = 15",
            "DELETE FROM image WHERE id IN (3, 20)",
            "UPDATE image SET status = 'done' WHERE id = 1",
            "UPDATE image SET status = 'deleted', place = NULL, destination = NULL WHERE id IN (5, 6)",
            "UPDATE image SET status = 'rejected', place = 'trash' WHERE id IN (7, 8)",
            "UPDATE image SET status = 'done' WHERE id = 8",
            # As an edit and a move in the library do.
            "UPDATE image SET format = 'PNG', camera_make = 'Nikon', size_bytes = 7 WHERE id = 9",
            "UPDATE image SET status = 'deleted', format = 'WebP' WHERE id = 11",
        ):
            CURRENT.execute_sql(statement)
        expected = {
            kind: dict(
                CURRENT.execute_sql(
                    f"SELECT {value}, count(*) FROM image WHERE status = 'done' AND {value} <> '' GROUP BY 1"
                ).fetchall()
            )
            for kind, value in {
                "camera": "coalesce(camera_model, camera_make)",
                "folder": "folder",
                "format": "format",
                "taken": "substr(taken_at, 1, 7)",
                "arrived": "substr(arrived_on, 1, 7)",
                "day": "arrived_on",
            }.items()
        }
    for kind, counts in expected.items():
        assert facets.counts(kind) == counts, kind  # type: ignore[arg-type]
    counts = Statistics(room.catalogue).stats(0.0).counts
    assert (counts["done"], counts["deleted"], counts["rejected"]) == (13, 3, 1)


def test_sizes_are_written_as_people_read_them() -> None:
    assert [size(n) for n in (0, 999, 1000, 87_600, 4_200_000, 3e12)] == [
        *("0 bytes", "999 bytes", "1.0 kB", "87.6 kB", "4.2 MB", "3.0 TB")
    ]


def test_why_a_photo_was_renamed() -> None:
    from daemon.catalogue import ImageRow

    def because(came: str, filed: str) -> str | None:
        return renamed_because(ImageRow(original_name=came, destination=f"2024/05/{filed}", format="JPEG"))

    assert because("a.jpg", "a.jpg") is None
    assert because("a.jpg", "a-1.jpg") == "another photo had that name"
    assert because("a.png", "a.jpg") == "by its bytes it is JPEG"
    assert because("a.JPG", "a.jpg") == "suffixes are written in one way"
    assert because("a:b.jpg", "a_b.jpg") == "the template, or what the disk can hold, wants it otherwise"
