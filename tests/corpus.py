"""Compares with exiftool: `python -m tests.corpus FOLDER` prints each difference; exit 1 where one is unexplained.

What is compared: date, make, model, lens, ISO, GPS, orientation and size of every file that Darkroom decodes, and how
it was exposed. A kind of difference that is meant has its reason in EXPLANATIONS, and is printed with it; nothing is
left out. With --pictures it is the thumbnails that are compared, with those of vips and ImageMagick (tests.pictures).
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from daemon.decoding import Decoded, Limits
from daemon.decoding.sandbox import Sandbox
from daemon.errors import DarkroomError
from daemon.filing.dates import Evidence, Origin, parsed, taken
from tests import pictures

Tags = Mapping[str, Any]
"""exiftool's tags of one file, named "GROUP:Name"."""
Value = str | int | float | tuple[float, ...] | None

_DATES = ("DateTimeOriginal", "CreateDate", "ModifyDate", "DateCreated", "TimeCreated", "GPSDateStamp", "GPSTimeStamp")
_ASKED = (
    *_DATES, "Make", "Model", "LensModel", "Lens", "LensID", "ISO", "RecommendedExposureIndex",
    "StandardOutputSensitivity", "GPSLatitude", "GPSLongitude", "GPSLatitudeRef", "GPSLongitudeRef", "GPSStatus",
    "Orientation", "Rotation", "ImageSize", "FocalLength", "ExposureTime", "FNumber",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One field that Darkroom and exiftool read in two ways; `reason` is why that is meant, None where it is not."""

    path: Path
    field: str
    ours: Value
    theirs: Value
    reason: str | None


@dataclass(frozen=True)
class Comparison:
    """All differences of a folder, and how many files were compared; the others Darkroom doesn't decode."""

    differences: tuple[Difference, ...]
    compared: int
    refused: int


def compare(folder: Path) -> Comparison:
    """Return how all files of a folder are read. Each is decoded in a child process, as in the program."""
    sandbox = Sandbox(Limits())
    differences: list[Difference] = []
    compared = refused = 0
    try:
        for tags in exiftool(folder):
            path = Path(tags["SourceFile"])
            try:
                decoded = sandbox.decode(path)
            except DarkroomError:
                refused += 1
                continue
            compared += 1
            for field, ours, theirs in _pairs(decoded, tags):
                if not _is_same(ours, theirs):
                    reason = _reason(field, ours, theirs, decoded, tags)
                    differences.append(Difference(path.relative_to(folder), field, ours, theirs, reason))
    finally:
        sandbox.close()
    return Comparison(tuple(differences), compared, refused)


def exiftool(folder: Path) -> list[dict[str, Any]]:
    """Return what exiftool reads of each file, as numbers where there are some."""
    # From standard input: some files' names would be options. -m: it warns of what is not to be read.
    names = "\n".join(str(path) for path in sorted(folder.rglob("*")) if path.is_file() and "\n" not in path.name)
    asked = [f"-{name}" for name in _ASKED]
    command = ["exiftool", "-n", "-m", "-json", "-a", "-G0", *asked, "-@", "-"]
    result = subprocess.run(command, input=names, capture_output=True, text=True, check=False)
    found: list[dict[str, Any]] = json.loads(result.stdout or "[]")
    return found


def _pairs(decoded: Decoded, tags: Tags) -> Iterator[tuple[str, Value, Value]]:
    """Yield each field with Darkroom's and exiftool's value."""
    exif = decoded.exif
    yield "date", _our_date(decoded), _their_date(tags)
    yield "make", exif.camera_make, _first(tags, "Make")
    yield "model", exif.camera_model, _first(tags, "Model")
    yield "lens", exif.lens_model, _first(tags, "LensModel", "Lens")
    yield "ISO", exif.iso, _iso(tags)
    yield "GPS", None if exif.lat is None or exif.lon is None else (exif.lat, exif.lon), _place(tags)
    yield "orientation", exif.orientation, _number(_first(tags, "Orientation")) or None
    yield "focal length", exif.focal_length, _positive(tags, "FocalLength")
    yield "exposure time", exif.exposure_time, _exposure(_positive(tags, "ExposureTime"))
    yield "f-number", exif.f_number, _positive(tags, "FNumber")
    if decoded.width is not None and decoded.height is not None:
        yield "size", (decoded.width, decoded.height), _size(decoded, tags)


def _is_same(ours: Value, theirs: Value) -> bool:
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        # A hundred-thousandth of a degree is a metre.
        return all(abs(one - other) <= 1e-5 for one, other in zip(ours, theirs, strict=True))
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= 1e-3
    return ours == theirs


def _our_date(decoded: Decoded) -> str | None:
    evidence = Evidence("", 0.0, decoded.exif.dates)
    found = taken(evidence, datetime.now(UTC).timestamp())
    # GPS's in UTC, as it stands there: the zone is no matter of reading.
    at = found.utc if found.origin in {Origin.GPS, Origin.GPS_HERE} and found.utc is not None else found.at
    return None if found.origin is Origin.MTIME else at.replace(tzinfo=None).isoformat(" ")


def _their_date(tags: Tags) -> str | None:
    """Return the first of the dates that exiftool finds that one can read, in the order of the README."""
    tomorrow = datetime.now() + timedelta(days=2)  # noqa: DTZ005
    for name in (
        *("EXIF:DateTimeOriginal", "EXIF:CreateDate", "EXIF:GPSDateStamp", "XMP:DateTimeOriginal", "XMP:DateCreated"),
        *("XMP:CreateDate", "IPTC:DateCreated", "EXIF:ModifyDate", "MakerNotes:DateTimeOriginal", "PNG:CreateDate"),
    ):
        text = str(tags.get(name, ""))
        if name == "EXIF:GPSDateStamp":
            text = f"{text} {tags.get('EXIF:GPSTimeStamp', '')}"
        if name == "IPTC:DateCreated":
            text = f"{text} {tags.get('IPTC:TimeCreated', '')}"
        found = parsed(text)
        lost = found is None or (found.at.month, found.at.day, found.at.year) in {(1, 1, 1970), (1, 1, 1904)}
        if found is not None and not lost and found.at.year >= 1826 and found.at <= tomorrow:
            return found.at.isoformat(" ")
    return None


def _first(tags: Tags, *names: str) -> str | None:
    """Return a text, of EXIF if it has it, else of any other group."""
    for name in names:
        for key in (f"EXIF:{name}", *(key for key in tags if key.endswith(f":{name}"))):
            text = str(tags.get(key, "")).split("\0")[0].strip()
            if text:
                return text
    return None


def _number(text: str | None) -> int | None:
    try:
        return round(float((text or "").split()[0]))
    except (ValueError, IndexError, OverflowError):
        return None


def _positive(tags: Tags, name: str) -> float | None:
    """Return a number of EXIF that is known: cameras write 0 for what they don't know."""
    value = tags.get(f"EXIF:{name}")
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _exposure(seconds: float | None) -> str | None:
    """Write an exposure time as exiftool does without -n."""
    if seconds is None:
        return None
    return f"1/{int(0.5 + 1 / seconds)}" if seconds < 0.25001 else f"{seconds:.1f}".removesuffix(".0")


def _iso(tags: Tags) -> int | None:
    iso = _number(_first(tags, "ISO"))
    if iso in {None, 0, 65535}:
        iso = _number(_first(tags, "RecommendedExposureIndex", "StandardOutputSensitivity"))
    return iso or None


def _place(tags: Tags) -> tuple[float, ...] | None:
    try:
        return float(tags["Composite:GPSLatitude"]), float(tags["Composite:GPSLongitude"])
    except (KeyError, ValueError):
        return None


def _size(decoded: Decoded, tags: Tags) -> tuple[float, ...] | None:
    """Return the size in pixels, upright: turned as EXIF says, or the container of HEIF and AVIF if it says so."""
    found = [_number(part) for part in str(tags.get("Composite:ImageSize", "")).split()]
    if len(found) != 2 or found[0] is None or found[1] is None:
        return None
    turned = decoded.exif.orientation in {5, 6, 7, 8}
    if decoded.format in {"AVIF", "HEIC", "HEIF"} and "QuickTime:Rotation" in tags:
        turned = _number(str(tags["QuickTime:Rotation"])) in {90, 270}
    return (found[1], found[0]) if turned else (found[0], found[1])


# -- what is meant

_RAW = {"DNG", "CR2", "CR3", "NEF", "ARW", "RAF", "ORF", "RW2", "RAW"}


@dataclass(frozen=True)
class Explanation:
    """A kind of difference that is meant: of these fields, for this reason, where this holds."""

    fields: tuple[str, ...]
    reason: str
    holds: Callable[[Value, Value, Decoded, Tags], bool]


def _is_elsewhere(*names: str) -> Callable[[Value, Value, Decoded, Tags], bool]:
    """Return a judge of whether EXIF has nothing, and another group has what exiftool shows."""
    return lambda ours, theirs, _, tags: (
        ours is None and theirs is not None and not any(str(tags.get(f"EXIF:{name}", "")).strip() for name in names)
    )


def _unprintable(text: Value) -> bool:
    return isinstance(text, str) and not (text.isascii() and text.isprintable() and len(text) <= 256)


EXPLANATIONS = (
    Explanation(
        ("make", "model"),
        "stands in the maker's own block (CIFF) or in XMP alone, which are not read for it",
        lambda *found: _is_elsewhere("Make")(*found) or _is_elsewhere("Model")(*found),
    ),
    Explanation(
        ("lens",),
        "exiftool makes it of the maker note's numbers and its own list of lenses, or has it from XMP",
        _is_elsewhere("LensModel"),
    ),
    Explanation(
        ("ISO",),
        "stands in the maker note alone, of another maker than Canon or in a form that ExifRead can't read",
        _is_elsewhere("ISO", "RecommendedExposureIndex", "StandardOutputSensitivity"),
    ),
    Explanation(
        ("date",),
        "stands in the maker's own block or in a PNG's text alone, which are not read for it",
        lambda ours, theirs, _, tags: (
            ours is None and not any(f"{group}:{name}" in tags for group in ("EXIF", "XMP", "IPTC") for name in _DATES)
        ),
    ),
    Explanation(
        ("orientation",),
        "stands in XMP alone; what turns a picture is EXIF, or the container of HEIF and AVIF",
        _is_elsewhere("Orientation"),
    ),
    Explanation(
        ("orientation",),
        "is none of the eight that EXIF knows",
        lambda ours, theirs, *_: ours is None and theirs not in range(1, 9),
    ),
    Explanation(("GPS",), "stands in XMP or in the maker's own block alone", _is_elsewhere("GPSLatitude")),
    Explanation(
        ("GPS",),
        "zeros are what phones and editors write for no place; only a receiver with a fix was there",
        lambda ours, theirs, *_: ours is None and isinstance(theirs, tuple) and not any(theirs),
    ),
    Explanation(
        ("GPS",),
        "has no reference, and is taken for north and east",
        lambda ours, theirs, _, tags: (
            theirs is None and not {"EXIF:GPSLatitudeRef", "EXIF:GPSLongitudeRef"} <= set(tags)
        ),
    ),
    Explanation(
        ("make", "model", "lens"),
        "holds what can't be shown on a line, or other characters than ASCII, which exiftool shows in its own way",
        lambda ours, theirs, *_: _unprintable(ours) or _unprintable(theirs),
    ),
    Explanation(
        ("size",),
        "exiftool tells no size of it",
        lambda _ours, theirs, _decoded, _tags: theirs is None,
    ),
    Explanation(
        ("size",),
        "of a RAW file the picture is meant, without the border of the sensor and not its preview",
        lambda _ours, _theirs, decoded, _tags: decoded.format in _RAW,
    ),
)
"""Why Darkroom reads otherwise, kind by kind; the first that holds is printed."""


def _reason(field: str, ours: Value, theirs: Value, decoded: Decoded, tags: Tags) -> str | None:
    kinds = (one.reason for one in EXPLANATIONS if field in one.fields and one.holds(ours, theirs, decoded, tags))
    return next(kinds, None)


def main(argv: list[str] | None = None) -> int:
    """Print the differences; 1 where one is unexplained."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", action="store_true", help="compare thumbnails with vips' and ImageMagick's")
    args = parser.parse_args(argv)
    folder = args.folder
    if not folder.is_dir():
        parser.error(f"{folder} is no folder")
    if args.pictures:
        return _pictures(parser, folder)
    found = compare(folder)
    for one in found.differences:
        reason = f"explained: {one.reason}" if one.reason else "UNEXPLAINED"
        print(f"{one.path}: {one.field}: {one.ours!r}, exiftool {one.theirs!r}: {reason}")
    unexplained = [one for one in found.differences if one.reason is None]
    print(f"{found.compared} files compared, {found.refused} not decoded; {len(found.differences)} differences")
    for reason, count in Counter(one.reason for one in found.differences if one.reason).most_common():
        print(f"{count:6} {reason}")
    print(f"{len(unexplained):6} unexplained")
    return 1 if unexplained else 0


def _pictures(parser: argparse.ArgumentParser, folder: Path) -> int:
    if lacking := pictures.missing():
        parser.error(f"not installed: {', '.join(lacking)} (Debian: libvips-tools, imagemagick)")
    far = 0
    for one in pictures.compare(folder):
        far += one.reason is None
        explained = f"explained: {one.reason}" if one.reason else "UNEXPLAINED"
        print(f"{one.path.relative_to(folder)}: {one.said}: {explained}", flush=True)
    print(f"{far:6} unexplained")
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
