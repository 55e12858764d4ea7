"""The pages in a real browser: without scripts and with them, by keys alone, live, light and dark, small and large."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import Browser, Locator, Page, expect

from tests.benchmarks.scrolling import memory, scroll_to_the_oldest
from tests.decoding.images import decode
from tests.support import Room, wait_until
from tests.web import photographs, screenshots
from tests.web.browser import come, traced, violations, visit
from tests.web.serving import Served
from tests.web.test_pages import HOSTILE, fill

TOKEN = "a-long-random-text"


@pytest.fixture
def photos(served: Served) -> Served:
    """Serve five photos, and three files that failed for two reasons."""
    room = served.room
    room.decode_with(decode)
    for seed in range(5):
        room.put(f"Alps/IMG_{seed}.jpg", photographs.jpeg(seed, (300, 200)))
    room.put("notes.jpg", b"%PDF-1.4 one")
    room.put("letter.jpg", b"%PDF-1.4 two")
    room.put("cut.jpg", photographs.jpeg(9, (300, 200))[:-900])
    for _ in range(4):
        room.drain(time.time() + 1e6)
    lighthouse = room.row_of("IMG_3.jpg")["id"]
    room.captions.edit(lighthouse, time.time(), caption="A lighthouse in the evening", keywords=["sea"])
    return served


def cells(page: Page) -> Any:
    return page.locator(".cells li")


def arrive(served: Served, name: str, seed: int) -> None:
    served.room.put(name, photographs.jpeg(seed, (300, 200)))
    served.room.drain()


# -- without scripts


def test_a_photo_is_found_without_scripts(browser: Browser, photos: Served) -> None:
    with visit(browser, photos.url, java_script_enabled=False) as page:
        expect(cells(page)).to_have_count(5)
        page.get_by_role("searchbox").fill("lighthouse")
        page.get_by_role("searchbox").press("Enter")
        expect(cells(page)).to_have_count(1)
        page.get_by_role("link", name="A lighthouse in the evening").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("IMG_3.jpg")
        expect(page.get_by_label("Keywords")).to_have_value("sea")
        page.get_by_role("link", name="All photos").click()
        expect(cells(page)).to_have_count(1)


def test_why_a_photo_failed_is_read_and_tried_again_without_scripts(browser: Browser, photos: Served) -> None:
    with visit(browser, f"{photos.url}/failed", java_script_enabled=False) as page:
        assert page.title().startswith("3 failed")
        expect(page.get_by_text("not an image: it looks like a PDF document").first).to_be_visible()
        # What there is of the one whose end is missing.
        assert page.locator(".group img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 300
        page.get_by_role("button", name="Try these 2 again").click()
        expect(page.get_by_text("2 queued again.")).to_be_visible()


# -- with them


def test_a_photo_is_on_the_page_within_half_a_second(browser: Browser, photos: Served) -> None:
    with visit(browser, photos.url, is_still=False) as page:
        expect(page.locator("#line")).to_have_text("5 filed")
        photos.room.put("fresh.jpg", photographs.jpeg(70, (300, 200)))
        page.evaluate("""() => {
            window.arrived = new Promise((done) => new MutationObserver(() =>
                document.querySelector('[alt="fresh.jpg"]') && done(Date.now()))
                .observe(document.getElementById("view"), { childList: true, subtree: true }));
        }""")
        wait_for_listener(photos)
        photos.room.drain()
        filed = next(row["processed_at"] for row in photos.room.rows() if row["original_name"] == "fresh.jpg")
        took = page.evaluate("window.arrived") / 1000 - filed
        assert took < 0.5, f"it took {took:.3f} s"
        expect(cells(page).first.locator("img")).to_have_attribute("alt", "fresh.jpg")
        expect(page.locator("#line")).to_have_text("6 filed")


def reach(page: Page, target: Locator) -> None:
    """Press Tab until something has the focus."""
    for _ in range(30):
        if target.evaluate("(element) => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError("the keys don't lead there")


def wait_for_listener(served: Served) -> None:
    wait_until(lambda: served.app.events.listeners > 0, what="a listener")


@pytest.mark.slow
def test_what_comes_waits_while_something_else_is_seen(browser: Browser, served: Served) -> None:
    fill(served.room, 450, pictures=True)
    served.room.decode_with(decode)
    with visit(browser, served.url, is_still=False) as page:
        wait_for_listener(served)
        page.mouse.wheel(0, 1500)
        come(page, "scrollY > 1000")
        top = page.evaluate("scrollY")
        arrive(served, "one.jpg", 71)
        arrive(served, "two.jpg", 72)
        expect(page.get_by_role("link", name="2 new ↑")).to_be_visible()
        assert page.evaluate("scrollY") == top
        page.get_by_role("link", name="2 new ↑").click()
        expect(cells(page).first.locator("img")).to_have_attribute("alt", "two.jpg")
        assert page.evaluate("scrollY") == 0


@pytest.mark.slow
def test_all_tabs_share_one_stream(browser: Browser, photos: Served) -> None:
    with visit(browser, photos.url, is_still=False) as page:
        others = [page.context.new_page() for _ in range(7)]
        for other in others:
            other.goto(f"{photos.url}/failed")
        wait_for_listener(photos)
        arrive(photos, "fresh.jpg", 70)
        for other in [page, *others]:
            expect(other.locator("#line")).to_have_text("6 filed")
        assert photos.app.events.listeners == 1


@pytest.mark.slow
def test_search_by_keys_alone(browser: Browser, photos: Served) -> None:
    with visit(browser, photos.url) as page:
        page.keyboard.press("/")
        page.keyboard.type("lightho")
        expect(cells(page)).to_have_count(1)
        assert page.url.endswith("/?q=lightho")
        expect(page.get_by_role("status").first).to_have_text("1 photo")
        page.keyboard.press("Tab")
        reach(page, page.locator(".cells a").first)
        page.keyboard.press("Enter")
        page.wait_for_url("**/images/*")
        page.keyboard.press("e")
        expect(page.get_by_label("Caption")).to_be_focused()
        page.keyboard.press("Control+a")
        page.keyboard.type("Two lighthouses")
        reach(page, page.get_by_role("button", name="Save"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("img", name="Two lighthouses")).to_be_visible()
        page.keyboard.press("Escape")
        page.wait_for_url("**/?q=lightho*")
        expect(page.get_by_role("link", name="Two lighthouses")).to_be_focused()
        assert photos.room.row_of("IMG_3.jpg")["caption"] == "Two lighthouses"


@pytest.mark.slow
def test_from_photo_to_photo_by_arrows(browser: Browser, served: Served) -> None:
    fill(served.room, 450, pictures=True)
    with visit(browser, served.url) as page:
        page.get_by_role("link", name="IMG_0449.jpg").focus()
        columns = page.evaluate(
            "getComputedStyle(document.querySelector('.cells')).gridTemplateColumns.split(' ').length"
        )
        for key, name in {
            "ArrowRight": 448,
            "ArrowDown": 448 - columns,
            "ArrowLeft": 449 - columns,
            "ArrowUp": 449,
        }.items():
            page.keyboard.press(key)
            expect(page.get_by_role("link", name=f"IMG_0{name}.jpg")).to_be_focused()
        # One stop for all of them.
        assert page.locator(".cells a[tabindex='0']").count() == 1
        high = page.evaluate("document.documentElement.scrollHeight")
        page.keyboard.press("End")
        # The end is where it was until there was more.
        come(page, f"scrollY > 500 && document.documentElement.scrollHeight > {high}")
        page.keyboard.press("Home")
        come(page, "scrollY === 0")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()


def scroll(page: Page) -> set[str]:
    """Scroll by a screen; return the ids of the cells that were in the document on the way."""
    seen: list[str] = page.evaluate(
        """() => new Promise((done) => {
            window.passed ??= new Set();
            for (const link of document.querySelectorAll(".cells a")) passed.add(link.id);
            scrollBy(0, innerHeight);
            requestAnimationFrame(() => setTimeout(() => done([...passed]), 30));
        })"""
    )
    return set(seen)


@pytest.mark.slow
def test_stars_are_given_by_keys_and_what_is_thrown_away_leaves_the_sheet(browser: Browser, photos: Served) -> None:
    number = photos.room.row_of("IMG_3.jpg")["id"]
    moves = visit(browser, photos.url, is_still=False)
    with moves as sheet, visit(browser, f"{photos.url}/images/{number}") as page:
        page.keyboard.press("4")
        expect(page.get_by_label("Stars")).to_have_value("4")
        come(page, "document.querySelector('.history').textContent.includes('rating')")
        assert photos.room.row_of("IMG_3.jpg")["rating"] == 4
        page.get_by_role("button", name="Throw away").click()
        expect(page.get_by_role("button", name="Take it back")).to_be_visible()
        expect(sheet.locator(f"#i{number}")).to_have_count(0)


@pytest.mark.slow
@pytest.mark.parametrize("sort", ["arrived", "taken"])
def test_back_returns_to_the_same_cell(browser: Browser, served: Served, sort: str) -> None:
    fill(served.room, 900, pictures=True)
    with visit(browser, f"{served.url}/?sort={sort}") as page:
        wait_until(lambda: len(scroll(page)) > 650, 60, "so many cells")
        # What is far away is not in the document; this is in the middle of what is looked at.
        seen = "[300, 400, 500].map((y) => document.elementFromPoint(250, y).closest('.cells a')?.id).find(Boolean)"
        come(page, f"Boolean({seen})")
        name = page.evaluate(seen)
        cell = page.locator(f"#{name}")
        box = cell.bounding_box()
        assert box is not None
        cell.click()
        page.wait_for_url("**/images/*")
        page.go_back()
        same = page.locator(f"#{name}")
        expect(same).to_be_in_viewport()
        expect(same).to_be_focused()
        again = same.bounding_box()
        assert again is not None
        assert abs(again["y"] - box["y"]) < 2


@pytest.mark.slow
def test_a_group_is_tried_again_by_keys(browser: Browser, photos: Served) -> None:
    with visit(browser, f"{photos.url}/failed", is_still=False) as page:
        page.get_by_role("button", name="Try these 2 again").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("1 failed")
        for _ in range(4):
            photos.room.drain(time.time() + 1e6)
        # They fail once more, and the page says so by itself.
        expect(page.get_by_role("heading", level=1)).to_have_text("3 failed")
        assert page.title().startswith("3 failed")


@pytest.mark.slow
def test_filters_by_keys(browser: Browser, photos: Served) -> None:
    with visit(browser, photos.url) as page:
        page.get_by_text("Filter").focus()
        page.keyboard.press("Enter")
        page.get_by_label("has a caption").focus()
        page.keyboard.press("Space")
        expect(cells(page)).to_have_count(1)
        page.get_by_role("link", name="Remove the filter has a caption").focus()
        page.keyboard.press("Enter")
        expect(cells(page)).to_have_count(5)


@pytest.mark.slow
def test_signing_in_and_out_by_keys(browser: Browser, tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    with Served(room, token=TOKEN) as served, visit(browser, served.url, extra_http_headers={}) as page:
        expect(page.get_by_label("Token")).to_be_focused()
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="No photos yet")).to_be_visible()
        page.get_by_role("button", name="Sign out").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_label("Token")).to_be_visible()
    room.close()


@pytest.mark.slow
def test_other_peoples_words_break_nothing(browser: Browser, photos: Served) -> None:
    for number, text in enumerate(HOSTILE, 1):
        quoted = text.replace("'", "''")
        photos.sql(
            f"UPDATE image SET original_name = '{quoted}', caption = '{quoted}', title = '{quoted}',"
            f" folder = '{quoted}', camera_model = '{quoted}', lens_model = '{quoted}', error = '{quoted}',"
            f" visible_text = '{quoted}'"
            f" WHERE id = {number}"
        )
    for path in ("/", "/failed", "/stats", *(f"/images/{number}" for number in range(1, 7))):
        for size in ((1440, 900), (390, 844)):
            with visit(browser, f"{photos.url}{path}", size=size) as page:
                expect(page.locator("#main")).to_be_visible()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_everybody_can_use_every_page(
    browser: Browser, photos: Served, scheme: Literal["light", "dark"], size: tuple[int, int]
) -> None:
    failed = photos.room.row_of("cut.jpg")["id"]
    pages = (
        "/",
        "/?q=alps&has_gps=true",
        "/?q=nothing",
        "/images/1",
        f"/images/{failed}",
        "/failed",
        "/stats",
        "/docs",
        "/images/99",
    )
    for path in pages[:-1]:
        with visit(browser, f"{photos.url}{path}", size=size, color_scheme=scheme) as page:
            if path == "/docs":
                expect(page.locator("details.call").first).to_be_visible()
            assert violations(page) == [], path


@pytest.mark.slow
def test_scrolling_far_moves_nothing_and_takes_little(browser: Browser, served: Served) -> None:
    fill(served.room, 5000, pictures=True)
    with visit(browser, served.url) as page:
        # Whatever the page was made with is behind it.
        come(page, "document.getElementById('i4990').querySelector('img').complete")
        with traced(page) as tasks:
            scroll_to_the_oldest(page)
        # Where much else is done meanwhile, as beside other tests, each takes longer; at rest the longest takes 16 ms.
        assert max(tasks) < 100, "milliseconds of the processor at once"
        assert cells(page).count() < 700, "what is far away is not in the document"
        assert memory(page) < 150e6
        # And it is there again on the way back.
        page.evaluate("scrollTo(0, 0)")
        expect(page.locator("#i5000")).to_be_in_viewport()
        assert page.locator("#i5000 img").evaluate("(image) => image.decode().then(() => true)")


@pytest.mark.slow
def test_what_comes_is_counted_where_a_view_is_filtered(browser: Browser, served: Served) -> None:
    fill(served.room, 450, pictures=True, folder="Alps")
    served.room.decode_with(decode)
    with visit(browser, f"{served.url}/?folder=Alps", is_still=False) as page:
        wait_for_listener(served)
        page.mouse.wheel(0, 1500)
        come(page, "scrollY > 1000")
        arrive(served, "other.jpg", 71)
        arrive(served, "Alps/one.jpg", 72)
        expect(page.get_by_role("link", name="1 new ↑")).to_be_visible()


@pytest.mark.slow
def test_the_readme_shows_the_pages_as_they_are(browser: Browser, tmp_path: Path) -> None:
    made = screenshots.room(tmp_path / "room")
    with closing(made.catalogue), Served(made) as served:
        taken = list(screenshots.take(browser, served, tmp_path))
    assert sorted(file.name for file in taken) == sorted(file.name for file in screenshots.FOLDER.glob("*.webp"))
    for file in taken:
        with Image.open(file) as now, Image.open(screenshots.FOLDER / file.name) as then:
            # Fonts and the hour of the day differ.
            small = [picture.convert("L").resize((48, 30)) for picture in (now, then)]
            assert ImageStat.Stat(ImageChops.difference(*small)).mean[0] < 6, f"{file.name} is another page by now"
        assert file.stat().st_size < 40_000
