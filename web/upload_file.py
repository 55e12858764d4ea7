"""One upload on its way into the inbox: a hidden temporary there, then a visible name and a row.

The bytes are looked at, hashed and counted as they arrive. The temporary is made only once the first bytes are
those of an image, and whatever goes wrong before the acknowledgement removes it. All calls block: they belong into a
thread.
"""

import errno
import hashlib
import os
import random
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath
from typing import BinaryIO

from daemon.catalogue.schema import Upload
from daemon.decoding import formats
from daemon.errors import DarkroomError, DatabaseFull, DiskFull, EnvironmentFault, NameRefused
from daemon.files import atomic, names
from daemon.files.atomic import Entry, Location
from daemon.files.walk import is_junk
from daemon.filing import companions
from daemon.filing.recovery import UPLOAD_PREFIX
from web.context import ApiError, Context
from web.digests import ContentDigest
from web.models import UploadReceipt
from web.source_file import SourceFile

_MAX_NAME = 1000
# How often a folder is made that is removed each time, as empty, before the file is in it.
_TRIES = 10


class UploadedFile:
    """Receives one file. `discard` is always called at the end and removes what was not acknowledged."""

    def __init__(self, context: Context, source: SourceFile, digest: ContentDigest) -> None:
        """Take what the client says of the file, and the digest that its bytes must have."""
        self._context = context
        # Only the last component: a browser may send a path, and "..\\x.jpg" is no name.
        self.name = re.split(r"[/\\]", source.name.strip())[-1][:_MAX_NAME] or "upload"
        self._source = source
        self._head = b""
        self._format: formats.Format | None = None
        self._expected = digest
        self._hashes = digest.hashes() | {"sha-256": hashlib.sha256()}
        self._name = f"{UPLOAD_PREFIX}{secrets.token_hex(8)}"
        self._temporary: Entry | None = None
        self._file: BinaryIO | None = None
        self._stat: os.stat_result | None = None
        self._visible: Entry | None = None
        self._made: list[Location] = []
        self._refused = False
        self._acknowledged = False
        self.size = 0

    def write(self, block: bytes) -> None:
        """Write the next bytes. Raises ApiError: 415, 507, 503."""
        self.size += len(block)
        if self._format is None:
            self._head += block
            if len(self._head) < formats.HEAD_BYTES:
                return
            self._open()
        else:
            self._append(block)

    def close(self) -> None:
        """Make the bytes durable. Raises ApiError: 400 for an empty file or another digest, 415, 507, 503."""
        if self.size == 0:
            raise ApiError(400, f"{self.shown} is empty", "empty")
        if self._format is None:
            self._open()
        assert self._file is not None  # noqa: S101
        self._expected.check(self._hashes, self.shown)
        try:
            self._file.flush()
            if self._source.mtime_ns is not None:
                atomic.give_mtime(self._file.fileno(), self._source.mtime_ns)
            os.fsync(self._file.fileno())
            self._stat = os.fstat(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise self._refusal(error) from error

    def known(self) -> UploadReceipt | None:
        """Return the image that has these bytes already, filed or queued; None where none has."""
        return self._filed(self.sha256) or self._queued(self.sha256)

    def submit(self) -> UploadReceipt:
        """Queue the file; what this returns may be acknowledged.

        Raises ApiError: 409 where there can't be such a folder, 507, 503.
        """
        assert self._stat is not None  # noqa: S101
        upload = Upload(names.display(self.name), self.size, self._stat.st_mtime_ns, self.sha256)
        try:
            image_id = self._context.queue.upload(upload, self._names(), self._publish, time.time())
            assert self._visible is not None  # noqa: S101
            self._visible.fsync_folder()
        except OSError as error:
            raise self._refusal(error) from error
        except (DiskFull, DatabaseFull) as error:
            raise no_room() from error
        except EnvironmentFault as error:
            if self._refused and self._source.folder:
                raise self._no_such_folder() from error
            raise
        self._acknowledged = True
        return UploadReceipt(image_id=image_id, status="queued", sha256=self.sha256)

    def discard(self) -> None:
        """Remove what was not acknowledged."""
        if self._file is not None:
            # Flushing what is left fails again on a full disk; the descriptor is closed all the same.
            with suppress(OSError):
                self._file.close()
            self._file = None
            if not self._acknowledged:
                self._remove()
        for name in (self._temporary, self._visible):
            if name is not None:
                name.close()

    def _remove(self) -> None:
        for name in (self._temporary, self._visible):
            with suppress(OSError):
                if name is not None:
                    name.unlink()
        for folder in reversed(self._made):
            with suppress(OSError), folder.entry() as entry:
                entry.remove_folder()

    @property
    def sha256(self) -> str:
        """The hash of the bytes that have arrived so far."""
        return self._hashes["sha-256"].digest().hex()

    @property
    def shown(self) -> str:
        """The name as a message shows it."""
        return names.display(self.name)

    def _open(self) -> None:
        self._format = formats.sniff(self._head)
        if self._format is None:
            raise ApiError(415, f"{self.shown} is not an image that Darkroom can read, by its first bytes")
        if companions.parse(self.name) is not None:
            # A photo all the same, which must not wait for another one under that name.
            self.name = names.with_true_suffix(names.split(self.name)[0], self._format.suffixes)
        try:
            self._temporary = (self._context.inbox / self._name).entry()
            self._file = self._temporary.create()
        except OSError as error:
            raise self._refusal(error) from error
        self._append(self._head)
        self._head = b""

    def _append(self, block: bytes) -> None:
        assert self._file is not None  # noqa: S101
        for one in self._hashes.values():
            one.update(block)
        try:
            room = os.statvfs(self._context.inbox.path)
            if room.f_bavail * room.f_frsize - len(block) < self._context.min_free_bytes:
                raise no_room()
            self._file.write(block)
        except OSError as error:
            raise self._refusal(error) from error

    def _filed(self, sha256: str) -> UploadReceipt | None:
        found = self._context.queue.filed(sha256)
        if found is None:
            return None
        try:
            if atomic.size_of(self._context.roots["library"] / found[1]) != self.size:
                return None
        except OSError:  # a share that stutters: the photo is queued, and compared once it answers
            return None
        return UploadReceipt(image_id=found[0], status="done", sha256=sha256, duplicate=True)

    def _queued(self, sha256: str) -> UploadReceipt | None:
        """Return the same upload where it still waits: a phone that got no answer sends it again."""
        for image_id, path in self._context.queue.waiting_uploads(sha256):
            # The file may have been changed in the inbox since: only its bytes count.
            with suppress(OSError, DarkroomError):
                if atomic.sha256(self._context.inbox / path) == sha256:
                    return UploadReceipt(image_id=image_id, status="queued", sha256=sha256, duplicate=True)
        return None

    def _names(self) -> Iterator[str]:
        assert self._format is not None  # noqa: S101
        name = names.with_true_suffix(names.component(self.name), self._format.suffixes)
        if is_junk(name, self._context.ignore):
            name = "upload" + self._format.suffixes[0]
        path = PurePosixPath(self._source.folder, name)
        # A plainer name where the inbox's filesystem can't hold this one.
        for shape in dict.fromkeys([path, names.portable(path)]):
            self._refused = False
            # Telephones call every photo image.jpg: with thousands waiting, counting up would take ever longer.
            numbers = (number if number < 10 else random.randrange(10, 10_000_000) for number in range(1000))  # noqa: S311
            for number in numbers:
                yield str(names.numbered(shape, number))
                if self._refused:
                    break

    def _publish(self, path: str) -> None:
        try:
            self._visible = self._renamed(self._context.inbox / path)
        except NameRefused:
            self._refused = True
            raise
        except OSError as error:
            if error.errno in atomic.BAD_NAME:
                self._refused = True
                raise NameRefused(f"{path}: {error.strerror}") from error
            raise

    def _renamed(self, where: Location) -> Entry:
        """Give the file its name, in a folder that is made where need be. Raises OSError, EnvironmentFault."""
        assert self._temporary is not None  # noqa: S101
        for left in reversed(range(_TRIES)):
            visible = atomic.made(where, self._made.append)
            try:
                atomic.rename_exclusive(self._temporary, visible)
            except BaseException as error:
                visible.close()
                # What is filed leaves an empty folder behind, which is removed: this one, perhaps, a moment ago.
                if left and isinstance(error, FileNotFoundError) and where.parent.inside:
                    continue
                raise
            break
        return visible

    def _no_such_folder(self) -> ApiError:
        folder = names.display(self._source.folder)
        message = f"there can't be a folder {folder} in the inbox: a file, a link or a disk of its own has that name"
        return ApiError(409, f"{message}, or the inbox's disk can't hold it; name another folder", "bad_folder")

    def _refusal(self, error: OSError) -> ApiError:
        if error.errno in atomic.NO_ROOM:
            return no_room()
        if error.errno == errno.EXDEV:
            return self._no_such_folder()
        return ApiError(503, f"the inbox can't be written: {os.strerror(error.errno or 0)}")


def no_room() -> ApiError:
    """Return the refusal for a disk that is full."""
    return ApiError(507, "there is no room for this file on the disk of the inbox (min_free_mb counts, too)")
