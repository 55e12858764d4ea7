"""Rows as the API shows them: the field names of the contract, times in UTC, nothing of this machine's disk."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from daemon.catalogue.reports import Stats
from daemon.names import display
from web.site import Site

READY = ("done", "duplicate")


def moment(seconds: float | None) -> str | None:
    """Write seconds since 1970 as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def summary(site: Site, row: Mapping[str, Any]) -> dict[str, Any]:
    """Give an image as lists show it."""
    filed = row["place"] == "library" and row["status"] == "done"
    return {
        "image_id": row["id"],
        "original_name": row["original_name"],
        "status": row["status"],
        "error": _scrubbed(site, row["error"]),
        "waiting": _scrubbed(site, row["waiting"]),
        "source": row["source"],
        "created_at": moment(row["created_at"]),
        "processed_at": moment(row["processed_at"]),
        "taken_at": row["taken_at"],
        "caption": row["caption"],
        "caption_status": row["caption_status"],
        "title": row["title"],
        "keywords": row["keywords"] or [],
        "duplicate_of": row["duplicate_of"],
        "library_path": display(row["destination"]) if filed and row["destination"] else None,
        "thumbnails": _thumbnails(row),
        "metadata": _metadata(row),
    }


def detail(site: Site, row: Mapping[str, Any], raw: Mapping[str, Any], history: list[dict[str, Any]]) -> dict[str, Any]:
    """Give all of an image."""
    shown = summary(site, row)
    shown["metadata"]["exif"]["raw"] = raw
    shown["warning"] = _scrubbed(site, row["warning"])
    shown["visible_text"] = row["visible_text"]
    shown["history"] = [
        {"at": moment(line["at"]), "event": line["event"], "detail": site.scrub(line["detail"])} for line in history
    ]
    return shown


def stats(site: Site, now: Stats, captions: Mapping[str, int]) -> dict[str, Any]:
    """Give the counts; the rate is in images a second."""
    return {
        "total": now.total,
        **{status: now.counts[status] for status in ("queued", "processing", "done", "duplicate", "failed")},
        "avg_processing_time_ms": now.avg_processing_time_ms,
        "rate": round(now.rate, 3),
        "seconds_left": now.seconds_left,
        "captions": captions,
        "captions_progress": site.scrub(site.captions_line()),
        "paused": _scrubbed(site, now.paused),
        "paused_since": moment(now.paused_since),
        "waiting": {site.scrub(reason): n for reason, n in now.waiting.items()},
    }


def event(site: Site, line: Mapping[str, Any]) -> dict[str, Any]:
    """Give one line of the event stream."""
    return {
        "image_id": line["image_id"],
        "at": moment(line["at"]),
        "event": line["event"],
        "detail": site.scrub(line["detail"]),
        "status": line["status"],
    }


def _thumbnails(row: Mapping[str, Any]) -> dict[str, str | None]:
    base = f"/api/images/{row['id']}/thumbnails"
    ready = row["status"] in READY
    return {size: f"{base}/{size}" if ready else None for size in ("small", "medium")}


def _metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    exif = {
        key: row[key]
        for key in (
            *("camera_make", "camera_model", "datetime_original", "lens_model", "iso", "focal_length"),
            *("exposure_time", "f_number", "orientation"),
        )
    }
    place = None if row["lat"] is None or row["lon"] is None else {"lat": row["lat"], "lon": row["lon"]}
    return {
        "width": row["width"],
        "height": row["height"],
        "format": row["format"],
        "size_bytes": row["size_bytes"],
        "exif": {**exif, "gps": place},
    }


def _scrubbed(site: Site, text: str | None) -> str | None:
    return None if text is None else site.scrub(text)
