"""Serves thumbnails and originals: cached by their hash, originals with ranges."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import cast

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from daemon.catalogue import ImageRow
from daemon.catalogue.search import Search
from daemon.decoding import formats
from daemon.errors import DarkroomError, EnvironmentFault
from daemon.files.atomic import Location, by_descriptor
from daemon.files.names import component, split
from daemon.files.opening import open_regular
from daemon.filing.thumbnail_store import SIZES, Size
from web.api import image_id, no_image
from web.context import ApiError, Context, failure
from web.models import READY

_MIMES = {kind.name: kind.mime for kind in vars(formats).values() if isinstance(kind, formats.Format)}
_FOREVER = "private, max-age=31536000, immutable"


class _File(FileResponse):
    """A file whose refused ranges are answered like every other error."""

    chunk_size = 1 << 20
    # The descriptor by which it was opened; whatever its name has come to mean, these bytes are sent.
    held: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, a range of it, or why there is none."""
        try:
            await self._send(scope, receive, send)
        finally:
            if self.held is not None:
                os.close(self.held)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: Response | None = None
        if not Headers(scope=scope).get("range", "bytes=").lower().lstrip().startswith("bytes="):
            # RFC 9110, 14.2: a unit that is not understood is ignored; Starlette refuses it.
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"range"]}

        async def unless_refused(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start":
                refusal = self._refusal(message)
            if refusal is None:
                await send(message)

        await super().__call__(scope, receive, unless_refused)
        if refusal is not None:
            await refusal(scope, receive, send)

    def _refusal(self, message: Message) -> Response | None:
        """Return our answer in place of Starlette's plain text, which has the two statuses for ranges alone."""
        match message["status"]:
            case 400:
                return failure(400, "bad_request", "the Range header is malformed")
            case 416:
                allowed = Headers(raw=message["headers"])["content-range"]
                size = allowed.rpartition("/")[2]
                return failure(416, "bad_range", f"the file has {size} bytes", {"Content-Range": allowed})
        return None


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
        row, (file, info) = await run_in_threadpool(self._thumbnail, number, cast("Size", size))
        headers = {"ETag": f'"{row.sha256}-{size}"', "Cache-Control": _FOREVER}
        return _unchanged(request, headers) or _File(file, headers=headers, media_type="image/jpeg", stat_result=info)

    async def original(self, request: Request) -> Response:
        """Serve the bytes as they were filed."""
        number = image_id(request)
        row, (held, file, info) = await run_in_threadpool(self._original, number)
        # Not the hash alone: the owner may edit a file in the library, and a range of it is then another.
        tag = f'"{row.sha256}-{info.st_size:x}-{info.st_mtime_ns:x}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if (unchanged := _unchanged(request, headers)) is not None:
            os.close(held)
            return unchanged
        mime = _MIMES.get(row.format or "", "application/octet-stream")
        response = _File(file, headers=headers, media_type=mime, filename=_filename(row), stat_result=info)
        response.held = held
        return response

    async def sidecar(self, request: Request) -> Response:
        """Serve what lies beside a filed photo for other programs."""
        number = image_id(request)
        held, file, info, name = await run_in_threadpool(self._sidecar, number)
        headers = {"ETag": f'"{info.st_size:x}-{info.st_mtime_ns:x}"', "Cache-Control": "private, no-cache"}
        if (unchanged := _unchanged(request, headers)) is not None:
            os.close(held)
            return unchanged
        response = _File(file, headers=headers, media_type="application/rdf+xml", filename=name, stat_result=info)
        response.held = held
        return response

    def _sidecar(self, number: int) -> tuple[int, Path, os.stat_result, str]:
        row = self._row(number)
        found = None
        if row.status == "done" and row.place == "library" and row.destination:
            found = self._opened(self._context.roots["library"] / f"{row.destination}.xmp")
        if found is None:
            raise ApiError(404, f"image {number} has no sidecar: it is {row.status}", "not_ready")
        return *found, f"{_filename(row)}.xmp"

    def _thumbnail(self, number: int, size: Size) -> tuple[ImageRow, tuple[Path, os.stat_result]]:
        row = self._row(number)
        found = None
        # Of a failed one, too, that was filed once.
        if (row.status in READY or row.status == "failed") and row.sha256:
            found = _thumbnail(self._context.thumbnails.path(row.sha256, size))
        if found is None and row.status in READY and row.width is None:
            raise ApiError(404, f"image {number} has no thumbnail: nothing here decodes its kind", "no_thumbnail")
        if found is None:
            raise ApiError(404, f"image {number} has no thumbnail (yet): it is {row.status}", "not_ready")
        return row, found

    def _original(self, number: int) -> tuple[ImageRow, tuple[int, Path, os.stat_result]]:
        row = self._row(number)
        found = self._placed(row)
        if row.status == "done" and not _is_as_filed(row, found):
            # Its owner has edited, moved or deleted it: the catalogue follows.
            if found is not None:
                os.close(found[0])
            with suppress(EnvironmentFault):
                self._context.look(number)
            row = self._row(number)
            found = self._placed(row)
        if found is None and row.duplicate_of is not None:
            # The copy was deleted: these are its very bytes.
            twin = self._search.image(row.duplicate_of)
            found = self._placed(twin) if twin is not None and twin.sha256 == row.sha256 else None
        if found is None:
            raise ApiError(404, f"image {number} has no filed original: it is {row.status}", "not_ready")
        return row, found

    def _placed(self, row: ImageRow) -> tuple[int, Path, os.stat_result] | None:
        if row.status in {"queued", "processing"} or row.place is None or not row.destination:
            return None
        return self._opened(self._context.roots[row.place] / row.destination)

    def _opened(self, file: Location) -> tuple[int, Path, os.stat_result] | None:
        try:
            held = open_regular(file)
        except DarkroomError:  # missing, or a link, which leads anywhere
            return None
        return held, by_descriptor(held, file.path), os.fstat(held)

    def _row(self, number: int) -> ImageRow:
        row = self._search.image(number)
        if row is None:
            raise no_image(number)
        return row


def _is_as_filed(row: ImageRow, found: tuple[int, Path, os.stat_result] | None) -> bool:
    return found is not None and (found[2].st_size, found[2].st_mtime_ns) == (row.size_bytes, row.mtime_ns)


def _thumbnail(file: Path) -> tuple[Path, os.stat_result] | None:
    """Return a file of our own with its stat; None for what is missing."""
    try:
        info = file.lstat()
    except OSError:
        return None
    return (file, info) if stat.S_ISREG(info.st_mode) else None


def _unchanged(request: Request, headers: dict[str, str]) -> Response | None:
    """Return a 304 where the client has these bytes, else None; Starlette's FileResponse never does."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    return None


def _filename(row: ImageRow) -> str:
    """Return the name of a download: as it came, with the suffix that it was filed with."""
    suffix = split(Path(row.destination or "").name)[1]
    name = component(row.original_name)
    stem = split(name)[0]
    return name if not suffix or name.lower().endswith(suffix.lower()) else component(stem + suffix)
