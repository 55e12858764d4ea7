"""Which photo a companion belongs to: `.xmp` and `.aae` edits, Takeout's `.json`, the video of a live photo.

A companion is a row of the queue like any file, until its photo is known; then it is filed beside the photo under the
photo's new stem. The photo may have come before it, may come with it or after it: what waits is `queued`, and says so.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from daemon.names import IMAGE_SUFFIXES, display, split

SUFFIXES = frozenset({".xmp", ".aae", ".json", ".mov", ".mp4"})
_VIDEOS = frozenset({".mov", ".mp4"})
_RAW = frozenset(".dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .pef .srw".split())
_HEIF = frozenset({".heic", ".heif", ".hif"})
# Takeout cuts a name to 51 bytes, `.json` included: of a long photo's name only the beginning is left.
_TAKEOUT_BYTES = 46
_TAKEOUT_TAIL = "supplemental-metadata"
_NUMBER = re.compile(r"\((\d{1,6})\)$")
# An iPhone's IMG_E1234 is the edited IMG_1234, and IMG_O1234.AAE belongs to the original of it.
_EDITED = re.compile(r"(?<=^img_)[eo](?=\d{4}$)", re.IGNORECASE)
_PREFIX = 24


@dataclass(frozen=True)
class Companion:
    """A companion's name, taken apart.

    `whole` is the name of its photo where the companion's name holds it ("img_1.jpg" of IMG_1.JPG.xmp), `stem` the
    stem of it, both in lower case; `tail` is what follows the photo's name or stem. `begins` is the stem with its upper
    and lower case, `edited` that of the original where the photo is an iPhone's edit; `cut` says that only the
    beginning of the photo's name is known.
    """

    whole: str | None
    stem: str
    tail: str
    suffix: str
    begins: str
    cut: bool = False

    @property
    def edited(self) -> str | None:
        """Give the stem of the original where this belongs to an iPhone's edit of it."""
        plain = _EDITED.sub("", self.begins)
        return plain if plain != self.begins else None

    @property
    def is_video(self) -> bool:
        """Tell whether it is a video, of which a photo has one."""
        return self.suffix in _VIDEOS

    def rank(self, photo: str) -> int | None:
        """Tell how well a photo's name fits, 0 best; None where it doesn't."""
        name = photo.lower()
        stem, suffix = split(name)
        if self.whole is not None:
            if name == self.whole:
                return 0
            return 2 if self.cut and name.startswith(self.whole) else None
        if stem == self.stem:
            # A RAW file's edits lie in an .xmp, a live photo is HEIC first and JPEG second.
            favoured = _RAW if self.suffix == ".xmp" else _HEIF
            return 0 if suffix in favoured else 1
        if self.cut and name.startswith(self.stem):
            return 2
        return 3 if _EDITED.sub("", self.stem) == stem else None

    def beside(self, photo: PurePosixPath) -> PurePosixPath:
        """Name the companion after its photo."""
        # NAME.EXT.xmp is the sidecar's own name.
        keeps_suffix = self.whole is not None and self.suffix != ".xmp"
        name = photo.name if keeps_suffix else split(photo.name)[0]
        return photo.with_name(name + self.tail)


def parse(name: str) -> Companion | None:
    """Take a file's name apart; None where no companion is called so."""
    head, suffix = name[: name.rfind(".")], name[name.rfind(".") :] if "." in name else ""
    if suffix.lower() not in SUFFIXES or not head:
        return None
    if suffix.lower() == ".json":
        return _takeout(head, suffix)
    return _companion(head, suffix)


class Rows(Protocol):
    """The companions that wait (in the catalogue)."""

    def waiting(self, folder: str, prefix: str) -> list[tuple[int, str]]:
        """List ids and names of those that came from a folder and whose name begins so."""

    def due(self, image_ids: list[int] | None, now: float) -> None:
        """Have them looked at now."""


def hasten(rows: Rows, path: str, name: str, now: float) -> None:
    """Have the companions that wait for a photo looked at, now that it is filed or has failed."""
    waiting = rows.waiting(display(path.rpartition("/")[0]), prefix(split(name)[0]))
    rows.due(of_photo(name, waiting), now)


def of_photo(photo: str, waiting: Iterable[tuple[int, str]]) -> list[int]:
    """Pick the ids of those names that belong to a photo."""
    parsed = ((image_id, parse(name)) for image_id, name in waiting)
    return [image_id for image_id, companion in parsed if companion and companion.rank(photo) is not None]


def numbered(path: PurePosixPath, number: int) -> PurePosixPath:
    """Give the `number`-th name of a companion: `IMG_1.xmp`, `IMG_1.1.xmp`, …

    Not `IMG_1-1.xmp`: that belongs to another photo, IMG_1-1.jpg.
    """
    stem, suffix = split(path.name)
    return path if number == 0 else path.with_name(f"{stem}.{number}{suffix}")


def prefix(stem: str) -> str:
    """Give what the names of a photo of this stem and of all its companions begin with."""
    return _NUMBER.sub("", stem)[:_PREFIX]


def _companion(head: str, tail: str, *, cut: bool = False, number: str = "") -> Companion:
    suffix = tail[tail.rfind(".") :].lower()
    stem, image = split(head)
    if image.lower() in IMAGE_SUFFIXES:
        return Companion(
            f"{stem}{number}{image}".lower(), f"{stem}{number}".lower(), tail, suffix, f"{stem}{number}", cut
        )
    return Companion(None, f"{head}{number}".lower(), tail, suffix, f"{head}{number}", cut)


def _takeout(head: str, suffix: str) -> Companion:
    """Read Google's names: IMG.jpg.json, IMG.jpg.supplemental-metadata.json, its cut forms, IMG.jpg(1).json."""
    cut = len(head.encode("utf-8", "surrogateescape")) >= _TAKEOUT_BYTES
    number = match[0] if (match := _NUMBER.search(head)) else ""
    bare = head.removesuffix(number)
    title, dot, end = bare.rpartition(".")
    if dot and title and _TAKEOUT_TAIL.startswith(end.lower()):
        return _companion(title, f".{end}{suffix}", cut=cut, number=number)
    if split(bare)[1].lower() not in IMAGE_SUFFIXES:
        # The number is the photo's own: IMG(1).json.
        return _companion(head, suffix, cut=cut)
    return _companion(bare, suffix, cut=cut, number=number)
