"""Receives uploads: multipart forms and raw bodies, streamed into the inbox with flat memory."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from web.context import ApiError, Context, closing, failure, success
from web.digests import FIELD, ContentDigest, digest_of
from web.models import UploadReceipt
from web.multipart import Begin, Data, Multipart
from web.source_file import FIELDS, MAX_VALUE, SourceFile
from web.upload_file import UploadedFile

_log = logging.getLogger(__name__)

_BLOCK = 128 << 10
# What a form adds to its files: boundaries, the headers of the parts, other fields, what stands before and behind.
_FRAMING = 1 << 20
# The least that has to come in so many seconds of waiting; what is left of a body may be less.
_PACE_BYTES, _PACE_SECONDS = 64 << 10, 60.0
# Each holds a connection, a descriptor and a block of memory.
_AT_ONCE = 64
# An upload from which nothing has come for so long goes for a new one where there are that many.
_STALLED_SECONDS = 5.0
_STOP_SECONDS = 1.5
# A refused body is read on for a while: a connection closed in the middle of it may lose the answer.
_DRAIN_BYTES, _DRAIN_SECONDS = 32 << 20, 5.0


class UploadHandler:
    """The two routes that take files.

    Few threads write at a time, and one commits: sixteen clients wait for each other here, and not the rest of
    the program, or a health check, for them.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limit = context.upload_bytes
        self._writing = CapacityLimiter(4)
        self._committing = CapacityLimiter(1)
        self.arriving: set[_Arrival] = set()

    def stop(self) -> None:
        """Refuse what has not arrived within moments; on the event loop's thread."""
        asyncio.get_running_loop().call_later(_STOP_SECONDS, self._refuse_rest)

    def _refuse_rest(self) -> None:
        for arrival in list(self.arriving):
            arrival.refuse("darkroom is stopping; send this again later")

    async def post(self, request: Request) -> Response:
        """Queue the `file` parts of a form, or a raw body with its name in `?name=`.

        `folder` and `mtime` are fields before the `file` parts that they are of, or in the query.
        """
        return await self._queued(request, request.query_params.get("name", ""))

    async def put(self, request: Request) -> Response:
        """Queue a raw body under the name in the path, as `curl -T` sends it."""
        return await self._queued(request, str(request.path_params["image_id"]))

    async def share(self, request: Request) -> Response:
        """Queue what another app has shared with this one; lead to the sheet, which says what was taken."""
        receipts = await self._receive(request, "")
        known = sum(receipt.duplicate for receipt in receipts)
        counted = {"shared": len(receipts) - known, "known": known}
        return RedirectResponse(f"/?{urlencode({key: n for key, n in counted.items() if n})}", 303)

    async def _queued(self, request: Request, name: str) -> Response:
        answer = _answer(await self._receive(request, name))
        if FIELD in request.headers:
            # RFC 9530, 2: in an answer it is of the answer's own content. What was stored is told by its `sha256`.
            answer.headers[FIELD] = digest_of(bytes(answer.body))
        return answer

    async def _receive(self, request: Request, name: str) -> list[UploadReceipt]:
        uploads: list[UploadedFile] = []
        chunks = request.stream()
        try:
            self._check_announced(request)
            given = {key: request.query_params[key] for key in FIELDS if key in request.query_params}
            source = SourceFile.of(name, given, self._context.ignore)
            digest = ContentDigest(request.headers.getlist(FIELD))
            with self._arrival() as arrival:
                body = self._counted(arrival.paced(chunks))
                if request.headers.get("content-type", "").lower().startswith("multipart/"):
                    await self._form(request, self._checked(body, digest), given, uploads)
                else:
                    await self._raw(body, source, digest, uploads)
            receipts = [await self._queue(upload) for upload in uploads]
        except ApiError as error:
            if error.status in {408, 503} or not await _drain(request, chunks):
                closing(error)
            raise
        finally:
            for upload in uploads:
                await to_thread.run_sync(upload.discard, limiter=self._writing)
        for upload, receipt in zip(uploads, receipts, strict=True):
            _log.debug("image %d: uploaded %s", receipt.image_id, upload.shown)
        return receipts

    def refusal(self) -> Response | None:
        """Return what one more upload is told where there is no place for it, and nobody who stalls."""
        if len(self.arriving) < _AT_ONCE or self._stalled() is not None:
            return None
        error = closing(_busy())
        return failure(error.status, error.code, str(error), error.headers)

    def _stalled(self) -> "_Arrival | None":
        longest = max(self.arriving, key=lambda one: one.stalled_seconds)
        return longest if longest.stalled_seconds >= _STALLED_SECONDS else None

    @contextmanager
    def _arrival(self) -> Iterator["_Arrival"]:
        """Count an upload for as long as it arrives. Raises ApiError 503 where it is one too many, or has to go."""
        if len(self.arriving) >= _AT_ONCE:
            if (stalled := self._stalled()) is None:
                raise _busy()
            self.arriving.discard(stalled)
            stalled.refuse(f"nothing came for {_STALLED_SECONDS:.0f} seconds, and others wait; send this again later")
        with anyio.CancelScope() as scope:
            arrival = _Arrival(scope)
            self.arriving.add(arrival)
            try:
                yield arrival
            finally:
                self.arriving.discard(arrival)
        if scope.cancelled_caught:
            raise ApiError(503, arrival.refusal)

    async def _counted(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield a body's chunks. Raises ApiError 413 where they are too many, whatever they are parts of."""
        left = self._limit + _FRAMING
        async for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise self._too_large()
            yield chunk

    def _check_announced(self, request: Request) -> None:
        announced = request.headers.get("content-length", "")
        if not announced.isdecimal():
            return
        if int(announced) > self._limit + _FRAMING:
            raise self._too_large()

    async def _checked(self, chunks: AsyncIterator[bytes], digest: ContentDigest) -> AsyncIterator[bytes]:
        """Yield a form's chunks. Raises ApiError 400 at its end where it has another digest."""
        hashes = digest.hashes()
        async for chunk in chunks:
            for one in hashes.values():
                await to_thread.run_sync(one.update, chunk, limiter=self._writing)
            yield chunk
        digest.check(hashes, "the form")

    async def _form(
        self, request: Request, body: AsyncIterator[bytes], given: dict[str, str], uploads: list[UploadedFile]
    ) -> None:
        """Receive a form; `given` is what the query says of each file of which no field says anything."""
        parser = Multipart(request.headers["content-type"])
        fields, left = dict(given), self._limit
        current: _BlockWriter | _Field | None = None
        async for chunk in body:
            for event in parser.feed(chunk):
                if isinstance(event, Begin):
                    current = None
                    if event.field == "file":
                        source = SourceFile.of(event.filename or "", fields, self._context.ignore)
                        current = self._writer(source, ContentDigest(event.digests), uploads)
                    elif event.field in FIELDS:
                        current = _Field(event.field, fields)
                elif isinstance(event, Data):
                    left -= len(event.block)
                    if left < 0:
                        raise self._too_large()
                    if current is not None:
                        await current.write(event.block)
                elif current is not None:
                    await current.close()
                    current = None
        if not parser.complete:
            raise ApiError(400, "malformed multipart body: it ends before its last boundary")
        if not uploads:
            raise ApiError(400, "no part is named `file`; send the image in a form field of that name", "missing_file")

    async def _raw(
        self, body: AsyncIterator[bytes], source: SourceFile, digest: ContentDigest, uploads: list[UploadedFile]
    ) -> None:
        left = self._limit
        writer = self._writer(source, digest, uploads)
        async for chunk in body:
            left -= len(chunk)
            if left < 0:
                raise self._too_large()
            await writer.write(chunk)
        await writer.close()

    async def _queue(self, upload: UploadedFile) -> UploadReceipt:
        # Looking for the same bytes may read a large file: that must not hold up the commits of others.
        known = await to_thread.run_sync(upload.known, limiter=self._writing)
        return known if known is not None else await to_thread.run_sync(upload.submit, limiter=self._committing)

    def _writer(self, source: SourceFile, digest: ContentDigest, uploads: list[UploadedFile]) -> "_BlockWriter":
        upload = UploadedFile(self._context, source, digest)
        uploads.append(upload)
        return _BlockWriter(upload, self._writing)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"larger than {self._limit // 1_000_000} MB, the limit of an upload (upload_mb, file_mb)")


@dataclass(eq=False)
class _Arrival:
    """One upload that is arriving: for how long it is waited for, and what its client is told where it has to go."""

    scope: anyio.CancelScope
    refusal: str = ""
    _waiting_since: float | None = None

    @property
    def stalled_seconds(self) -> float:
        return 0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since

    def refuse(self, message: str) -> None:
        self.refusal = message
        self.scope.cancel()

    async def paced(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield a body's chunks. Raises ApiError 408 for a client that keeps us waiting.

        Only the time counts that is spent waiting for it: how fast the disk takes what comes is not its fault.
        """
        patience, wanted = _PACE_SECONDS, _PACE_BYTES
        while True:
            self._waiting_since = began = time.monotonic()
            try:
                with anyio.fail_after(patience):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                slow = f"less than {_PACE_BYTES >> 10} KiB came in {_PACE_SECONDS:.0f} seconds"
                raise ApiError(408, f"{slow}; send this again over a better connection") from None
            finally:
                self._waiting_since = None
            patience, wanted = patience - (time.monotonic() - began), wanted - len(chunk)
            if wanted <= 0:
                patience, wanted = _PACE_SECONDS, _PACE_BYTES
            if chunk:
                yield chunk


def _busy() -> ApiError:
    error = ApiError(503, f"{_AT_ONCE} uploads are arriving already; send this again in a moment")
    error.headers["Retry-After"] = "2"
    return error


class _Field:
    """Takes the value of a small field into `fields`. Raises ApiError 400 where it is not small, or no UTF-8."""

    def __init__(self, name: str, fields: dict[str, str]) -> None:
        self._name, self._fields = name, fields
        self._value = b""

    async def write(self, chunk: bytes) -> None:
        self._value += chunk
        if len(self._value) > MAX_VALUE:
            raise ApiError(400, f"the field {self._name} is longer than {MAX_VALUE:,} bytes", f"bad_{self._name}")

    async def close(self) -> None:
        try:
            self._fields[self._name] = self._value.decode()
        except UnicodeDecodeError:
            raise ApiError(400, f"the field {self._name} is not UTF-8", f"bad_{self._name}") from None


class _BlockWriter:
    """Gathers a file's chunks into blocks that are worth a thread."""

    def __init__(self, upload: UploadedFile, limiter: CapacityLimiter) -> None:
        self._upload = upload
        self._limiter = limiter
        self._chunks: list[bytes] = []
        self._size = 0

    async def write(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size >= _BLOCK:
            await to_thread.run_sync(self._upload.write, self._take(), limiter=self._limiter)

    async def close(self) -> None:
        await to_thread.run_sync(self._finish, self._take(), limiter=self._limiter)

    def _finish(self, block: bytes) -> None:
        self._upload.write(block)
        self._upload.close()

    def _take(self) -> bytes:
        block = b"".join(self._chunks)
        self._chunks, self._size = [], 0
        return block


async def _drain(request: Request, chunks: AsyncIterator[bytes]) -> bool:
    """Read on what a refused client is still sending, within bounds; return whether that was all of it."""
    if request.headers.get("expect", "").lower() == "100-continue":
        return False  # it asks first, and has sent nothing yet
    left = _DRAIN_BYTES
    with anyio.move_on_after(_DRAIN_SECONDS):
        try:
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return False
        except (ClientDisconnect, RuntimeError):
            return False
        return True
    return False


def _answer(receipts: list[UploadReceipt]) -> Response:
    status = 200 if all(receipt.status == "done" for receipt in receipts) else 202
    if len(receipts) > 1:
        return success(receipts, status)
    return success(receipts[0], status, {"Location": f"/api/images/{receipts[0].image_id}"})
