"""A real Chromium, and what each of its pages is held to: no error, no other host, nothing that the policy refuses."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support import wait_until

_PLACES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
_WATCH = """
    window.seen = { shifts: 0, moved: [], tasks: [], violations: [] };
    addEventListener("securitypolicyviolation", (e) => seen.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
    new PerformanceObserver((list) => {
        for (const one of list.getEntries()) {
            if (one.hadRecentInput) continue;
            seen.shifts += one.value;
            for (const { node, previousRect, currentRect } of one.sources) {
                seen.moved.push(`${node?.id || node?.nodeName} ${previousRect.y} -> ${currentRect.y}`);
            }
        }
    }).observe({ type: "layout-shift", buffered: true });
    new PerformanceObserver((list) => seen.tasks.push(...list.getEntries().map((one) => one.duration)))
        .observe({ type: "longtask", buffered: true });
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium; skip the test where there is none."""
    path = next(filter(None, map(shutil.which, _PLACES)), None)
    if path is None:
        pytest.skip("needs Chromium (Debian's package chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_OPTIONS)
        yield browser
        browser.close()


@contextmanager
def visit(
    browser: Browser,
    url: str,
    *,
    size: tuple[int, int] = (1440, 900),
    is_still: bool = True,
    is_refused: bool = False,
    **options: Any,
) -> Iterator[Page]:
    """Open an address in a new profile; hold all that happens there to what every page must keep to.

    One that `is_still` moves nothing by itself, as where a photo comes in at the top. Where it `is_refused` something,
    or the server is away, the browser says so on its console, and that is no fault.
    """
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    faults: list[str] = []
    # Those of a shared worker, too.
    context.on("request", lambda request: _check_host(request.url, url, faults))
    context.on("weberror", lambda error: faults.append(str(error.error)))
    context.on("console", lambda message: _check_line(message.type, message.text, is_refused, faults))
    context.add_init_script(_WATCH)
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.goto(url)
    yield page
    if options.get("java_script_enabled", True):
        seen = page.evaluate("window.seen")
        assert seen["violations"] == []
        assert seen["shifts"] == 0 or not is_still, f"nothing moves that nobody has moved: {seen['moved']}"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the page"
    assert faults == [], faults
    context.close()


def come(page: Page, condition: str) -> None:
    """Wait until something is true of a page; Playwright's own way is refused by the policy of ours."""
    wait_until(lambda: page.evaluate(condition), what=condition)


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """Return what axe finds that keeps people from using a page: the rule, and where."""
    found = Axe().run(page).response["violations"]
    return [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found]


def drop(page: Page, *paths: Path) -> None:
    """Drop files and folders onto a page, as a file manager does."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
    session.detach()


@contextmanager
def traced(page: Page) -> Iterator[list[float]]:
    """Trace what a page does meanwhile; afterwards the list has what each task of its main thread took, in ms.

    It is the processor's time: with few processors a task stands still while its page is painted by others.
    """
    session = page.context.browser.new_browser_cdp_session() if page.context.browser else None
    assert session is not None
    events: list[dict[str, Any]] = []
    ended: list[object] = []
    session.on("Tracing.dataCollected", lambda some: events.extend(some["value"]))
    session.on("Tracing.tracingComplete", lambda event: ended.append(event))
    traced = {"includedCategories": ["toplevel"]}
    session.send("Tracing.start", {"traceConfig": traced, "transferMode": "ReportEvents"})
    tasks: list[float] = []
    yield tasks
    session.send("Tracing.end")
    # Events are heard while Playwright waits.
    while not ended:
        page.wait_for_timeout(50)
    named = [one for one in events if one["name"] == "thread_name"]
    main = {(one["pid"], one["tid"]) for one in named if one["args"]["name"] == "CrRendererMain"}
    tasks += (one["tdur"] / 1000 for one in events if "tdur" in one and (one["pid"], one["tid"]) in main)


def _check_line(kind: str, text: str, is_refused: bool, faults: list[str]) -> None:
    if kind in {"error", "warning"} and not (is_refused and text.startswith("Failed to load resource")):
        faults.append(text)


def _check_host(asked: str, url: str, faults: list[str]) -> None:
    if urlsplit(asked).netloc != urlsplit(url).netloc and not asked.startswith(("data:", "blob:")):
        faults.append(f"another host is asked: {asked}")
