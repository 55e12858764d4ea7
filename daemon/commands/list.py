"""List images, newest first."""

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Any

from daemon.catalogue import Catalogue
from daemon.catalogue.stats import Statistics
from daemon.config import Config
from daemon.files.names import display


def main(config: Config, args: argparse.Namespace) -> int:
    """Print a line each, or one JSON document."""
    file = config.folders.state / "darkroom.db"
    rows: list[dict[str, Any]] = []
    if file.is_file():
        # Names are kept as they are shown: what is no text in one is an escape.
        query = None if args.query is None else display(args.query)
        rows = list(Statistics(Catalogue(file)).images(args.status, query, args.limit))
    if args.json:
        print(json.dumps([_document(row) for row in rows], indent=2))
        return 0
    for row in rows:
        print(_line(row))
    if not rows:
        print("no images match", file=sys.stderr)
    return 0


def _document(row: dict[str, Any]) -> dict[str, Any]:
    times = {key: _iso(row[key]) for key in ("created_at", "processed_at")}
    kept = (
        "status original_name error warning waiting attempts size_bytes sha256 format width height"
        " taken_at taken_from camera_make camera_model place destination duplicate_of"
    ).split()
    return {"image_id": row["id"], **times, **{key: row[key] for key in kept}, "inbox_path": row["path"]}


def _line(row: dict[str, Any]) -> str:
    taken = (row["taken_at"] or "")[:10]
    where = f"{row['place']}/{row['destination']}" if row["destination"] else f"inbox/{row['path']}"
    line = f"{row['id']:>7}  {row['status']:<10} {taken:<10}  {display(where)}"
    remark = row["error"] or row["warning"] or (row["waiting"] if row["status"] == "queued" else None)
    return f"{line}  ({remark})" if remark else line


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
