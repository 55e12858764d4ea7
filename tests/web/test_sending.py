"""Photos are sent from the page, in a real browser: dropped, pasted or chosen, interrupted, and sent again."""

import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, Request, Response, expect

from tests.support import slow, tree, wait_until
from tests.web.browser import drop, traced, violations, visit
from tests.web.serving import Served, photo
from tests.web.test_pages import fill

# 2019-05-01, and so many seconds later for each file.
BEGAN = 1_556_700_000


def folders(base: Path, files: int, across: int, padding: int = 0) -> Path:
    """Make so many photos in so many folders below one, each with a time of its own."""
    trip = base / "trip"
    for number in range(files):
        file = trip / f"day {number % across}" / f"IMG_{number:04}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo(number) + bytes(padding))
        os.utime(file, (BEGAN + number, BEGAN + number))
    return trip


def count(page: Page, words: str) -> Locator:
    """Return the number that is said beside some words."""
    return page.locator("#sent span").filter(has_text=re.compile(f"^{words} ")).locator("b")


def number(page: Page, words: str) -> int:
    return int(count(page, words).inner_text().replace(",", "") or 0)


def name_of(url: str) -> str:
    query = parse_qs(urlsplit(url).query)
    return "/".join([*query.get("folder", []), *query["name"]])


class Traffic:
    """The uploads of a page: the names that were sent, and those that were acknowledged."""

    def __init__(self, page: Page) -> None:
        self.sent: list[str] = []
        self.taken: list[str] = []
        self.known = 0
        page.on("request", self._request)
        page.on("response", self._response)

    def _request(self, request: Request) -> None:
        if request.method == "POST" and request.url.partition("?")[0].endswith("/api/images"):
            self.sent.append(name_of(request.url))
        self.known += request.url.endswith("/api/images/known")

    def _response(self, response: Response) -> None:
        if response.request.method == "POST" and response.status in {200, 202} and "name=" in response.url:
            self.taken.append(name_of(response.url))


def slow_down(page: Page, bytes_a_second: int) -> None:
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_a_second}
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", conditions)


def shown(row: dict[str, Any]) -> str:
    return "/".join(filter(None, [row["folder"], row["original_name"]]))


def filed(served: Served) -> dict[str, int]:
    """File what has come; return the time of each photo in the library, in seconds, by the path that it came with."""
    served.room.drain(time.time() + 1e6)
    library = served.room.library
    found = [row for row in served.room.rows() if row["status"] == "done"]
    assert len(found) == len(tree(library))
    return {shown(row): int((library / row["destination"]).stat().st_mtime) for row in found}


def expected(trip: Path) -> dict[str, int]:
    files = [file for file in trip.rglob("*") if file.is_file()]
    return {str(file.relative_to(trip.parent)): int(file.stat().st_mtime) for file in files}


@pytest.mark.parametrize(("files", "across", "padding"), [(14, 3, 30_000), slow(500, 20, 30_000)])
def test_what_was_acknowledged_is_not_sent_again(
    browser: Browser, served: Served, tmp_path: Path, files: int, across: int, padding: int
) -> None:
    trip = folders(tmp_path, files, across, padding)
    with visit(browser, served.url, is_still=False) as page:
        traffic = Traffic(page)
        page.on("dialog", lambda dialog: dialog.accept())
        slow_down(page, 400_000)
        drop(page, trip)
        wait_until(lambda: number(page, "Sent") >= files // 2, 200, "half of them")
        before = set(traffic.taken)
        wait_until(lambda: number(page, "Sent") >= len(before), what="the page knows of them")
        page.reload()
        sent = len(traffic.sent)
        had = {shown(row) for row in served.room.rows()}
        assert files // 2 <= len(before) <= len(had) < files
        slow_down(page, -1)
        drop(page, trip)
        wait_until(lambda: number(page, "Sent") + number(page, "Here already") == files, 100, "all of them")
        again = set(traffic.sent[sent:])
        assert not again & before, "what was acknowledged"
        assert len(again & had) <= 3, "what was in flight"
        assert 0 < traffic.known <= 1 + files // 100
    assert filed(served) == expected(trip)


@pytest.mark.parametrize(("files", "seconds"), [(9, 0.0), slow(200, 20.0)])
def test_a_server_that_is_away_loses_nothing(
    browser: Browser, served: Served, tmp_path: Path, files: int, seconds: float
) -> None:
    trip = folders(tmp_path, files, 3, 20_000)
    with visit(browser, served.url, is_still=False, is_refused=True) as page:
        slow_down(page, 200_000)
        drop(page, trip)
        wait_until(lambda: number(page, "Sent") > 2, what="some are sent")
        port = served.port
        served.stop()
        stopped = time.monotonic()
        slow_down(page, -1)
        wait_until(lambda: number(page, "Not sent") > 2, what="some are not")
        page.get_by_text("Not sent, left out").click()
        expect(page.locator("#missed li").first).to_have_text(re.compile(r"^trip/day \d/IMG_\d+.jpg: \S"))
        wait_until(lambda: time.monotonic() - stopped >= seconds, seconds + 5)
        assert page.evaluate("onbeforeunload") is not None or number(page, "To send") == 0
        served.start(port)
        # What was not tried meanwhile goes on by itself.
        expect(count(page, "To send")).to_have_text("0", timeout=100_000)
        page.get_by_role("button", name="Retry all").press("Enter")
        # What was pressed is gone; the focus is not.
        expect(page.get_by_role("button", name=re.compile("Stop|Close"))).to_be_focused()
        wait_until(lambda: number(page, "Sent") + number(page, "Here already") == files, 100, "all of them")
        expect(page.locator("#missed li")).to_have_count(0)
    assert filed(served) == expected(trip)


def test_what_is_no_photo_is_said_and_junk_is_not(browser: Browser, served: Served, tmp_path: Path) -> None:
    trip = folders(tmp_path, 2, 1)
    for name in (".DS_Store", "Thumbs.db", "day 0/.IMG_0000.jpg.swp", "day 0/@eaDir/IMG_0000.jpg", "__MACOSX/._a"):
        (trip / name).parent.mkdir(exist_ok=True)
        (trip / name).write_bytes(photo(77))
    (trip / "day 0" / "CLIP.MOV").write_bytes(b"\0\0\0\x14ftypqt  " * 9)
    (trip / "<b>notes.txt").write_text("on the way")
    (trip / "large.jpg").write_bytes(photo(78) + bytes(40_000_000))
    (trip / "empty.jpg").write_bytes(b"")
    with visit(browser, served.url, is_refused=True) as page:
        traffic = Traffic(page)
        drop(page, trip)
        expect(count(page, "Left out")).to_have_text("2")
        expect(count(page, "Not sent")).to_have_text("2")
        expect(count(page, "Sent")).to_have_text("2")
        assert len(traffic.sent) == 6
        page.get_by_text("Not sent, left out").click()
        lines = sorted(page.locator("#missed li").all_inner_texts())
        assert [line.partition(": ")[0] for line in lines] == [
            "trip/<b>notes.txt",
            "trip/day 0/CLIP.MOV",
            "trip/empty.jpg",
            "trip/large.jpg",
        ]
        assert "is not an image that Darkroom can read" in lines[0]
        assert "larger than 5 MB" in lines[3]
        assert "Sent 2" in page.get_by_role("status").first.inner_text()
        page.get_by_role("button", name="Close").click()
        expect(page.get_by_role("region", name="Sending photos")).to_be_hidden()


@pytest.mark.slow
def test_photos_are_chosen_by_keys(browser: Browser, served: Served, tmp_path: Path) -> None:
    trip = folders(tmp_path, 4, 2)
    with visit(browser, f"{served.url}/failed") as page:
        page.get_by_role("button", name="Add photos").focus()
        page.keyboard.press("Enter")
        for press, chosen in (("Tab", [trip / "day 0" / "IMG_0000.jpg"]), ("Tab", [trip])):
            page.keyboard.press(press)
            with page.expect_file_chooser() as chooser:
                page.keyboard.press("Enter")
            chooser.value.set_files(chosen)
            expect(page.get_by_role("dialog")).to_be_hidden()
            page.get_by_role("button", name="Add photos").focus()
            page.keyboard.press("Enter")
            page.keyboard.press("Tab")
        # One came by itself, and again with its folder.
        wait_until(lambda: number(page, "Sent") + number(page, "Here already") == 5, what="all that was chosen")
    assert {row["folder"] for row in served.room.rows()} == {"", "trip/day 0", "trip/day 1"}


def paste(page: Page, name: str, content: bytes) -> None:
    """Paste a file, as after it was copied in a file manager; of the clipboard itself a test has none."""
    page.evaluate(
        """([name, bytes]) => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array(bytes)], name, { lastModified: 1556700000000 }));
            document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }""",
        [name, list(content)],
    )


@pytest.mark.slow
def test_what_is_pasted_is_sent_and_leaving_meanwhile_is_asked_about(browser: Browser, served: Served) -> None:
    with visit(browser, served.url) as page:
        asked: list[str] = []

        def stay(dialog: Dialog) -> None:
            asked.append(dialog.type)
            dialog.dismiss()

        page.on("dialog", stay)
        page.locator("body").click()
        slow_down(page, 20_000)
        paste(page, "image.png", photo(1) + bytes(30_000))
        expect(page.locator("#lines li:not([hidden])")).to_have_count(1)
        page.evaluate("location.assign('/stats')")
        wait_until(lambda: page.evaluate("1") and asked, what="the question")
        assert asked == ["beforeunload"]
        slow_down(page, -1)
        expect(count(page, "Sent")).to_have_text("1")
        page.goto(f"{served.url}/stats")
        assert asked == ["beforeunload"]


@pytest.mark.slow
def test_a_thumbnail_that_is_dragged_is_not_sent(browser: Browser, served: Served) -> None:
    fill(served.room, 3, pictures=True)
    with visit(browser, served.url) as page:
        traffic = Traffic(page)
        page.locator(".cells img").first.drag_to(page.locator("#index"))
        page.evaluate("new Promise((done) => setTimeout(done, 300))")
        assert traffic.sent == []


@pytest.mark.slow
def test_stopping_sends_no_more(browser: Browser, served: Served, tmp_path: Path) -> None:
    trip = folders(tmp_path, 9, 1, 30_000)
    with visit(browser, served.url) as page:
        slow_down(page, 50_000)
        drop(page, trip)
        expect(count(page, "To send")).to_have_text("9")
        page.get_by_role("button", name="Stop").click()
        slow_down(page, -1)
        expect(count(page, "Sent")).to_have_text("3")
        expect(count(page, "To send")).to_have_text("0")
    assert len(served.room.rows()) == 3


BOUNDARIES = (0, 1, 55, 56, 63, 64, 65, 119, 120, (1 << 20) - 9, (1 << 20) - 8, 1 << 20, (1 << 20) + 1, 3 << 20)
HASH = """(files) => new Promise((done) => {
    const worker = new Worker("/static/hash.js");
    worker.onmessage = ({ data }) => done(data);
    worker.postMessage(files);
})"""


def test_hashes_are_those_of_sha_256(browser: Browser, served: Served) -> None:
    # NIST's examples, and lengths at which the padding or the reading changes.
    texts = ["", "abc", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "a" * 1_000_000]
    contents = [text.encode() for text in texts] + [bytes([7]) * size for size in BOUNDARIES]
    files = """([texts, sizes]) => [...texts, ...sizes.map((size) => new Uint8Array(size).fill(7))]
        .map((content) => new File([content], "x"))"""
    with visit(browser, served.url) as page:
        hashes = page.evaluate(f"(given) => ({HASH})(({files})(given))", [texts, BOUNDARIES])
    assert hashes == [hashlib.sha256(content).hexdigest() for content in contents]
    assert hashes[1] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashes[3] == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"


@pytest.mark.slow
def test_a_large_file_is_hashed_as_fast_as_a_line_takes_it(browser: Browser, served: Served, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(photo(1))
    os.truncate(large, 3_000_000_000)
    with visit(browser, served.url) as page:
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('input'), { id: 'probe', type: 'file' }))"
        )
        page.locator("#probe").set_input_files(large)
        began = time.monotonic()
        [found] = page.evaluate(f"({HASH})([...document.getElementById('probe').files])")
        took = time.monotonic() - began
        page.evaluate("document.getElementById('probe').remove()")
    with large.open("rb") as stream:
        assert found == hashlib.file_digest(stream, "sha256").hexdigest()
    # At rest it is 150 MB a second; a gigabit's line takes 110.
    assert took < 100, f"{3000 / took:.0f} MB a second"


@pytest.mark.slow
def test_five_hundred_photos_hold_nothing_up(browser: Browser, served: Served, tmp_path: Path) -> None:
    trip = folders(tmp_path, 500, 20)
    with visit(browser, served.url) as page:
        with traced(page) as tasks:
            drop(page, trip)
            expect(count(page, "Sent")).to_have_text("500", timeout=100_000)
        assert max(tasks) < 100, "milliseconds of the processor at once"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_everybody_can_use_what_is_shown_of_it(
    browser: Browser,
    served: Served,
    tmp_path: Path,
    scheme: Literal["light", "dark"],
    size: tuple[int, int],
) -> None:
    trip = folders(tmp_path, 3, 1)
    (trip / "notes.txt").write_text("x")
    with visit(browser, served.url, size=size, color_scheme=scheme, is_refused=True) as page:
        drop(page, trip)
        expect(count(page, "Left out")).to_have_text("1")
        expect(count(page, "Sent")).to_have_text("3")
        page.get_by_text("Not sent, left out").click()
        assert violations(page) == []
        page.get_by_role("button", name="Add photos").click()
        assert violations(page) == []
