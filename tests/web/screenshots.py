"""Takes the screenshots of the README, of pictures that are made up: `python -m tests.web.screenshots [FOLDER]`."""

import io
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser

from tests.decoding.images import decode
from tests.support import Room
from tests.web import photographs
from tests.web.browser import chromium, visit
from tests.web.serving import Served

FOLDER = Path(__file__).parents[2] / ".readme"
_SIZE = (1200, 750)
# All that is in view; what is out of sight is not loaded yet.
_SHOWN = """Promise.all([...document.images]
    .filter((one) => one.getBoundingClientRect().top < innerHeight).map((one) => one.decode()))"""
_SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
_CAPTIONS = (
    "The ridge above the lake, early in the morning",
    "Fog in the valley",
    "Dunes at noon",
    "The last light on the hills",
    "On the way to the pass",
)


def room(folder: Path, photos: int = 40) -> Room:
    """Return a darkroom with some photos, most of them with captions, and some files that failed."""
    made = Room(folder)
    made.decode_with(decode)
    for seed in range(photos):
        made.put(
            f"{'Alps/' if seed % 2 else ''}DSC_{2000 + seed}.jpg",
            photographs.jpeg(seed, (1200, 800) if seed == 9 else None),
        )
    made.put("itinerary.jpg", b"%PDF-1.4 made up")
    made.put("Alps/DSC_3001.jpg", photographs.jpeg(3001)[:-4_000])
    made.put("Alps/DSC_3002.jpg", photographs.jpeg(3002)[:-2_000])
    for _ in range(4):
        made.drain(time.time() + 1e6)
    for row in made.images():
        if row.status == "done" and (row.id % 5 or row.original_name == "DSC_2009.jpg"):
            made.captions.edit(row.id, time.time(), caption=_CAPTIONS[row.id % 5], keywords=["mountains", "autumn"])
    return made


def take(browser: Browser, served: Served, folder: Path) -> Iterator[Path]:
    """Take all of them; yield each file."""
    number = served.room.row_of("DSC_2009.jpg")["id"]
    for name, path in {"sheet": "/?sort=taken", "photo": f"/images/{number}", "failed": "/failed"}.items():
        for scheme in _SCHEMES:
            with visit(browser, served.url + path, size=_SIZE, color_scheme=scheme) as page:
                page.evaluate(_SHOWN)
                picture = Image.open(io.BytesIO(page.screenshot()))
            file = folder / f"{name}-{scheme}.webp"
            picture.convert("RGB").save(file, "WebP", quality=72, method=6)
            yield file


def main(folder: Path) -> None:
    """Take them."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        made = room(Path(work) / "room")
        with closing(made.catalogue), chromium() as browser, Served(made) as served:
            for file in take(browser, served, folder):
                print(f"{file}: {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
