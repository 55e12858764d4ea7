"""Lists, filters, search, one image, a person's words, queue again, the counts."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.catalogue.schema import Event, Image
from daemon.errors import Rejected
from tests.program import environment
from tests.support import jpeg
from tests.web.serving import Served
from web.app import QUERIES
from web.openapi import SEARCHED, build


def change(served: Served, number: int, **values: Any) -> None:
    with served.room.catalogue.writing():
        Image.update(values).where(Image.id == number).execute()


def names(served: Served, **query: Any) -> list[str]:
    answer = served.http.get("/api/images", params=query)
    assert answer.status_code == 200, answer.text
    return [image["original_name"] for image in answer.json()["data"]]


def fill(served: Served, *files: str) -> None:
    for seed, name in enumerate(files):
        served.room.put(name, jpeg(seed=seed))
        served.room.drain()


def test_one_image_has_every_field_of_the_contract(served: Served) -> None:
    fill(served, "IMG_1.jpg")
    change(served, 1, lat=48.5, lon=-11.25, iso=200, focal_length=35.0, exposure_time="1/250", f_number=2.8)
    image = served.http.get("/api/images/1").json()["data"]
    assert image["image_id"] == 1
    assert (image["status"], image["caption"], image["keywords"], image["error"]) == ("done", None, [], None)
    assert image["library_path"] == "2024/05/IMG_1.jpg"
    assert image["thumbnails"]["small"] == "/api/images/1/thumbnails/small"
    assert image["metadata"]["width"] == 4
    exif = image["metadata"]["exif"]
    assert exif["gps"] == {"lat": 48.5, "lon": -11.25}
    assert (exif["iso"], exif["focal_length"], exif["exposure_time"]) == (200, 35.0, "1/250")
    assert (exif["lens_model"], exif["raw"]) == (None, {})
    assert image["created_at"].endswith("Z")
    assert image["processed_at"] >= image["created_at"]
    assert [line["event"] for line in image["history"]][:1] == ["queued"]


@pytest.mark.parametrize("path", ["/api/images/7", "/api/images/99999999999999999999999", "/api/images/seven"])
def test_an_image_that_is_not_there(served: Served, path: str) -> None:
    answer = served.http.get(path)
    assert answer.status_code == 404
    assert answer.json()["status"] == "error"


def test_pages_follow_each_other_while_images_come_in(served: Served) -> None:
    fill(served, *(f"{n}.jpg" for n in range(7)))
    first = served.http.get("/api/images?limit=3&status=done")
    assert [image["image_id"] for image in first.json()["data"]] == [7, 6, 5]
    served.upload("late.jpg", jpeg(seed=99))
    link = first.headers["link"]
    assert link.endswith('rel="next"')
    second = served.http.get(link[1 : link.index(">")])
    assert [image["image_id"] for image in second.json()["data"]] == [4, 3, 2]
    third = served.http.get("/api/images", params={"limit": 3, "cursor": second.json()["next"]})
    assert [image["image_id"] for image in third.json()["data"]] == [1]
    assert third.json()["next"] is None
    assert "link" not in third.headers


FOUND: dict[str, list[str]] = {
    "1234": ["IMG_1234.jpg"],
    "IMG_1234": ["IMG_1234.jpg"],
    "img_12": ["IMG_1234.jpg"],
    "img_1234.jpg": ["IMG_1234.jpg"],
    "garten": ["DSC-9.jpg"],
    "MÜLLER gart": ["DSC-9.jpg"],
    "muller": ["DSC-9.jpg"],
    "birthday": ["DSC-9.jpg"],
    "äpfel": ["DSC-9.jpg"],
    "canon": ["DSC-9.jpg", "IMG_1234.jpg"],
    "canon 9": ["DSC-9.jpg"],
    "summer": ["IMG_1234.jpg"],
    "nothing": [],
    "---": [],
    '" OR 1': [],
    "a AND (b": [],
    "caption:garten*": [],
    "NEAR(": [],
    "x\0y": [],
}


def test_search(served: Served) -> None:
    fill(served, "summer/IMG_1234.jpg", "DSC-9.jpg")
    change(served, 2, caption="Im Garten bei Müller", keywords=["birthday", "Äpfel"])
    assert {query: names(served, q=query) for query in FOUND} == FOUND


# What the texts call a column that search looks into.
COLUMNS = {
    "names": ["original_name"],
    "folders": ["folder"],
    "cameras": ["camera_make", "camera_model"],
    "lenses": ["lens_model"],
    "captions": ["caption"],
    "titles": ["title"],
    "keywords": ["keywords"],
    "text in the picture": ["visible_text"],
}


def test_search_looks_where_the_texts_say(served: Served) -> None:
    assert re.split(", | and ", SEARCHED) == list(COLUMNS)
    root = Path(__file__).parent.parent.parent
    assert f"search {SEARCHED}:" in " ".join((root / "README.md").read_text().split())
    helped = subprocess.run(
        [sys.executable, "-m", "daemon", "list", "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert SEARCHED in " ".join(helped.stdout.split())
    fill(served, "a.jpg")
    for column in [column for columns in COLUMNS.values() for column in columns]:
        change(served, 1, **{column: ["zebra"] if column == "keywords" else "zebra"})
        assert len(names(served, q="zebra")) == 1, column
        change(served, 1, **{column: ["x"] if column == "keywords" else "x"})
        assert names(served, q="zebra") == [], column


def test_a_cameras_number_is_found_without_what_precedes_it(served: Served) -> None:
    fill(served, "DSC01234.jpg", "IMG_0012.jpg", "DSCF1234-1.jpg")
    assert names(served, q="1234") == ["DSCF1234-1.jpg", "DSC01234.jpg"]
    assert names(served, q="12") == ["DSCF1234-1.jpg", "IMG_0012.jpg", "DSC01234.jpg"], "and by its beginning"
    for query in ("dsc012", "dsc01234", "DSC01234.jpg"):
        assert names(served, q=query) == ["DSC01234.jpg"], query
    change(served, 1, caption="1234 again")
    served.sql("DELETE FROM image WHERE id = 3")
    assert names(served, q="1234") == ["DSC01234.jpg"]
    # FTS5 compares the index with what the rows hold now.
    served.sql("INSERT INTO image_text (image_text, rank) VALUES ('integrity-check', 1)")


def test_search_follows_what_changes(served: Served) -> None:
    fill(served, "a.jpg")
    change(served, 1, caption="a dog")
    assert names(served, q="dog") == ["a.jpg"]
    change(served, 1, caption="a cat")
    assert names(served, q="dog") == []
    assert names(served, q="cat") == ["a.jpg"]


def test_filters(served: Served) -> None:
    fill(served, "a.jpg", "b.jpg", "c.jpg")
    change(served, 1, taken_at="2020-01-31T23:59:59", camera_make="FUJIFILM", camera_model="X-T30")
    change(served, 2, taken_at="2020-02-01T00:00:00.500000", lat=1.0, lon=2.0)
    assert names(served, camera="x-t30") == ["a.jpg"]
    assert names(served, camera="canon eos") == ["c.jpg", "b.jpg"]
    assert names(served, camera="fuji", q="a") == ["a.jpg"]
    assert names(served, **{"from": "2020-01-31", "to": "2020-01-31"}) == ["a.jpg"]
    assert names(served, to="2020-02-01") == ["b.jpg", "a.jpg"]
    assert names(served, **{"from": "2020-02-01T00:00:00"}) == ["c.jpg", "b.jpg"]
    assert names(served, has_gps="true") == ["b.jpg"]
    assert names(served, caption_status="pending") == []
    assert len(names(served, caption_status="off", limit="500")) == len(names(served, limit="500"))
    assert names(served, has_gps="false", status="done", q="jpg") == ["c.jpg", "a.jpg"]
    assert names(served, status="failed") == []


def test_lists_by_the_time_of_taking_go_by_the_instant_where_it_is_known(served: Served) -> None:
    fill(served, *(f"{letter}.jpg" for letter in "abcdef"))
    # a and b by the local day alone would stand the other way round; d has no date, c and e the same.
    for number, order in enumerate((2000.0, 3000.0, 500.0, None, 500.0, -4.5e9), 1):
        change(served, number, taken_order=order)
    everything = ["b.jpg", "a.jpg", "e.jpg", "c.jpg", "f.jpg", "d.jpg"]
    assert names(served, sort="taken") == everything
    assert names(served, sort="arrived") == [f"{letter}.jpg" for letter in "fedcba"]
    found: list[str] = []
    path = "/api/images?sort=taken&limit=1"
    while path:
        page = served.http.get(path).json()
        found += [image["original_name"] for image in page["data"]]
        path = f"/api/images?sort=taken&limit=1&cursor={page['next']}" if page["next"] else ""
    assert found == everything
    assert names(served, sort="taken", q="jpg") == everything
    change(served, 2, taken_utc=1714573796.0, zone="Asia/Tokyo")
    image = served.http.get("/api/images/2").json()["data"]
    assert (image["taken_utc"], image["zone"]) == ("2024-05-01T14:29:56.000Z", "Asia/Tokyo")


def test_wrong_queries_are_refused(served: Served) -> None:
    wrong = "status=gone limit=0 limit=501 limit=x limit=² cursor=-1 cursor=x cursor=99999999999999999999"
    wrong += f" from=yesterday to=2020-02-30 has_gps=maybe caption_status=well sort=size q={'x' * 501}"
    for query in wrong.split():
        assert served.http.get(f"/api/images?{query}").status_code == 400, query


def test_a_person_writes_words_that_stay(served: Served) -> None:
    fill(served, "a.jpg")
    answer = served.http.patch("/api/images/1", json={"caption": "Oma", "keywords": ["Garten", "Garten", "Mai"]})
    assert answer.json()["data"]["caption"] == "Oma"
    assert answer.json()["data"]["keywords"] == ["Garten", "Mai"]
    assert names(served, q="oma") == ["a.jpg"]
    served.http.patch("/api/images/1", json={"keywords": []}).raise_for_status()
    assert served.http.get("/api/images/1").json()["data"]["caption"] == "Oma"


def test_wrong_words_are_refused(served: Served) -> None:
    fill(served, "a.jpg")
    wrong = ["", "{", "[]", "{}", '{"title": 1}', '{"caption": 1}', '{"keywords": "a"}', '{"keywords": [""]}']
    for body in [*wrong, '{"keywords": null}', f'{{"caption": "{"x" * 10_001}"}}', "[" * 100_000]:
        assert served.http.patch("/api/images/1", content=body.encode()).status_code == 400, body[:50]


def test_a_huge_body_is_refused(served: Served) -> None:
    assert served.http.patch("/api/images/1", content=b"x" * 300_000).status_code == 413


def test_a_failed_image_is_queued_again(served: Served) -> None:
    served.room.decoder.errors["a.jpg"] = [Rejected("not an image")]
    fill(served, "a.jpg")
    image = served.http.get("/api/images/1").json()["data"]
    assert (image["status"], image["library_path"], image["thumbnails"]["small"]) == ("failed", None, None)
    answer = served.http.post("/api/images/1/retry")
    assert (answer.status_code, answer.json()["data"]) == (202, {"image_id": 1, "status": "queued"})
    served.room.drain()
    assert served.http.get("/api/images/1").json()["data"]["status"] == "done"
    again = served.http.post("/api/images/1/retry")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    assert served.http.post("/api/images/9/retry").status_code == 404


def test_a_caption_is_asked_for_again(served: Served) -> None:
    fill(served, "a.jpg")
    answer = served.http.post("/api/images/1/caption")
    assert (answer.status_code, answer.json()["data"]) == (202, {"image_id": 1, "caption_status": "pending"})
    served.http.patch("/api/images/1", json={"caption": "mine"})
    assert served.http.post("/api/images/1/caption").status_code == 409
    served.captions_on = False
    assert served.http.post("/api/images/1/caption").json()["error"]["code"] == "captions_off"


def test_a_private_image_is_promised_no_caption(served: Served) -> None:
    fill(served, "Doctor/a.jpg")
    served.private = ("Doctor",)
    answer = served.http.post("/api/images/1/caption")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "private")
    assert "private" in answer.json()["error"]["message"]
    assert served.http.get("/api/images/1").json()["data"]["caption_status"] == "off"


def test_what_a_query_does_not_know_is_said(served: Served) -> None:
    answer = served.http.get("/api/images?statsu=done")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_key")
    assert answer.json()["error"]["message"] == (
        "unknown query key statsu: known are status, q, camera, model, from, to, month, folder, has_gps, has_caption,"
        " caption_status, rating, sort, limit, cursor"
    )
    for method, path in (
        ("GET", "/api/images/1?x=1"),
        ("GET", "/api/stats?x"),
        ("HEAD", "/api/stats?x"),
        ("POST", "/api/images?names=x.jpg"),
        ("PUT", "/api/images/x.jpg?name=y.jpg"),
        ("PATCH", "/api/images/1?x=1"),
        ("GET", "/api/images?" + "x" * 5000 + "=1"),
    ):
        refused = served.http.request(method, path, content=b"{}" if method == "PATCH" else None)
        assert refused.status_code == 400, (method, path)
        assert len(refused.text) < 300
    assert served.left_behind() == []
    # What others add to probes and pages harms nothing.
    for path in ("/healthz?x=1", "/metrics?x=1", "/docs?x=1", "/static/docs.css?v=2"):
        assert served.http.get(path).status_code == 200


def test_the_known_keys_are_those_that_the_document_names() -> None:
    documented = {
        (path, method.upper()): tuple(one["name"] for one in call.get("parameters", ()) if one["in"] == "query")
        for path, calls in build()["paths"].items()
        for method, call in calls.items()
    }
    # A page passes over what it doesn't know.
    assert {where: keys for where, keys in documented.items() if keys and where[0] != "/"} == QUERIES


def test_the_counts(served: Served) -> None:
    photo = jpeg()
    for name in ("a.jpg", "b.jpg"):
        served.room.put(name, photo)
        served.room.drain()
    served.upload("c.jpg", jpeg(seed=3))
    stats = served.http.get("/api/stats").json()["data"]
    assert {key: stats[key] for key in ("total", "queued", "done", "duplicate", "failed")} == {
        "total": 3,
        "queued": 1,
        "done": 1,
        "duplicate": 1,
        "failed": 0,
    }
    assert stats["avg_processing_time_ms"] is not None
    assert stats["progress"].startswith("1 filed · 1 waiting · ")
    assert sum(stats["captions"].values()) == 1
    assert stats["paused"] is None


def test_a_duplicate_points_at_its_original(served: Served) -> None:
    photo = jpeg()
    for name in ("a.jpg", "b.jpg"):
        served.room.put(name, photo)
        served.room.drain()
    image = served.http.get("/api/images/2").json()["data"]
    assert (image["status"], image["duplicate_of"], image["library_path"]) == ("duplicate", 1, None)


def test_no_answer_tells_where_the_folders_are(served: Served) -> None:
    fill(served, "a.jpg")
    base = str(served.room.inbox.parent)
    change(served, 1, error=f"{base}/library/x y.jpg: No space left", warning="copied from /mnt/usb")
    served.upload("b.jpg", jpeg(seed=1))
    change(served, 2, waiting="attempt", waiting_detail="it was on /mnt/usb, now it is on /")
    with served.room.catalogue.writing():
        text = f"{base}/library/2024/a.jpg is gone from /srv/photos"
        Event.insert(image_id=1, at=time.time(), kind="failed", text=text).execute()
    for path in ("/api/images", "/api/images/1", "/api/images/2", "/api/stats", "/healthz"):
        text = served.http.get(path).text
        assert base not in text
        assert "/mnt/usb" not in text
        assert "/srv" not in text


def test_names_and_tags_that_are_no_unicode(served: Served) -> None:
    fill(served, "a.jpg")
    change(served, 1, destination="2024/05/a\udcff.jpg")
    served.sql(r"""INSERT OR REPLACE INTO raw_exif VALUES (1, '{"a": "\ud800", "b": NaN, "c": [Infinity]}')""")
    image = served.http.get("/api/images/1").json()["data"]
    assert image["library_path"] == r"2024/05/a\udcff.jpg"
    assert image["metadata"]["exif"]["raw"] == {"a": "?", "b": None, "c": [None]}
