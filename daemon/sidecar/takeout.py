"""How Google Takeout names the JSON beside a photo, and what of it stands for a caption and keywords.

The format is documented nowhere; this is what users report (TheLastGimbus/GooglePhotosTakeoutHelper, ente-io/ente and
simulot/immich-go on GitHub). A photo `TITLE.EXT` has `TITLE.EXT.json`, since 2024
`TITLE.EXT.supplemental-metadata.json`, of which 46 UTF-16 units are left before `.json`, wherever that is:
`TITLE.EXT.supp.json`, `TITLE.EX.json`, `TIT.json`.
The second photo of a title is `TITLE(1).EXT`, and its JSON `TITLE.EXT(1).json`, `TITLE(1).EXT.json` or, since 2024,
`TITLE.EXT.supplemental-metadata(1).json`; but where two titles begin with the same 46 units the number tells no more
than the two JSONs apart. The title as Google Photos has it is inside: that decides where a name was cut. Of a photo
that was edited there both forms are exported, `TITLE.EXT` and, in the language of the account, `TITLE-edited.EXT`, with
one JSON. `daemon.decoding.takeout` reads it.
"""

import html
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from daemon.catalogue.captions import cut_keywords, cut_text
from daemon.decoding import Takeout
from daemon.files.names import IMAGE_SUFFIXES, display, fold, split
from daemon.sidecar import xmp

WEAK = 5
"""The rank from which on a photo is taken only when no better one comes."""

_CUT_BYTES = 46
# What is shorter than this was not cut; a photo's name is cut like its JSON's, but keeps its suffix.
_LONG = 40
_TAIL = "supplemental-metadata"
# Videos have such JSONs, too, and are no photos.
_VIDEO_SUFFIXES = frozenset(".mp4 .mov .m4v .3gp .avi .mkv .webm .mpg .mpeg .mts .m2ts .wmv .mp .mv".split())
NUMBER = re.compile(r"\(\d{1,6}\)$")
"""What tells the photos of one title apart, at the end of a stem."""
# What Google doesn't export in names; it writes a low line instead.
_REPLACED = re.compile(r"[\\/:*?\"<>|&%'=#+@\x00-\x1f]")
EDIT = re.compile(
    "-(?:edited|effects|smile|mix|edytowane|bearbeitet|bewerkt|編集済み|modificato|modifié|ha editado|editado|editat"
    "|editată|redigerad|redigeret|redigert|muokattu|upraveno|upravené|szerkesztett|düzenlendi|измененный|изменено"
    "|已編輯|已修改|수정됨)(?=(?:\\(\\d{1,6}\\))?$)"
)
"""Google's word for an edit, in the language of the account, at the end of a folded stem."""


def words(said: Takeout) -> xmp.Packet:
    """Return the description and the people as XMP has a caption and keywords, within the limits of the API."""
    packet = xmp.Packet()
    if said.description:
        packet.set_language(xmp.DC, "description", cut_text(said.description))
    packet.set_list(xmp.DC, "subject", cut_keywords(said.people))
    return packet


@dataclass(frozen=True)
class TakeoutName:
    """A JSON's name, taken apart: what it has of the photo's name, the number behind it, and its own ending.

    `cut` says that `base` may be only the beginning of the photo's name.
    """

    base: str
    number: str
    tail: str
    cut: bool

    @property
    def whole(self) -> str | None:
        """The photo's name, where the JSON's name holds it."""
        stem, suffix = split(self.base)
        return f"{stem}{self.number}{suffix}" if not self.cut and suffix.lower() in IMAGE_SUFFIXES else None

    @property
    def wanted(self) -> str:
        """The photo's name, as far as it is known, for people."""
        return self.whole or f"{self.base}{'' if self.cut else self.number}{'…' if self.cut else '.*'}"

    @property
    def stems(self) -> list[str]:
        """The stems of the photos that it may belong to, or, where it is `cut`, what their names begin with."""
        if self.cut:
            return [self.base]
        return [split(self.whole)[0] if self.whole else self.base + self.number]

    @property
    def edits(self) -> tuple[str, ...]:
        """What the names of edited photos begin with that it may belong to."""
        plain = split(self.base)[0] if self.whole else self.base
        return () if self.cut else tuple(dict.fromkeys([f"{plain}-", f"{plain}{self.number}-"]))

    def may_fit(self, photo: str) -> bool:
        """Return whether a photo's name fits, whatever the title inside may be."""
        return self.rank(photo) is not None or (self.cut and _plain(photo).startswith(_plain(self.base)))

    @property
    def by_chance(self) -> bool:
        """Return whether it may have a photo's name without belonging to it."""
        return False

    def rank(self, photo: str, title: str | None = None) -> int | None:
        """Return how well a photo's name fits, 0 best; None where it doesn't. `title` is the one inside."""
        name, whole = _plain(photo), self.whole
        if whole is not None:
            return _rank(name, [_plain(whole)])
        known = self._known(title)
        if known is not None:
            return self._rank_by_title(name, known)
        if not self.cut:
            return _rank(split(name)[0], [_plain(self.base + self.number)])
        begins = name.startswith(_plain(self.base)) and _number(split(name)[0]) == self.number
        return WEAK if begins else None

    def is_of_another_title(self, photo: str, title: str | None) -> bool:
        """Return whether a photo's name is not of the title inside, with whatever number."""
        known, (stem, suffix) = self._known(title), split(_plain(photo))
        return known is not None and NUMBER.sub("", _unedited(stem)) + suffix != known

    def beside(self, photo: PurePosixPath, came: str) -> PurePosixPath:  # noqa: ARG002, for other companions
        """Return the JSON's name after its photo, which `came` under another."""
        return photo.with_name((photo.name if self.whole else split(photo.name)[0]) + self.tail)

    def _known(self, title: str | None) -> str | None:
        """Return the title as a file's name; None where it is none, or the JSON was named after another."""
        if title is None:
            return None
        known = _plain(html.unescape(title))
        is_name = split(known)[1] in IMAGE_SUFFIXES | _VIDEO_SUFFIXES
        return known if is_name and known.startswith(_plain(self.base)) else None

    def _rank_by_title(self, name: str, title: str) -> int | None:
        stem, suffix = split(title)
        # The second photo of a title first: where there is one the number is its own.
        wanted = list(dict.fromkeys([f"{stem}{self.number}{suffix}", title]))
        found = _rank(name, wanted)
        if found is not None:
            return found
        own, own_suffix = split(_unedited(name))
        number = _number(own)
        cut = own.removesuffix(number)
        if own_suffix == suffix and number == self.number and len(cut.encode()) >= _LONG and stem.startswith(cut):
            return 2 if _unedited(name) == name else WEAK
        # Some are exported as JPEGs, though the title says otherwise.
        return WEAK if {suffix, own_suffix} <= IMAGE_SUFFIXES and own == stem else None


def parse_name(name: str) -> TakeoutName | None:
    """Take a file's name apart; None where no JSON is called so."""
    head, tail = name[:-5], name[-5:]
    if tail.lower() != ".json" or not head:
        return None
    number = _number(head)
    base = head.removesuffix(number)
    # Bytes, not units: a name that is held to be cut although it is not does no harm, since the title decides then.
    cut = len(base.encode("utf-8", "surrogateescape")) >= _CUT_BYTES
    title, dot, end = base.rpartition(".")
    if dot and title and _TAIL.startswith(end.lower()):
        base, tail = title, f".{end}{tail}" if end else tail
        number = number or _number(base)
        base = base.removesuffix(number)
        # What stands before the ending is whole, or nothing of that would have been left.
        cut = cut and not (end and split(base)[1].lower() in IMAGE_SUFFIXES)
    return TakeoutName(base, number, tail, cut)


def original_of(photo: str) -> str | None:
    """Return the name, in lower case, of the photo that one is Google's edit of; None where it is none."""
    name, plain = fold(photo), _unedited(fold(photo))
    return plain if plain != name else None


def _rank(name: str, wanted: list[str]) -> int | None:
    if name in wanted:
        return wanted.index(name)
    return WEAK if _unedited(name) in wanted else None


def _plain(name: str) -> str:
    return _REPLACED.sub("_", fold(display(name)))


def _number(stem: str) -> str:
    match = NUMBER.search(stem)
    return match[0] if match else ""


def _unedited(name: str) -> str:
    """Return a folded name, or the stem of one, without Google's word for an edit."""
    stem, suffix = split(name)
    if suffix not in IMAGE_SUFFIXES:
        stem, suffix = name, ""
    return EDIT.sub("", stem) + suffix
