"""Thumbnails and originals."""

import pytest

from tests.support import jpeg
from tests.web.serving import Served


@pytest.fixture
def photo(served: Served) -> bytes:
    content = jpeg((300, 200))
    served.room.put("Oma & Opa.jpg", content)
    served.room.drain()
    return content


@pytest.mark.usefixtures("photo")
def test_a_thumbnail_is_cached_for_good(served: Served) -> None:
    answer = served.http.get("/api/images/1/thumbnails/small")
    assert (answer.status_code, answer.content) == (200, b"small")
    assert answer.headers["content-type"] == "image/jpeg"
    assert "immutable" in answer.headers["cache-control"]
    tag = answer.headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = served.http.get("/api/images/1/thumbnails/small", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    other = served.http.get("/api/images/1/thumbnails/medium", headers={"If-None-Match": tag})
    assert (other.status_code, other.content) == (200, b"medium")


@pytest.mark.usefixtures("photo")
def test_thumbnails_that_are_not_there(served: Served) -> None:
    assert served.http.get("/api/images/1/thumbnails/large").status_code == 400
    assert served.http.get("/api/images/9/thumbnails/small").status_code == 404
    waiting = served.upload("b.jpg", jpeg(seed=2))
    answer = served.http.get(f"/api/images/{waiting}/thumbnails/small")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_ready")


def test_what_nothing_decodes_has_no_thumbnails_and_all_else(served: Served) -> None:
    content = jpeg()
    served.room.decoder.not_shown.add("IMG_1.x3f")
    served.room.put("IMG_1.x3f", content)
    served.room.drain()
    told = served.http.get("/api/images/1").json()["data"]
    assert (told["status"], told["error"], told["metadata"]["width"]) == ("done", None, None)
    assert told["thumbnails"] == {"small": None, "medium": None}
    assert told["warning"] == "has no thumbnail: nothing decodes it"
    answer = served.http.get("/api/images/1/thumbnails/small")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_thumbnail")
    assert served.http.get("/api/images/1/original").content == content
    page = served.http.get("/", headers={"Accept": "text/html"}).text
    assert "IMG_1." in page
    assert "/thumbnails/" not in page
    page = served.http.get("/images/1", headers={"Accept": "text/html"}).text
    assert "can&#39;t be shown" in page or "can't be shown" in page
    assert "/thumbnails/" not in page


def test_an_original_comes_back_byte_for_byte(served: Served, photo: bytes) -> None:
    answer = served.http.get("/api/images/1/original")
    assert answer.content == photo
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''Oma%20%26%20Opa.jpg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = served.http.get("/api/images/1/original", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    assert served.http.head("/api/images/1/original").headers["content-length"] == str(len(photo))


def test_ranges(served: Served, photo: bytes) -> None:
    part = served.http.get("/api/images/1/original", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, photo[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(photo)}"
    tail = served.http.get("/api/images/1/original", headers={"Range": "bytes=-5"})
    assert tail.content == photo[-5:]
    for wrong, status in (("bytes=999999999-", 416), ("bytes=x", 400)):
        refused = served.http.get("/api/images/1/original", headers={"Range": wrong})
        assert (refused.status_code, refused.json()["status"]) == (status, "error")


def test_ranges_of_another_unit_are_passed_over(served: Served, photo: bytes) -> None:
    for unit in ("lines=1", "lines=1-2", "items 1", "x", "", "bytes"):
        for path, content in (("original", photo), ("thumbnails/small", b"small")):
            answer = served.http.get(f"/api/images/1/{path}", headers={"Range": unit})
            assert (answer.status_code, answer.content) == (200, content), unit
    part = served.http.get("/api/images/1/thumbnails/small", headers={"Range": "Bytes=1-2"})
    assert (part.status_code, part.content) == (206, b"ma")


def test_originals_that_are_not_there(served: Served, photo: bytes) -> None:
    waiting = served.upload("b.jpg", jpeg(seed=2))
    assert served.http.get(f"/api/images/{waiting}/original").status_code == 404
    file = served.room.library / str(served.room.rows()[0]["destination"])
    file.unlink()
    assert served.http.get("/api/images/1/original").status_code == 404
    # A link that somebody has put there is not followed.
    (served.room.state / "secret").write_bytes(photo)
    file.symlink_to(served.room.state / "secret")
    assert served.http.get("/api/images/1/original").status_code == 404


def test_the_original_of_a_duplicate(served: Served, photo: bytes) -> None:
    served.room.put("again.jpg", photo)
    served.room.drain()
    assert served.http.get("/api/images/2/original").content == photo
    (served.room.duplicates / "again.jpg").unlink()
    assert served.http.get("/api/images/2/original").content == photo
    assert served.http.get("/api/images/2/thumbnails/small").content == b"small"
