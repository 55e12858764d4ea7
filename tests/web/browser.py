"""A real Chromium, and what each of its pages is held to: no error, no other host, nothing that the policy refuses."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_PLACES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
_WATCH = """
    window.seen = { shifts: 0, tasks: [], violations: [] };
    addEventListener("securitypolicyviolation", (e) => seen.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
    new PerformanceObserver((list) => {
        for (const one of list.getEntries()) if (!one.hadRecentInput) seen.shifts += one.value;
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
    browser: Browser, url: str, *, size: tuple[int, int] = (1440, 900), is_still: bool = True, **options: Any
) -> Iterator[Page]:
    """Open an address in a new profile; hold all that happens there to what every page must keep to.

    One that `is_still` moves nothing by itself, as where a photo comes in at the top.
    """
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    faults: list[str] = []
    # Those of a shared worker, too.
    context.on("request", lambda request: _check_host(request.url, url, faults))
    context.on("weberror", lambda error: faults.append(str(error.error)))
    context.on("console", lambda message: faults.append(message.text) if message.type in {"error", "warning"} else None)
    context.add_init_script(_WATCH)
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.goto(url)
    yield page
    if options.get("java_script_enabled", True):
        seen = page.evaluate("window.seen")
        assert seen["violations"] == []
        assert seen["shifts"] == 0 or not is_still, "nothing moves that nobody has moved"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the page"
    assert faults == []
    context.close()


def _check_host(asked: str, url: str, faults: list[str]) -> None:
    if urlsplit(asked).netloc != urlsplit(url).netloc and not asked.startswith(("data:", "blob:")):
        faults.append(f"another host is asked: {asked}")
