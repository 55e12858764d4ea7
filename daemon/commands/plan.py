"""Shows where files would go and why: photos anywhere, or all that waits in the inbox. Nothing is changed.

No catalogue is needed; where there is one it says what is filed already.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon.app import decoder_count, decoding_limits, inbox, planning_rules, roots
from daemon.catalogue import Catalogue
from daemon.config import Config
from daemon.decoding.sandbox import Sandbox
from daemon.errors import ConfigError, EnvironmentFault, Rejected
from daemon.files.atomic import Root
from daemon.files.names import check_template, display
from daemon.files.walk import Found, is_junk, walk
from daemon.filing.dates import words
from daemon.filing.dry_run import DryRun, Fate, FoundFile, PlannedFile
from daemon.phrases import counted

_SUMMARY = {
    Fate.FILED: "into the library",
    Fate.COMPANION: "beside their photos",
    Fate.SIDECAR: "into sidecars",
    Fate.DUPLICATE: "to duplicates",
    Fate.DELETED: "deleted, as copies",
    Fate.FAILED: "to failed",
    Fate.WAITING: "would stay",
}


def main(config: Config, args: argparse.Namespace) -> int:
    """Print where each file would go; 1 when one would fail, or can't be read."""
    files: list[FoundFile] = []
    unread = 0
    for path in args.paths:
        try:
            files += _found(config, path)
        except Rejected as reason:
            print(reason, file=sys.stderr)
            unread += 1
    return max(show(config, files, args.template, as_json=args.json), 1 if unread else 0)


def waiting(config: Config) -> Iterator[FoundFile]:
    """Yield what lies in the inbox. Raises EnvironmentFault."""
    root = inbox(config)
    try:
        for found in sorted(walk(root, config.inbox.ignore, config.inbox.recursive), key=_path):
            yield FoundFile(root, found.path, found.path.rpartition("/")[0])
    except OSError as error:
        raise EnvironmentFault(f"the inbox {root} can't be read: {error.strerror}") from error


def show(config: Config, found: Iterable[FoundFile], template: str | None = None, *, as_json: bool = False) -> int:
    """Print where files would go, and why; return 1 when one would not be filed."""
    rules = planning_rules(config)
    if template is not None:
        rules = replace(rules, template=checked(template))
    file = config.catalogue_file
    catalogue = Catalogue(file) if file.is_file() else None
    count: Counter[Fate] = Counter()
    documents = []
    with closing(Sandbox(decoding_limits(config), count=decoder_count(config))) as sandbox:
        run = DryRun(
            *(catalogue, inbox(config), roots(config), rules, sandbox.decode, sandbox),
            decoders=decoder_count(config),
            sidecars=config.filing.sidecars,
        )
        with catalogue.session() if catalogue is not None else nullcontext():
            for planned in run.plan(found):
                count[planned.fate] += 1
                if as_json:
                    documents.append(_document(planned))
                else:
                    print("\n    ".join(_lines(planned)), flush=True)
    if as_json:
        print(json.dumps(documents, indent=2))
    else:
        fates = ", ".join(f"{count[fate]:,} {where}" for fate, where in _SUMMARY.items() if count[fate])
        print(
            f"{counted(count.total(), 'file')}: {fates}; nothing was changed" if fates else "there is nothing to file"
        )
    return 1 if count[Fate.FAILED] or count[Fate.WAITING] else 0


def checked(template: str) -> str:
    """Return a template that was given on the command line. Raises ConfigError."""
    try:
        return check_template(template)
    except ValueError as error:
        raise ConfigError(f"--template {display(template[:200])}: {error}") from None


def _found(config: Config, path: Path) -> Iterator[FoundFile]:
    """Yield what a path stands for: a file, or all in a folder, as it would be if it were copied into the inbox.

    Raises Rejected where there is nothing that could be.
    """
    try:
        given = path.expanduser()
        here = given.parent.resolve(strict=True) / given.name if given.name not in {"", ".."} else given.resolve()
        is_folder = here.is_dir() and not here.is_symlink()
        if not os.path.lexists(here):
            raise Rejected(f"{path}: there is no such file or folder")
    except (OSError, RuntimeError, ValueError) as error:
        raise Rejected(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    for name, folder in config.folders.items():
        if name != "inbox" and here.is_relative_to(folder):
            hint = "; darkroom refile --dry-run says where it would go by another template" if name == "library" else ""
            raise Rejected(f"{path} lies in the {name} folder already{hint}")
    root = config.folders.inbox if here.is_relative_to(config.folders.inbox) else here.parent
    inside = str(here.relative_to(root))
    if not is_folder:
        if is_junk(here.name, config.inbox.ignore):
            raise Rejected(f"{path} has a name that is never taken ([inbox] ignore)")
        yield FoundFile(Root(root), inside, inside.rpartition("/")[0])
        return
    below = "" if inside == "." else inside
    try:
        for found in sorted(walk(Root(root), config.inbox.ignore, recursive=True, below=below), key=_path):
            yield FoundFile(Root(root), found.path, found.path.rpartition("/")[0])
    except OSError as error:
        raise Rejected(f"{path}: {error.strerror}") from error


def _path(found: Found) -> str:
    return found.path


def _lines(planned: PlannedFile) -> Iterator[str]:
    path = planned.path
    shown = display(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
    where = f"{planned.place}/{display(planned.destination or '')}"
    reason, beside = display(planned.reason or ""), planned.beside
    match planned.fate:
        case Fate.FILED:
            yield f"{shown} → {where}"
        case Fate.COMPANION:
            yield f"{shown} → {where}, beside {beside}"
        case Fate.SIDECAR:
            yield f"{shown} → into the sidecar of {beside}, whose own it is"
        case Fate.DUPLICATE:
            yield f"{shown} → {where}" + ("" if reason else f": the same bytes as {beside}")
        case Fate.DELETED:
            yield f"{shown} would be deleted: the same bytes as {beside}"
        case Fate.FAILED:
            yield f"{shown} → {where}: {reason}"
        case Fate.WAITING:
            yield f"{shown} would stay: {reason}"
    if planned.taken is not None and planned.fate is Fate.FILED:
        yield ", ".join(_why(planned))
    if reason and planned.taken is not None:
        yield f"remark: {reason}"


def _why(planned: PlannedFile) -> Iterator[str]:
    """Yield what a photo's place follows from."""
    taken = planned.taken
    if taken is not None:
        at = taken.at.isoformat(" ", "seconds").removesuffix(":00")
        yield f"taken {at} ({words(taken.origin)})"
    if planned.camera:
        yield display(planned.camera)
    if planned.lat is not None and planned.lon is not None:
        zone = f" ({taken.zone})" if taken is not None and taken.zone else ""
        yield f"at {planned.lat:.4f}, {planned.lon:.4f}{zone}"


def _document(planned: PlannedFile) -> dict[str, Any]:
    taken = planned.taken
    return {
        "path": display(str(planned.path)),
        "outcome": planned.fate.value,
        "place": planned.place,
        "destination": None if planned.destination is None else display(planned.destination),
        "reason": planned.reason,
        "beside": planned.beside,
        "taken_at": None if taken is None else taken.at.isoformat(),
        "taken_from": None if taken is None else taken.origin.value,
        "taken_utc": None if taken is None or taken.utc is None else taken.utc.isoformat(),
        "zone": None if taken is None else taken.zone,
        "camera": planned.camera or None,
        "lat": planned.lat,
        "lon": planned.lon,
    }
