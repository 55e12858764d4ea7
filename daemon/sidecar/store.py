"""Writes `NAME.EXT.xmp` beside each filed photo: what Darkroom knows of it, readable by every photo program.

A sidecar is Darkroom's own file and can be written anew at any time from the row, the XMP files that came with the
photo, and what other programs have added to it since. It is never written over anybody else's file.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from daemon import disk
from daemon.catalogue.captions import Words, together
from daemon.catalogue.sidecars import SidecarRows
from daemon.errors import NameRefused
from daemon.sidecar import xmp
from daemon.sidecar.fields import NAMESPACE, compose, facts

_log = logging.getLogger(__name__)

_CAPTION_COLUMNS = (
    *("caption", "keywords", "title", "visible_text", "caption_status", "caption_model", "caption_prompt"),
    *("tokens_in", "tokens_out", "captioned_at", "edited", "edited_at"),
)


class Sidecars:
    """The sidecars of one library; any thread may call it. Switched off, it does nothing."""

    def __init__(self, rows: SidecarRows, library: Path, *, enabled: bool = True) -> None:
        self._rows = rows
        self._library = library
        self._enabled = enabled
        # Two threads may have news of one image: the filing of its companion and an edit.
        self._lock = threading.Lock()

    def write(self, image_id: int) -> None:
        """Bring one image's sidecar up to date. Raises EnvironmentFault."""
        with self._lock:
            row = self._rows.row(image_id)
            if row is None:
                return
            photo = self._library / row["destination"]
            # A photo that its owner has moved away gets no sidecar where it was.
            if self._enabled and disk.size_of(photo) is not None:
                refusal = self._write(row, path_beside(photo), time.time())
                if refusal is not None:
                    self.give_up(image_id, refusal)
                    return
            if row["sidecar_due"]:
                self._rows.written(image_id, row["sidecar_due"])

    def give_up(self, image_id: int, reason: str) -> None:
        """Note that an image's sidecar can't be written, and why; the next change of the image tries again."""
        _log.warning("image %d: no sidecar: %s", image_id, reason)
        self._rows.skipped(image_id, reason, time.time())

    def record(self, image_id: int, photo: Path) -> None:
        """Write beside a duplicate what the catalogue would be made anew from; no name is taken from another file."""
        row = self._rows.duplicate(image_id) if self._enabled else None
        if row is None:
            return
        path = path_beside(photo)
        content = compose(row, None, (), time.time()).serialize()
        # Where the filesystem can't hold the longer name there is no sidecar.
        with suppress(FileExistsError, NameRefused):
            disk.write_whole(path, path.with_name(f".darkroom-{image_id}.xmp.part"), content)

    def _write(self, row: dict[str, Any], path: Path, now: float) -> str | None:
        """Write a row's sidecar; returns why it can't be, for people."""
        try:
            old = path.read_bytes() if os.path.lexists(path) else None
            existing = None if old is None else xmp.Packet.parse(old)
        except (OSError, xmp.Malformed) as error:
            return f"{path.name} is there already and can't be read: {error}"
        if existing is not None and existing.text(NAMESPACE, "SHA256") != row["sha256"]:
            return f"{path.name} is there already and is not Darkroom's"
        came = self._came_with(row["id"])
        row = self._learn(row, existing, came, now)
        content = compose(row, existing, came, now).serialize()
        if content == old:
            return None
        temporary = path.with_name(f".darkroom-{row['id']}.xmp.part")
        try:
            with disk.blaming(str(path)):
                _replace(path, temporary, content, new=old is None)
        except FileExistsError:
            return f"{path.name} has just been made by another program"
        except NameRefused as refused:
            return str(refused)
        return None

    def _came_with(self, image_id: int) -> list[xmp.Packet]:
        """Read the XMP files that came with a photo; one that makes no sense stays beside it and is passed over."""
        packets = []
        for name in self._rows.packets(image_id):
            try:
                packets.append(xmp.Packet.parse((self._library / name).read_bytes()))
            except (OSError, xmp.Malformed) as error:
                _log.warning("image %d: %s is kept, but its fields can't be taken over: %s", image_id, name, error)
        return packets

    def _learn(
        self, row: dict[str, Any], existing: xmp.Packet | None, came: list[xmp.Packet], now: float
    ) -> dict[str, Any]:
        """Take a person's words out of XMP into the catalogue, and a caption that the catalogue has lost."""
        image_id = row["id"]
        known = facts(existing) if existing is not None else {}
        if known.get("caption_status") == "done" and row["captioned_at"] is None and not row["edited"]:
            self._rows.restore(image_id, {name: known.get(name) for name in _CAPTION_COLUMNS}, now)
            row = self._rows.row(image_id) or row
        words, edited = _words(row, existing, known, came)
        if words != Words() or edited != (row["edited"] or ""):
            self._rows.adopt(image_id, words, edited, now)
            row = self._rows.row(image_id) or row
        return row


def path_beside(photo: Path) -> Path:
    """Name a photo's sidecar, as darktable and digiKam do: with the photo's whole name."""
    return photo.with_name(photo.name + ".xmp")


def _words(
    row: Mapping[str, Any], existing: xmp.Packet | None, known: Mapping[str, Any], came: list[xmp.Packet]
) -> tuple[Words, str]:
    """Find a person's words that the row does not have, and which of them no model may change from now on.

    What is not what Darkroom wrote into its sidecar, somebody wrote there with another program. Keywords that came
    with the photo are found anew each time, so that a model's may join them.
    """
    edited = row["edited"] or ""
    caption = title = None
    keywords: list[str] = []
    if existing is not None:
        theirs = existing.text(xmp.DC, "description")
        if theirs != known.get("caption") and ("caption" not in edited or row["caption"] == known.get("caption")):
            caption = theirs
        keywords = [word for word in existing.texts(xmp.DC, "subject") if word not in (known.get("keywords") or [])]
        theirs = existing.text(xmp.DC, "title")
        title = theirs if theirs != known.get("title") else None
    written = bool(keywords)
    for packet in came:
        if "caption" not in edited:
            caption = caption or packet.text(xmp.DC, "description")
        if "keywords" not in edited:
            keywords += packet.texts(xmp.DC, "subject")
        title = title or row["title"] or packet.text(xmp.DC, "title")
    all_keywords = list(dict.fromkeys([*keywords, *(row["keywords"] or [])]))
    words = Words(
        caption=caption if caption and caption != row["caption"] else None,
        keywords=all_keywords if set(all_keywords) != set(row["keywords"] or []) else None,
        title=title if title and title != row["title"] else None,
    )
    return words, together(row["edited"], [*(["caption"] if caption else []), *(["keywords"] if written else [])])


def _replace(path: Path, temporary: Path, content: bytes, *, new: bool) -> None:
    try:
        with temporary.open("wb") as out:
            out.write(content)
            # Without this a power cut can leave an empty file under the new name.
            out.flush()
            os.fdatasync(out.fileno())
        if new:
            disk.rename_exclusive(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
