"""List images, newest first: a table for people, or one JSON document."""

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any

from rich.cells import cell_len, set_cell_size

from daemon.app import existing_catalogue
from daemon.catalogue import ImageRow
from daemon.catalogue.search import ImageQuery, Search
from daemon.commands import LARGEST
from daemon.config import Config
from daemon.files.names import display
from web.models import image_summary

_BATCH = 500
_HEAD = ("ID", "STATUS", "ARRIVED", "TAKEN", "FILE", "CAPTION")
# How wide the columns before FILE are, and how much of a terminal FILE leaves to CAPTION.
_WIDTHS = (7, 10, 10, 10)
_CAPTION = 16


def main(config: Config, args: argparse.Namespace) -> int:
    """Print a page of the matches, or all; 0."""
    search = Search(existing_catalogue(config))
    # Names are kept as they are shown: what is no text in one is an escape.
    text = None if args.query is None else display(args.query)
    query = ImageQuery(status=args.status, text=text, sort=args.by)
    skipped = 0 if args.all else (args.page - 1) * args.limit
    found = _matches(search, query, min(skipped, LARGEST))
    page = found if args.all else islice(found, args.limit)
    if args.json:
        _print_json(page)
        return 0
    if not _print_table(page):
        print("no images match" if args.page == 1 else f"there is no page {args.page}", file=sys.stderr)
    elif next(found, None) is not None:
        print(f"there are more: --page {args.page + 1}, or --all", file=sys.stderr)
    return 0


def _matches(search: Search, query: ImageQuery, skipped: int) -> Iterator[ImageRow]:
    if skipped:
        ids = search.ids(query, skipped)
        if len(ids) < skipped:
            return
        query = replace(query, before=ids[-1])
    while page := search.page(query, _BATCH):
        yield from page
        query = replace(query, before=page[-1].id)


def _print_json(rows: Iterator[ImageRow]) -> None:
    """Print one list, as json.dumps does; row by row, since there may be a million."""
    count = 0
    for count, row in enumerate(rows, 1):
        print("[" if count == 1 else ",")
        print(textwrap.indent(json.dumps(_document(row), indent=2), "  "), end="")
    print("\n]" if count else "[]")


def _document(row: ImageRow) -> dict[str, Any]:
    """Return what GET /api/images shows, with the paths of this machine, and what only somebody at it can use."""
    return {
        **image_summary(row, str).model_dump(),
        "warning": row.warning,
        "attempts": row.attempts,
        "sha256": row.sha256,
        "place": row.place,
        "destination": row.destination,
        "inbox_path": row.path,
    }


def _print_table(rows: Iterator[ImageRow]) -> bool:
    """Print a line for each image, cut to the width of a terminal; return whether there was one."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    is_first = True
    while batch := [_cells(row) for row in islice(rows, _BATCH)]:
        if is_first:
            batch.insert(0, _HEAD)
        room = max(cell_len(cells[4]) for cells in batch)
        if width is not None:
            room = min(room, max(20, width - sum(_WIDTHS) - 2 * len(_WIDTHS) - _CAPTION))
        for cells in batch:
            print(_line(cells, room, width))
        is_first = False
    return not is_first


def _cells(row: ImageRow) -> tuple[str, ...]:
    arrived = datetime.fromtimestamp(row.created_at).astimezone().date().isoformat()
    remark = row.error or row.warning or (row.waiting_text if row.status == "queued" else None)
    said = [" ".join(row.caption.split())] if row.caption else []
    said += [f"({remark})"] if remark else []
    return str(row.id), row.status, arrived, (row.taken_at or "")[:10], _where(row), display(" ".join(said))


def _where(row: ImageRow) -> str:
    """Return where the file of an image is, or was last."""
    if row.place is not None and row.destination is not None:
        return display(f"{row.place}/{row.destination}")
    if row.removed_from is not None:
        return display(row.removed_from)
    if row.path is not None:
        return display(f"inbox/{row.path}")
    # A duplicate that was deleted.
    return row.original_name if row.duplicate_of is None else f"the bytes of image {row.duplicate_of}"


def _line(cells: Sequence[str], room: int, width: int | None) -> str:
    """Return the columns of one image; what FILE has no room for is left out in its middle, of CAPTION the end."""
    number, *short, where, said = cells
    first = [number.rjust(_WIDTHS[0]), *(cell.ljust(width) for cell, width in zip(short, _WIDTHS[1:], strict=True))]
    if cell_len(where) > room:
        # The name is at the end.
        where = f"{set_cell_size(where, room // 2 - 1)}…{_end(where, room - room // 2)}"
    line = "  ".join([*first, set_cell_size(where, room), said]).rstrip()
    if width is None or cell_len(line) <= width:
        return line
    return f"{set_cell_size(line, width - 1).rstrip()}…"


def _end(text: str, size: int) -> str:
    return set_cell_size(text[::-1], size)[::-1]
