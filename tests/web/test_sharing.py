"""The pages as an app: what a browser needs to install it, and photos that other apps share with it."""

import io
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.support import Room, tree
from tests.web.browser import chromium, visit
from tests.web.serving import Served, photo

TOKEN = "a-long-random-text"
# What Chromium sends with a form that the system has handed to it: no page has begun that.
SHARED = {"Origin": "null", "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Accept": "text/html"}


@pytest.fixture
def guarded(room: Room) -> Iterator[Served]:
    with Served(room, token=TOKEN) as made:
        yield made


def share(served: Served, *photos: bytes, **headers: str) -> Any:
    files = [("file", (f"{n}.jpg", content)) for n, content in enumerate(photos)]
    return served.http.post("/share", files=files, headers={**SHARED, **headers})


def test_the_manifest_is_one_and_all_that_it_names_is_there(guarded: Served) -> None:
    with httpx2.Client(base_url=guarded.url) as anybody:
        answer = anybody.get("/manifest.webmanifest")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/manifest+json")
        manifest = answer.json()
        for icon in manifest["icons"]:
            served = anybody.get(icon["src"])
            assert (served.status_code, served.headers["content-type"]) == (200, "image/png")
            assert len(served.content) < 5000
            with Image.open(io.BytesIO(served.content)) as picture:
                assert f"{picture.width}x{picture.height}" == icon["sizes"]
        assert {icon["sizes"] for icon in manifest["icons"]} == {"192x192", "512x512"}
    target = manifest["share_target"]
    assert (target["action"], target["method"], target["enctype"]) == ("/share", "POST", "multipart/form-data")
    assert [one["name"] for one in target["params"]["files"]] == ["file"]


def test_every_page_names_it(served: Served) -> None:
    for page in ("/", "/failed", "/stats", "/docs", "/images/99"):
        answer = served.http.get(page)
        assert '<link rel="manifest" href="/manifest.webmanifest">' in answer.text, page
        assert "manifest-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.slow
def test_chromium_finds_nothing_wrong_with_it(served: Served) -> None:
    with chromium() as browser, visit(browser, served.url) as page:
        session = page.context.new_cdp_session(page)
        found = session.send("Page.getAppManifest")
        assert found["url"] == f"{served.url}/manifest.webmanifest"
        assert found["errors"] == []
        faults = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
        # A profile of a test's is kept no longer than the test.
        assert {fault["errorId"] for fault in faults} <= {"in-incognito"}


def test_shared_photos_are_taken_and_the_sheet_says_so(served: Served) -> None:
    answer = share(served, photo(1), photo(2))
    assert (answer.status_code, answer.headers["location"]) == (303, "/?shared=2")
    assert tree(served.room.inbox) == {"0.jpg": photo(1), "1.jpg": photo(2)}
    assert "2 photos were taken, and will be here once filed." in served.http.get("/?shared=2").text
    served.room.drain()
    answer = share(served, photo(1), photo(2), photo(3))
    assert answer.headers["location"] == "/?shared=1&known=2"
    said = served.http.get(answer.headers["location"]).text
    assert "1 photo was taken, and will be here once filed. 2 were here already." in said
    assert "taken, and will" not in served.http.get("/?shared=x&known=-1").text


def test_what_can_not_be_taken_is_said_by_a_page(served: Served) -> None:
    text = share(served, photo(1), b"no image at all, just a text")
    form = {**SHARED, "Content-Type": "multipart/form-data; boundary=x"}
    nothing = served.http.post("/share", content=b"--x--\r\n", headers=form)
    for answer, status, said in ((text, 415, "is not an image"), (nothing, 400, "no part is named")):
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert said in answer.text
    assert served.room.rows() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null", "Sec-Fetch-Site": "same-site"},
        {"Origin": "null", "Sec-Fetch-Site": ""},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
def test_what_a_page_of_others_sends_is_not_shared(served: Served, headers: dict[str, str]) -> None:
    answer = share(served, photo(1), **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
    assert served.left_behind() == []


def test_who_is_not_signed_in_is_asked_to_and_told_that_nothing_was_taken(guarded: Served) -> None:
    answer = share(guarded, photo(1))
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?shared")
    assert "so nothing was taken" in guarded.http.get("/sign-in?shared").text
    assert "nothing was taken" not in guarded.http.get("/sign-in").text
    assert guarded.left_behind() == []
    assert share(guarded, photo(1), Accept="*/*").status_code == 401
    with httpx2.Client(base_url=guarded.url, headers={"Accept": "text/html"}) as client:
        assert client.post("/sign-in", data={"token": TOKEN}).status_code == 303
        taken = client.post("/share", files={"file": ("a.jpg", photo(1))}, headers=SHARED)
    assert (taken.status_code, taken.headers["location"]) == (303, "/?shared=1")
