"""List images, newest first."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from daemon.app import existing_catalogue
from daemon.catalogue import ImageRow
from daemon.catalogue.schema import Status
from daemon.catalogue.search import ImageQuery, Search
from daemon.config import Config
from daemon.files.names import display
from web.models import image_summary

_PAGE = 500


def main(config: Config, args: argparse.Namespace) -> int:
    """Print a line each, or one JSON document."""
    found = _matches(Search(existing_catalogue(config)), args.status, args.query, args.limit)
    if args.json:
        print(json.dumps([_document(row) for row in found], indent=2))
        return 0
    empty = True
    for row in found:
        print(_line(row))
        empty = False
    if empty:
        print("no images match", file=sys.stderr)
    return 0


def _matches(search: Search, status: Status | None, text: str | None, limit: int) -> Iterator[ImageRow]:
    # Names are kept as they are shown: what is no text in one is an escape.
    text, before = None if text is None else display(text), None
    while limit > 0:
        page = search.page(ImageQuery(status=status, text=text, before=before), min(limit, _PAGE))
        yield from page
        if len(page) < _PAGE:
            return
        limit -= len(page)
        before = page[-1].id


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


def _line(row: ImageRow) -> str:
    taken = (row.taken_at or "")[:10]
    where = f"{row.place}/{row.destination}" if row.destination else row.removed_from
    if where is None:
        where = f"inbox/{row.path}" if row.path else f"the bytes of image {row.duplicate_of}"
    line = f"{row.id:>7}  {row.status:<10} {taken:<10}  {display(where)}"
    remark = row.error or row.warning or (row.waiting_text if row.status == "queued" else None)
    return f"{line}  ({remark})" if remark else line
