"""What people have written into XMP of a photo: found by comparing it with what Darkroom itself had written there.

Each sidecar of Darkroom's holds its words twice: as other programs read them, and in Darkroom's own namespace. Where
the two differ somebody has changed the first, and that is what the row takes over; where the row was changed as well,
by a person, over REST, the row's stays.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from daemon.catalogue import ImageRow
from daemon.catalogue.captions import (
    MAX_CAPTION,
    MAX_HIERARCHICAL,
    MAX_KEYWORD,
    MAX_TITLE,
    Words,
    cut_keywords,
    cut_text,
    together,
)
from daemon.catalogue.schema import Tags
from daemon.sidecar import xmp

_Value = TypeVar("_Value", str, int)
_MAX_RATING = 5
# What stands in a file is cut to what a person may write over REST.
_MOST = {"caption": MAX_CAPTION, "title": MAX_TITLE, "label": MAX_KEYWORD}
_MOST_IN_LISTS = {"keywords": MAX_KEYWORD, "hierarchical_keywords": MAX_HIERARCHICAL}
_COORDINATE = re.compile(r"(?P<d>\d{1,3}),(?P<m>\d{1,2}(?:\.\d+)?)(?:,(?P<s>\d{1,2}(?:\.\d+)?))?(?P<way>[NSEWnsew])")
# In degrees: a tenth of a metre. What two programs write of one place differs by less.
_SAME_PLACE = 1e-6


@dataclass(frozen=True)
class Said:
    """What the row has to take over: new words, the names of the columns that were emptied, a place (lat, lon).

    `edited` is the row's, with what no model may change any more.
    """

    words: Words = field(default_factory=Words)
    edited: str = ""
    emptied: frozenset[str] = frozenset()
    place: tuple[float, float] | None = None


def words_in(row: ImageRow, existing: xmp.Packet | None, known: ImageRow, came: Sequence[xmp.Packet]) -> Said:
    """Return a person's words that the row does not have.

    `existing` is Darkroom's own sidecar and `known` what that says in its own namespace; `came` is XMP that came with
    the photo: its keywords are found anew each time, so that a model's may join them.
    """
    edited = row.edited or ""
    found = _Merge(row, edited)
    if existing is not None:
        if "caption" not in edited or row.caption == known.caption:
            found.text("caption", known.caption, existing.text(xmp.DC, "description"), known.caption)
        found.text("title", known.title, existing.text(xmp.DC, "title"), row.title)
        found.text("label", known.label, existing.text(xmp.XMP, "Label"), row.label)
        found.number("rating", known.rating, rating(existing.text(xmp.XMP, "Rating")), row.rating)
        found.list("keywords", known.keywords, existing.texts(xmp.DC, "subject"))
        found.list("hierarchical_keywords", known.hierarchical_keywords, hierarchical(existing))
        found.place(_own_place(existing), place(existing))
    for packet in came:
        found.offer(packet)
    return found.said()


def words_of_edit(row: ImageRow, before: Tags, after: Tags) -> Said:
    """Return a person's words that the row does not have, where a photo was edited with other ones in its own XMP.

    `before` and `after` are all tags of the photo. What it had held before is nothing new, whatever the row has.
    """
    found = _Merge(row, row.edited or "")
    for column, name in (("caption", "dc:description"), ("title", "dc:title"), ("label", "xmp:Label")):
        base, theirs = _text(before, name), _text(after, name)
        if theirs != getattr(row, column) and (theirs is not None or base == getattr(row, column)):
            found.text(column, base, theirs, base)
    stars, theirs_too = rating(_text(before, "xmp:Rating")), rating(_text(after, "xmp:Rating"))
    if theirs_too != row.rating and (theirs_too is not None or stars == row.rating):
        found.number("rating", stars, theirs_too, stars)
    for column, names in (
        ("keywords", ("dc:subject",)),
        ("hierarchical_keywords", ("lr:hierarchicalSubject", "digiKam:TagsList")),
    ):
        known, now = _list(before, names), _list(after, names)
        ours = set(getattr(row, column) or ())
        if set(now) - set(known) - ours or (set(known) - set(now)) & ours:
            found.list(column, known, now)
    return found.said()


def _text(tags: Tags, name: str) -> str | None:
    value = tags.get(f"XMP {name}")
    return value if isinstance(value, str) else None


def _list(tags: Tags, names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        words = tags.get(f"XMP {name}")
        # digiKam's paths have slashes.
        split = "/" if name == "digiKam:TagsList" else "|"
        found += [str(word).replace(split, "|") for word in words] if isinstance(words, list) else []
    return found if names == ("dc:subject",) else _in_others(found)


class _Merge:
    """Gathers what changes in one row."""

    def __init__(self, row: ImageRow, edited: str) -> None:
        self._row, self._edited = row, edited
        self._texts: dict[str, str] = {}
        self._rating: int | None = None
        self._lists: dict[str, list[str]] = {}
        self._emptied: set[str] = set()
        self._written: set[str] = set()
        self._place: tuple[float, float] | None = None

    def text(self, column: str, base: str | None, theirs: str | None, ours: str | None) -> None:
        """Merge one text."""
        base, theirs = cut_text(base, _MOST[column]), cut_text(theirs, _MOST[column])
        if not _is_theirs(base, theirs, ours):
            return
        self._written.add(column)
        if theirs is None:
            self._emptied.add(column)
        else:
            self._texts[column] = theirs

    def number(self, column: str, base: int | None, theirs: int | None, ours: int | None) -> None:
        """Merge the rating."""
        if not _is_theirs(base, theirs, ours):
            return
        if theirs is None:
            self._emptied.add(column)
            self._written.add(column)
        self._rating = theirs

    def list(self, column: str, base: Iterable[str] | None, theirs: Sequence[str]) -> None:
        """Merge a list of words: what was added to it is added, what was taken out goes."""
        theirs, before = cut_list(column, theirs), set(cut_list(column, base or ()))
        ours = getattr(self._row, column) or ()
        added, removed = [word for word in theirs if word not in before], before - set(theirs)
        if added or removed:
            self._written.add("keywords")
        self._lists[column] = [*added, *(word for word in ours if word not in removed)]

    def place(self, base: tuple[float, float] | None, theirs: tuple[float, float] | None) -> None:
        """Merge the place."""
        if _is_same(base, theirs):
            return
        if theirs is None:
            self._emptied |= {"lat", "lon"}
        elif base is not None or self._row.lat is None:
            self._place = theirs

    def offer(self, packet: xmp.Packet) -> None:
        """Take what XMP that came with the photo says where nobody has said anything else."""
        row, edited = self._row, self._edited
        for column, namespace, name in (
            ("caption", xmp.DC, "description"),
            ("title", xmp.DC, "title"),
            ("label", xmp.XMP, "Label"),
        ):
            is_free = column not in edited and (column == "caption" or getattr(row, column) is None)
            text = cut_text(packet.text(namespace, name), _MOST[column])
            if is_free and text and column not in self._texts and column not in self._emptied:
                self._texts[column] = text
                self._written |= {column} & {"caption"}
        if row.rating is None and self._rating is None and "rating" not in edited:
            self._rating = rating(packet.text(xmp.XMP, "Rating"))
        if "keywords" not in edited:
            for column, theirs in (
                ("keywords", packet.texts(xmp.DC, "subject")),
                ("hierarchical_keywords", hierarchical(packet)),
            ):
                ours = self._lists.get(column, [*(getattr(row, column) or ())])
                news = [word for word in cut_list(column, theirs) if word not in ours]
                self._lists[column] = [*news, *ours]
        if row.lat is None and self._place is None and not self._emptied & {"lat"}:
            self._place = place(packet)

    def said(self) -> Said:
        """Return what is new."""
        lists: dict[str, tuple[str, ...]] = {}
        for column, merged in self._lists.items():
            ours, now = getattr(self._row, column) or (), cut_list(column, merged)
            if set(now) == set(ours):
                continue
            if now:
                lists[column] = now
            else:
                self._emptied.add(column)
        row = self._row
        words = Words(
            caption=_news(self._texts.get("caption"), row.caption),
            keywords=lists.get("keywords"),
            title=_news(self._texts.get("title"), row.title),
            hierarchical_keywords=lists.get("hierarchical_keywords"),
            rating=self._rating if self._rating != row.rating else None,
            label=_news(self._texts.get("label"), row.label),
        )
        written = self._written & {"caption", "keywords"} | self._emptied & {"rating", "label"}
        emptied = frozenset(column for column in self._emptied if getattr(row, column) is not None)
        edited = together(row.edited, written) if written else self._edited
        return Said(words, edited, emptied, self._place)


def cut_list(column: str, words: Iterable[str]) -> tuple[str, ...]:
    """Return the words of a list that are as many and as long as the API allows."""
    return cut_keywords(words, _MOST_IN_LISTS[column])


def _is_theirs(base: _Value | None, theirs: _Value | None, ours: _Value | None) -> bool:
    """Return whether a value was changed in the sidecar, and not in the row as well."""
    return theirs != base and (ours == base or ours is None)


def _news(text: str | None, known: str | None) -> str | None:
    return text if text and text != known else None


def rating(text: str | None) -> int | None:
    """Return the stars of xmp:Rating, 0 to 5, or -1 for rejected; None for what is none."""
    try:
        stars = float(text or "")
    except ValueError:
        return None
    return int(stars) if stars.is_integer() and -1 <= stars <= _MAX_RATING else None


def hierarchical(packet: xmp.Packet) -> list[str]:
    """Return the keywords that lie in others, as Lightroom ("Places|Italy") and digiKam ("Places/Italy") write them."""
    digikam = [path.replace("/", "|") for path in packet.texts(xmp.DIGIKAM, "TagsList")]
    return _in_others([*packet.texts(xmp.LIGHTROOM, "hierarchicalSubject"), *digikam])


def _in_others(paths: Iterable[str]) -> list[str]:
    """Return each path once, without those of one word: that is a plain keyword."""
    return [path for path in dict.fromkeys(paths) if "|" in path.strip("|")]


def place(packet: xmp.Packet, namespace: str = xmp.EXIF) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees; None where there is no place."""
    lat = _degrees(packet.text(namespace, "GPSLatitude"), 90)
    lon = _degrees(packet.text(namespace, "GPSLongitude"), 180)
    return None if lat is None or lon is None else (lat, lon)


def _own_place(packet: xmp.Packet) -> tuple[float, float] | None:
    return place(packet, xmp.DARKROOM)


def _degrees(text: str | None, most: int) -> float | None:
    """Return a coordinate of XMP, "DDD,MM.mmK" or "DDD,MM,SSK", in degrees; None for what is none."""
    match = _COORDINATE.fullmatch((text or "").strip())
    if match is None:
        return None
    degrees = int(match["d"]) + float(match["m"]) / 60 + float(match["s"] or 0) / 3600
    return None if degrees > most else -degrees if match["way"] in "SWsw" else degrees


def _is_same(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one[0] - other[0]) < _SAME_PLACE and abs(one[1] - other[1]) < _SAME_PLACE
