"""Scrolls a contact sheet of 5,000 cells in Chromium: `python -m tests.benchmarks.scrolling [CELLS]`.

Prints the longest tasks of the page's main thread in milliseconds (none is to take more than 50), how far anything was
moved that nobody had moved (nothing is), and the memory of the tab's process that it shares with no other, in MB.
"""

import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page

from tests.support import Room, wait_until
from tests.web.browser import chromium, visit
from tests.web.serving import Served
from tests.web.test_pages import fill

CELLS = 5000
_STEP = 1000
# What a wheel's turn does, and what comes of it with the next frames; whether the oldest photo is reached.
_SCROLL = """(step) => new Promise((done) => {
    scrollBy(0, step);
    requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => {
        done(document.getElementById("i1") !== null);
    }, 20)));
})"""


def scroll_to_the_oldest(page: Page) -> None:
    """Scroll down by the height of a screen at a time until the photo with the id 1 is on the page."""
    wait_until(lambda: page.evaluate(_SCROLL, _STEP), 120, "the oldest photo")


def memory(page: Page) -> int:
    """Return the bytes of the process of a page that it shares with no other."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return max(process.memory_full_info().uss for process in _renderers())


def _renderers() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if "--type=renderer" in one.cmdline()]


def measure(cells: int) -> dict[str, Any]:
    """Scroll through so many; return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        room = Room(Path(folder) / "room")
        fill(room, cells, pictures=True)
        with closing(room.catalogue), chromium() as browser, Served(room) as served, visit(browser, served.url) as page:
            page.wait_for_timeout(1000)
            page.evaluate("seen.tasks.length = 0")
            scroll_to_the_oldest(page)
            seen = page.evaluate("seen")
            return {
                "cells": cells,
                "in the document": page.locator(".cells li").count(),
                "longest tasks (ms)": sorted(seen["tasks"])[-5:],
                "moved": seen["shifts"],
                "memory (MB)": round(memory(page) / 1e6),
            }


if __name__ == "__main__":
    for what, figure in measure(int(sys.argv[1]) if len(sys.argv) > 1 else CELLS).items():
        print(f"{what:20} {figure}")
