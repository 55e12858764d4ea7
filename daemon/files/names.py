"""Makes names that no value can turn into anything but a plain relative path below the library.

A name is built from the template's values, each of them untrusted (camera models, folders, the name the
file came with). The rules are the narrowest of the filesystems that a library may lie on: components of at
most 255 bytes of UTF-8, no control characters, no `.` or `..`, nothing hidden.
"""

import os
import re
import string
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import accumulate
from pathlib import PurePosixPath

_MAX_COMPONENT_BYTES = 255
# Room for what is put around a name: `-12345` before the suffix, `.xmp` or `.reason.txt` behind it.
_MAX_BYTES = _MAX_COMPONENT_BYTES - 24
_MAX_SUFFIX = 16
_MAX_DEPTH = 32
_MAX_PATH_BYTES = 2048
# Leaves room in that for what a template puts around it.
_MAX_FOLDER_BYTES = 1024
UNKNOWN = "unknown"
# What begins so is Darkroom's own, and is never taken for a file of the inbox.
OWN_PREFIX = ".darkroom-"
# What a file is called in its own folder of the inbox from the last look at it on, until its name goes.
LEAVING_PREFIX = f"{OWN_PREFIX}leaving-"

# Suffixes that claim a kind of image; one of these is replaced when the bytes say otherwise, any other
# ending ("holiday.2024") is taken for a part of the name.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .insp .png .apng .webp .tif .tiff .gif .bmp .dib .avif .avifs"
    " .heic .heif .hif .heics .heifs .jp2 .j2k .jpf .jpx .jpc .j2c .jxl .psd .svg .ico"
    " .dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .pef .srw".split()
)

# What a camera writes beside its JPEG of the same name.
RAW_SUFFIXES = frozenset(
    ".dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .raf .orf .ori .rw2 .rwl .raw .pef .srw .gpr .x3f .3fr .fff .erf .kdc .dcr"
    " .mef .mos .iiq".split()
)


MAY_BE_MISSING = ("camera", "folder", "lens", "make", "model")
"""The fields of a template that not every photo has something for."""
_MISSING_FIELDS = ", ".join(f"{{{field}}}" for field in MAY_BE_MISSING)


@dataclass(frozen=True)
class Values:
    """What a template may use."""

    taken: datetime
    name: str
    folder: str
    camera: str | None
    make: str | None
    model: str | None
    lens: str | None
    format: str
    source: str

    def table(self) -> dict[str, str | datetime]:
        """Return the values by the names that a template writes."""
        name = component(self.name)
        stem, suffix = split(name)
        plain = {
            "name": name,
            "stem": stem,
            "camera": self.camera,
            "make": self.make,
            "model": self.model,
            "lens": self.lens,
            "format": self.format.lower(),
            "source": self.source,
        }
        values: dict[str, str | datetime] = {key: component(value or UNKNOWN) for key, value in plain.items()}
        folder = [component(part) for part in self.folder.split("/") if part]
        return values | {"taken": self.taken, "suffix": suffix, "folder": "/".join(folder)}

    def missing(self) -> frozenset[str]:
        """Return which of the fields that may be so are empty."""
        return frozenset(field for field in MAY_BE_MISSING if not (getattr(self, field) or "").strip())


_EXAMPLE = Values(datetime(2026, 11, 23, 12), "IMG_1.jpg", "a/b", "c", "m", "o", "l", "JPEG", "inbox")  # noqa: DTZ001


@dataclass(frozen=True)
class _Part:
    """What stands in a template before a field, and the field, if one follows; `group` counts brackets, 0 is none."""

    literal: str
    field: str | None
    spec: str
    group: int


def check_template(template: str) -> str:
    """Return `template` when it is one that `expand` can use; raise ValueError saying what is wrong."""
    fields = sorted(_EXAMPLE.table())
    try:
        whole = list(string.Formatter().parse(template))
    except ValueError:
        raise ValueError("each { needs its }, and each } its {; {{ and }} stand for one in a name") from None
    for _, field, spec, conversion in whole:
        if field is None:
            continue
        if field not in fields:
            raise ValueError(f"unknown field {{{field}}}; there are {{{'}, {'.join(fields)}}}")
        if conversion or (spec and field != "taken"):
            raise ValueError(f"{{{field}}} takes no format; only {{taken:…}} does, such as {{taken:%Y/%m}}")
        if field == "taken" and not spec:
            raise ValueError("{taken} needs a format, such as {taken:%Y/%m}")
    parts = _parse(template)
    for group in {part.group for part in parts} - {0}:
        if not any(part.field in MAY_BE_MISSING for part in parts if part.group == group):
            raise ValueError(
                f"what is in brackets vanishes where a field in it is empty, and has one of {_MISSING_FIELDS};"
                " a bracket itself is written [[ or ]]"
            )
    if not any(part.field in {"name", "stem", "taken"} for part in parts if not part.group):
        raise ValueError(
            "needs at least one of {name}, {stem} and {taken:…} outside of brackets: all photos would get one name"
        )
    if parts[-1].field is None and parts[-1].literal.endswith("/"):
        raise ValueError("ends with a folder; the last part is the file's name")
    # Nothing would leave the library, but nothing would lie where this says either.
    filled = _filled_in(template, _EXAMPLE)
    if filled.startswith("/") or {".", ".."} & set(filled.split("/")):
        raise ValueError("leads out of the library: begin it without a /, and have no folder . or .. in it")
    return template


@lru_cache(maxsize=8)
def _parse(template: str) -> tuple[_Part, ...]:
    """Take a template apart; raise ValueError where its brackets don't fit."""
    parts: list[_Part] = []
    group = groups = 0
    for literal, field, spec, _ in string.Formatter().parse(template):
        text = ""
        for piece in re.findall(r"\[\[|\]\]|[\[\]]|[^\[\]]+", literal):
            if piece == "[":
                if group:
                    raise ValueError("brackets in brackets; a bracket itself is written [[ or ]]")
                parts.append(_Part(text, None, "", 0))
                text, groups = "", groups + 1
                group = groups
            elif piece == "]":
                if not group:
                    raise ValueError("a ] without its [; a bracket itself is written [[ or ]]")
                parts.append(_Part(text, None, "", group))
                text, group = "", 0
            else:
                text += piece[:1] if piece in {"[[", "]]"} else piece
        parts.append(_Part(text, field, spec or "", group))
    if group:
        raise ValueError("a [ without its ]; a bracket itself is written [[ or ]]")
    return tuple(part for part in parts if part.literal or part.field is not None)


def expand(template: str, values: Values) -> PurePosixPath:
    """Fill in a checked template: a relative path whose last component ends with the suffix of `values.name`."""
    components = [component(part) for part in _filled_in(template, values).split("/") if part.strip()][:_MAX_DEPTH]
    suffix = split(component(values.name))[1]
    last = components.pop() if components else UNKNOWN
    if not last.lower().endswith(suffix.lower()):
        last = component(last + suffix)
    return PurePosixPath(*components, last)


def _filled_in(template: str, values: Values) -> str:
    """Return a template with its fields filled in, without what is in brackets around an empty one."""
    table, missing, parts = values.table(), values.missing(), _parse(template)
    gone = {part.group for part in parts if part.group and part.field in missing}
    text = ""
    for part in parts:
        if part.group in gone:
            continue
        text += part.literal
        if part.field == "taken":
            text += values.taken.strftime(part.spec)
        elif part.field is not None:
            text += str(table[part.field])
    return text


def component(text: str) -> str:
    """Make one legal path component of any text; never empty, hidden, `.` or `..`."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    # NFC: the same name typed on a Mac and on Linux must not become two files that look alike.
    text = unicodedata.normalize("NFC", text)
    text = "".join("_" if c in "/\\\0" or _is_unshowable(c) else c for c in text)
    text = text.strip()
    if text.startswith("."):
        text = "_" + text.lstrip(".")
    # Windows, and so SMB, can't open a name that ends with a dot or a space.
    text = text.rstrip(". ") or "_"
    stem, suffix = split(text)
    return _cut(stem, _MAX_BYTES - len(suffix.encode())) + suffix


def folder(text: str) -> str:
    """Make a path of legal components, relative and '/'-separated, of what somebody says of a folder; "" for none.

    A backslash separates, too. Raises ValueError, for people, for one that leads elsewhere or is too deep or too long.
    """
    parts = [part for part in re.split(r"[/\\]", text) if part.strip() not in {"", "."}]
    if text.startswith(("/", "\\")) or (parts and re.fullmatch("[A-Za-z]:", parts[0])):
        raise ValueError("it has to be a relative path")
    if ".." in map(str.strip, parts):
        raise ValueError("`..` has no place in it")
    if len(parts) > _MAX_DEPTH:
        raise ValueError(f"it is more than {_MAX_DEPTH} folders deep")
    if any(len(part.encode("utf-8", "replace")) > _MAX_COMPONENT_BYTES for part in parts):
        raise ValueError(f"no folder has a name of more than {_MAX_COMPONENT_BYTES} bytes")
    made = "/".join(map(component, parts))
    if len(made.encode()) > _MAX_FOLDER_BYTES:
        raise ValueError(f"it is longer than {_MAX_FOLDER_BYTES:,} bytes")
    return made


def split(name: str) -> tuple[str, str]:
    """Split a file's name into stem and suffix; an overlong or blank-holding "suffix" is part of the stem."""
    path = PurePosixPath(name)
    suffix = path.suffix
    if len(suffix.encode("utf-8", "surrogateescape")) > _MAX_SUFFIX or " " in suffix:
        return name, ""
    return name[: len(name) - len(suffix)], suffix


def fold(name: str) -> str:
    """Return a name as it is compared with others: letter case and Unicode form (a Mac's NFD) make no difference."""
    return unicodedata.normalize("NFC", name.lower())


def spellings(text: str) -> list[str]:
    """Return the forms in which a database that folds ASCII letters alone is asked for a name's beginning."""
    if text.isascii():
        return [text]
    cases = (text, text.lower(), text.upper())
    return list(dict.fromkeys(unicodedata.normalize(form, case) for case in cases for form in ("NFC", "NFD")))


def beginning(text: str, units: int) -> str:
    """Return the beginning of a text, of at most so many UTF-16 units, in composed form and with whole characters."""
    composed = unicodedata.normalize("NFC", text)
    # Counted here, not by a codec: Python would load that when it is first needed, which may be under fewer rights.
    lengths = accumulate(2 if c > "\uffff" else 1 for c in composed)
    return composed[: sum(length <= units for length in lengths)]


def beginnings(texts: Iterable[str], units: int) -> list[str]:
    """Return all spellings of the beginnings of some texts."""
    return list(dict.fromkeys(spelled for text in texts for spelled in spellings(beginning(text, units))))


def numbered(path: PurePosixPath, number: int) -> PurePosixPath:
    """Return the `number`-th name of the same stem: `name.jpg`, `name-1.jpg`, `name-2.jpg`, …"""
    stem, suffix = split(path.name)
    return path if number == 0 else path.with_name(f"{stem}-{number}{suffix}")


def portable(path: PurePosixPath) -> PurePosixPath:
    """Narrow a name to what every filesystem holds: short, and without what exFAT, NTFS and SMB refuse."""
    parts = []
    for part in path.parts:
        stem, suffix = split("".join("_" if c in '<>:"|?*' else c for c in part))
        parts.append(_cut(stem, 80) + suffix)
    return PurePosixPath(*parts)


def within_reach(path: PurePosixPath) -> PurePosixPath:
    """Return a path that any program can open by its name, one in no subfolder where the folders make it too long.

    Linux takes 4,096 bytes (PATH_MAX), others fewer; there is room for the folder that it is in.
    """
    return path if len(os.fsencode(str(path))) <= _MAX_PATH_BYTES else PurePosixPath(path.name)


def plainest(path: PurePosixPath) -> PurePosixPath:
    """Return the name that is left to try where a filesystem refuses even the portable one: short, in no subfolder."""
    return PurePosixPath(portable(path).name)


def with_true_suffix(name: str, suffixes: tuple[str, ...]) -> str:
    """Correct the suffix of `name` to what the bytes are; `suffixes` are the right ones, the usual one first."""
    stem, suffix = split(name)
    if suffix.lower() in suffixes:
        return name
    if suffix.lower() in IMAGE_SUFFIXES:
        return stem + suffixes[0]
    return name.rstrip(". ") + suffixes[0]


def cut(name: str, size: int) -> str:
    """Cut a name to at most `size` bytes, never inside a character; its suffix stays."""
    stem, suffix = split(name)
    room = size - len(os.fsencode(suffix))
    # Cut off inside a character, the rest of it would be undecodable bytes, which a stem may also really hold.
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return stem + suffix


def display(path: str) -> str:
    """Make a path fit for a line of text: control characters and undecodable bytes become escapes."""
    return "".join(
        c.encode("unicode_escape", "surrogatepass").decode("ascii") if _is_unshowable(c) else c for c in path
    )


def _is_unshowable(c: str) -> bool:
    """Return whether a character would break a line of text, or make it look like another.

    Cc control, Zl and Zp line ends, Cs undecodable bytes, Cf direction marks (they make gpj.exe look like exe.jpg), but
    not the joiners of Persian and of emoji.
    """
    return unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and c not in "\u200c\u200d"


def _cut(text: str, size: int) -> str:
    """Cut to at most `size` bytes of UTF-8, never inside a character."""
    return text.encode("utf-8")[:size].decode("utf-8", "ignore").rstrip(". ") or "_"
