"""Serves thumbnails and originals: cached by their hash, originals with ranges."""

import os
import stat
from pathlib import Path
from typing import Any, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, MalformedRangeHeader, RangeNotSatisfiable, Response

from daemon.catalogue.search import Search
from daemon.decoding import formats
from daemon.files.names import component, split
from daemon.filing.thumbnail_store import SIZES, Size
from web.api import image_id, no_image
from web.context import ApiError, Context
from web.models import READY

_MIMES = {kind.name: kind.mime for kind in vars(formats).values() if isinstance(kind, formats.Format)}
_FOREVER = "private, max-age=31536000, immutable"


class _File(FileResponse):
    """A file whose refused ranges are answered like every other error."""

    chunk_size = 1 << 20

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader as error:
            raise ApiError(400, "the Range header is malformed") from error
        except RangeNotSatisfiable as error:
            refusal = ApiError(416, f"the file has {file_size} bytes")
            refusal.headers["Content-Range"] = f"bytes */{file_size}"
            raise refusal from error


class Files:
    """The handlers of files."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._search = Search(context.catalogue)

    async def thumbnail(self, request: Request) -> Response:
        """Serve one of the two thumbnails of an image."""
        size = request.path_params["size"]
        if size not in SIZES:
            raise ApiError(400, f"the sizes are {' and '.join(SIZES)}", "unknown_size")
        number = image_id(request)
        row, file = await run_in_threadpool(self._thumbnail, number, cast("Size", size))
        headers = {"ETag": f'"{row["sha256"]}-{size}"', "Cache-Control": _FOREVER}
        return _conditional(request, headers) or _File(
            file[0], headers=headers, media_type="image/jpeg", stat_result=file[1]
        )

    async def original(self, request: Request) -> Response:
        """Serve the bytes as they were filed."""
        number = image_id(request)
        row, (file, info) = await run_in_threadpool(self._original, number)
        # Not the hash alone: the owner may edit a file in the library, and a range of it is then another.
        tag = f'"{row["sha256"]}-{info.st_size:x}-{info.st_mtime_ns:x}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        unchanged = _conditional(request, headers)
        if unchanged is not None:
            return unchanged
        return _File(
            file,
            headers=headers,
            media_type=_MIMES.get(row["format"], "application/octet-stream"),
            filename=_filename(row),
            stat_result=info,
        )

    def _thumbnail(self, number: int, size: Size) -> tuple[dict[str, Any], tuple[Path, os.stat_result]]:
        row = self._row(number)
        found = None
        if row["status"] in READY and row["sha256"]:
            found = _regular(self._context.thumbnails.path(row["sha256"], size))
        if found is None:
            raise ApiError(404, f"image {number} has no thumbnail (yet): it is {row['status']}", "not_ready")
        return row, found

    def _original(self, number: int) -> tuple[dict[str, Any], tuple[Path, os.stat_result]]:
        row = self._row(number)
        found = self._placed(row)
        if found is None and row["duplicate_of"] is not None:
            # The copy was deleted: these are its very bytes.
            twin = self._search.image(row["duplicate_of"])
            found = self._placed(twin) if twin is not None and twin["sha256"] == row["sha256"] else None
        if found is None:
            raise ApiError(404, f"image {number} has no filed original: it is {row['status']}", "not_ready")
        return row, found

    def _placed(self, row: dict[str, Any]) -> tuple[Path, os.stat_result] | None:
        if row["status"] in {"queued", "processing"} or not row["destination"]:
            return None
        return _regular(self._context.roots[row["place"]] / row["destination"])

    def _row(self, number: int) -> dict[str, Any]:
        row = self._search.image(number)
        if row is None:
            raise no_image(number)
        return row


def _regular(file: Path) -> tuple[Path, os.stat_result] | None:
    """Look at a file; None for what is missing and for links, which lead anywhere."""
    try:
        info = file.lstat()
    except OSError:
        return None
    return (file, info) if stat.S_ISREG(info.st_mode) else None


def _conditional(request: Request, headers: dict[str, str]) -> Response | None:
    """Answer 304 where the client has these bytes; Starlette's FileResponse never does."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    return None


def _filename(row: dict[str, Any]) -> str:
    """Name a download: as it came, with the suffix that it was filed with."""
    suffix = split(Path(row["destination"] or "").name)[1]
    name = component(row["original_name"])
    stem = split(name)[0]
    return name if not suffix or name.lower().endswith(suffix.lower()) else component(stem + suffix)
