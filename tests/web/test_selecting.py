"""Many photos are selected on the sheet, in a real browser, and something is done with all of them."""

import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.captions.darkroom import FullRoom
from tests.support import jpeg, wait_until
from tests.web.browser import come, violations, visit
from tests.web.serving import Served
from tests.web.test_pages import fill


@pytest.fixture
def album(served: Served) -> Served:
    """Serve twelve photos of two months."""
    fill(served.room, 12, pictures=True)
    served.sql("UPDATE image SET created_at = created_at + 2678400 WHERE id > 7")
    return served


def link(page: Page, number: int) -> object:
    return page.locator(f"#i{number}")


def chosen(page: Page) -> list[int]:
    """Return the ids of the cells that are ticked."""
    found: list[int] = page.evaluate(
        "[...document.querySelectorAll('.cells input:checked')].map((box) => Number(box.value))"
    )
    return found


def bar(page: Page) -> str:
    return page.locator("#selection .counts").inner_text()


def keywords(served: Served) -> dict[int, list[str] | None]:
    return {row["id"]: row["keywords"] for row in served.room.rows()}


def said(page: Page) -> str:
    return page.locator("#told").inner_text()


def test_keywords_are_added_to_many_by_keys_alone_and_taken_back(browser: Browser, album: Served) -> None:
    with visit(browser, album.url) as page:
        page.locator("#i12").focus()
        page.keyboard.press("Space")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowRight")
        assert chosen(page) == [12, 11, 10]
        expect(page.get_by_role("status").first).to_have_text("3 selected")
        page.keyboard.press("Space")
        page.keyboard.press("Space")
        assert bar(page).startswith("3 selected")
        reach(page, "keywords")
        page.keyboard.type("sea, evening light")
        page.keyboard.press("Enter")
        expect(page.locator("#told")).to_contain_text("Added to 3 photos.")
        assert keywords(album)[11] == ["sea", "evening light"]
        assert keywords(album)[9] is None
        expect(page.get_by_role("textbox", name="Keywords")).to_be_focused()
        reach(page, "undo")
        page.keyboard.press("Enter")
        expect(page.locator("#told")).to_have_text("Undone for 3 photos.")
        expect(page.locator("#told")).to_be_focused()
        assert set(map(str, keywords(album).values())) == {"None"}
        page.keyboard.press("Escape")
        assert chosen(page) == []
        expect(page.locator("#i10")).to_be_focused()
        # What was said stays until it is sent away, too.
        page.keyboard.press("Escape")
        expect(page.locator("#selection")).to_be_hidden()


def reach(page: Page, name: str) -> None:
    """Press Tab until the element with a name or an id has the focus."""
    for _ in range(40):
        if page.evaluate("[document.activeElement.name, document.activeElement.id]").count(name):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the keys don't lead to {name}")


@pytest.mark.parametrize("count", [60, pytest.param(5000, marks=pytest.mark.slow)])
def test_all_of_a_filter_get_a_keyword_and_lose_it_again(browser: Browser, served: Served, count: int) -> None:
    fill(served.room, count, pictures=True, folder="Alps")
    served.sql("UPDATE image SET folder = 'Sea' WHERE id = 3")
    for number in range(7, count + 1, 7):
        served.room.captions.edit(number, time.time(), keywords=["snow"])
    before = keywords(served)
    with visit(browser, f"{served.url}/?folder=Alps") as page:
        page.keyboard.press("a")
        expect(page.locator("#chosen")).to_have_text(f"{count - 1:,}")
        expect(page.get_by_role("button", name=f"Select all {count - 1}")).to_be_visible()
        page.get_by_role("textbox", name="Keywords").fill("snow")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.locator("#told")).to_contain_text("had them already", timeout=60_000)
        sevenths = count // 7
        assert said(page).startswith(f"Added to {count - 1 - sevenths:,} photos. {sevenths:,} had them already.")
        after = keywords(served)
        assert [number for number, words in after.items() if words != ["snow"]] == [3]
        page.get_by_role("button", name="Undo").click()
        expect(page.locator("#told")).to_have_text(f"Undone for {count - 1 - sevenths:,} photos.", timeout=60_000)
        assert keywords(served) == before


@pytest.mark.slow
def test_nothing_is_done_to_more_than_was_said(browser: Browser, album: Served) -> None:
    with visit(browser, album.url, is_refused=True) as page:
        page.keyboard.press("a")
        expect(page.locator("#chosen")).to_have_text("12")
        album.sql("UPDATE image SET status = 'deleted' WHERE id = 1")
        page.get_by_role("textbox", name="Keywords").fill("snow")
        page.get_by_role("button", name="Remove", exact=True).click()
        expect(page.locator("#told")).to_have_text("11 images are meant by now, and not 12; nothing was done.")
        page.get_by_role("button", name="Select all").click()
        expect(page.locator("#chosen")).to_have_text("11")
        page.get_by_role("button", name="Remove", exact=True).click()
        expect(page.locator("#told")).to_contain_text("Removed from 0 photos. 11 did not have them.")


@pytest.mark.slow
def test_a_mouse_selects(browser: Browser, album: Served) -> None:
    with visit(browser, album.url) as page:
        page.locator("#i11").hover()
        page.locator("#i11 + input").click()
        assert chosen(page) == [11]
        # Over the end of the month.
        page.locator("#i6").click(modifiers=["Shift"])
        assert chosen(page) == [11, 10, 9, 8, 7, 6]
        page.locator("#i9 + input").click()
        page.locator("#i3").click()
        assert chosen(page) == [11, 10, 8, 7, 6, 3]
        # With one taken out in the middle, ranges go on.
        page.locator("#i8 + input").click()
        page.locator("#i1 + input").click(modifiers=["Shift"])
        assert chosen(page) == [11, 10, 8, 7, 6, 5, 4, 3, 2, 1]
        with page.context.expect_page() as opened:
            page.locator("#i12").click(modifiers=["ControlOrMeta"])
        opened.value.wait_for_url("**/images/12")
        page.get_by_role("button", name="Clear").click()
        assert chosen(page) == []
        page.locator("#i12").click()
        page.wait_for_url("**/images/12")


@pytest.mark.slow
def test_enter_opens_where_some_are_selected(browser: Browser, album: Served) -> None:
    with visit(browser, album.url) as page:
        page.locator("#i12").focus()
        page.keyboard.press("Space")
        page.keyboard.press("Enter")
        page.wait_for_url("**/images/12")


def touch(page: Page, number: int, seconds: float) -> None:
    box = page.locator(f"#i{number}").bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
    page.evaluate("(seconds) => new Promise((done) => setTimeout(done, seconds * 1000))", seconds)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.slow
def test_a_finger_selects(browser: Browser, album: Served) -> None:
    with visit(browser, album.url, size=(390, 844), has_touch=True, is_mobile=True) as page:
        touch(page, 12, 0.6)
        assert chosen(page) == [12]
        # From the first on a tap is enough.
        page.locator("#i10").tap()
        page.locator("#i7").tap()
        page.locator("#i10").tap()
        assert chosen(page) == [12, 7]
        page.get_by_role("textbox", name="Keywords").fill("sea")
        page.get_by_role("button", name="Add", exact=True).tap()
        expect(page.locator("#told")).to_contain_text("Added to 2 photos.")
        page.get_by_role("button", name="Undo").tap()
        expect(page.locator("#told")).to_have_text("Undone for 2 photos.")
        page.get_by_role("button", name="Select all").tap()
        expect(page.locator("#chosen")).to_have_text("12")
        page.get_by_role("button", name="Clear").tap()
        # A short one opens.
        page.locator("#i10").tap()
        page.wait_for_url("**/images/10")


@pytest.mark.slow
def test_who_scrolls_with_a_finger_selects_nothing(browser: Browser, album: Served) -> None:
    with visit(browser, album.url, size=(390, 844), has_touch=True, is_mobile=True) as page:
        session = page.context.new_cdp_session(page)
        session.send("Input.synthesizeScrollGesture", {"x": 200, "y": 600, "yDistance": -200, "speed": 200})
        assert chosen(page) == []


@pytest.mark.slow
def test_what_is_selected_stays_so_out_of_sight_and_when_more_comes(browser: Browser, served: Served) -> None:
    fill(served.room, 900, pictures=True)
    with visit(browser, served.url, is_still=False) as page:
        page.locator("#i900").focus()
        page.keyboard.press("Space")
        wait_until(lambda: page.evaluate("scrollBy(0, 2000), document.getElementById('i900')") is None, 60, "far away")
        come(page, "document.getElementById('i400') !== null || (scrollBy(0, 500), false)")
        page.locator("#i400").click(modifiers=["Shift"])
        expect(page.locator("#chosen")).to_have_text("501")
        page.evaluate("scrollTo(0, 0)")
        served.room.put("new.jpg", jpeg())
        served.room.drain()
        expect(page.get_by_role("link", name="new.jpg")).to_be_visible()
        assert {900, 899} <= set(chosen(page))
        expect(page.locator("#i901 + input")).not_to_be_checked()
        # Another view is another selection.
        page.get_by_role("searchbox").fill("IMG_0899")
        expect(page.locator(".cells li")).to_have_count(1)
        assert chosen(page) == []


@pytest.mark.slow
def test_undo_is_offered_for_ten_seconds(browser: Browser, album: Served) -> None:
    with visit(browser, album.url) as page:
        page.keyboard.press("a")
        expect(page.locator("#chosen")).to_have_text("12")
        page.get_by_role("textbox", name="Keywords").fill("sea")
        page.get_by_role("button", name="Add", exact=True).click()
        undo = page.get_by_role("button", name="Undo")
        expect(undo).to_be_visible()
        began = time.monotonic()
        # With the selection gone it can still be undone.
        page.get_by_role("button", name="Clear").click()
        expect(undo).to_be_visible()
        expect(undo).to_be_hidden(timeout=15_000)
        assert 8 < time.monotonic() - began < 13


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Served]:
    """A served room that writes sidecars."""
    room = FullRoom(tmp_path / "room")
    with Served(room) as made:
        for seed in range(3):
            room.put(f"{seed}.jpg", jpeg(seed=seed))
        room.drain()
        yield made
    room.app.close()
    room.catalogue.close()


@pytest.mark.slow
@pytest.mark.parametrize("is_scripted", [True, False])
def test_photos_are_downloaded_with_their_sidecars(
    browser: Browser, full: Served, tmp_path: Path, is_scripted: bool
) -> None:
    with visit(browser, full.url, java_script_enabled=is_scripted) as page:
        for number in (1, 3):
            page.locator(f"#i{number} + input").check(force=True)
        page.get_by_label("with sidecars").check()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        assert download.value.suggested_filename == "darkroom-2-photos.zip"
        download.value.save_as(tmp_path / "photos.zip")
    with zipfile.ZipFile(tmp_path / "photos.zip") as archive:
        assert archive.testzip() is None
        assert sorted(Path(name).name for name in archive.namelist()) == ["0.jpg", "0.jpg.xmp", "2.jpg", "2.jpg.xmp"]


@pytest.mark.slow
def test_captions_are_asked_for_and_what_failed_is_tried_again(browser: Browser, served: Served) -> None:
    fill(served.room, 3, pictures=True)
    served.room.put("letter.jpg", b"%PDF-1.4 made up")
    with visit(browser, served.url) as page:
        page.keyboard.press("a")
        expect(page.locator("#chosen")).to_have_text("3")
        expect(page.get_by_role("button", name="Try again")).to_have_count(0)
        page.get_by_role("button", name="Ask for captions again").click()
        expect(page.locator("#told")).to_contain_text("A model is asked about 3 photos.")
    served.captions_on = False
    with visit(browser, f"{served.url}/?status=failed") as page:
        expect(page.get_by_role("button", name="Ask for captions again")).to_have_count(0)


def test_keywords_are_added_without_scripts(browser: Browser, album: Served) -> None:
    with visit(browser, album.url, java_script_enabled=False) as page:
        for number in (12, 5):
            page.locator(f"#i{number} + input").check(force=True)
        page.get_by_role("textbox", name="Keywords").fill("sea")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_text("Added to 2 photos.")).to_be_visible()
        assert keywords(album)[5] == ["sea"]
        page.get_by_role("button", name="Undo").click()
        expect(page.get_by_text("Undone for 2 photos.")).to_be_visible()
        assert keywords(album)[5] is None


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_everybody_can_select(
    browser: Browser, album: Served, scheme: Literal["light", "dark"], size: tuple[int, int]
) -> None:
    with visit(browser, album.url, size=size, color_scheme=scheme) as page:
        page.locator("#i12").focus()
        page.keyboard.press("Space")
        page.get_by_role("textbox", name="Keywords").fill("sea")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_role("button", name="Undo")).to_be_visible()
        assert violations(page) == []


@pytest.mark.parametrize(
    ("form", "status", "text"),
    [
        ({"act": "add_keywords", "keywords": "sea"}, 400, "No photo is selected."),
        ({"act": "add_keywords", "id": "1", "keywords": " , "}, 400, "No keyword is written."),
        ({"act": "fly", "id": "1"}, 400, "Act is one of"),
        ({"act": "retry", "id": "1"}, 200, "0 photos queued again. 1 could not be: "),
        ({"act": "add_keywords", "ids": "1,2,2,x,-3", "id": "2", "keywords": "a"}, 200, "Added to 2 photos."),
        ({"act": "remove_keywords", "ids": "1", "keywords": "a"}, 200, "Removed from 0 photos. 1 did not have them."),
        ({"act": "add_keywords", "whole": "3", "filter": '{"q": "IMG"}', "keywords": "a"}, 200, "Added to 3 photos."),
        ({"act": "add_keywords", "whole": "2", "filter": '{"q": "IMG"}', "keywords": "a"}, 409, "nothing was done"),
        ({"act": "add_keywords", "whole": "3", "filter": "{", "keywords": "a"}, 400, "by one of the two"),
        ({"act": "add_keywords", "whole": "3", "filter": '{"colour": "red"}', "keywords": "a"}, 400, "known are"),
        ({"act": "caption", "id": "99"}, 200, "1 could not be: "),
        ({"act": "download", "id": "99", "whole": ""}, 200, ""),
        ({"undo": "x"}, 409, "can&#39;t be undone any more"),
        ({}, 400, "No photo is selected."),
    ],
)
def test_the_form_says_what_it_did(served: Served, form: dict[str, str], status: int, text: str) -> None:
    fill(served.room, 3)
    answer = served.http.post("/selection", content=urlencode(form), headers={"Content-Type": _FORM})
    assert answer.status_code == status
    if answer.headers["content-type"].startswith("text/html"):
        [shown] = re.findall(r'<p id="told"[^>]*>(.*?)(?: <button|</p>)', answer.text)
        assert text in shown


_FORM = "application/x-www-form-urlencoded"
