"""What happened to images: the histories, one by one and as one feed, and the sentences made of their codes."""

from collections.abc import Sequence
from dataclasses import dataclass

from peewee import fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import Cause, Event, EventKind, Final, Image, ImageEvent, ImageRow
from daemon.errors import WaitingReason
from daemon.files.names import display


@dataclass(frozen=True)
class Outcome:
    """One image that became final: the event, and the image's row as it is now, None where it is gone since."""

    event: ImageEvent
    row: ImageRow | None


# What says how a file came whose name has bytes that are no UTF-8: a row keeps what `display` makes of a name, its
# history the name itself.
CAME_UNDECODABLE = Event.kind.in_([EventKind.QUEUED, EventKind.RENAMED]) & (fn.TYPEOF(Event.path) == "blob")


class History:
    """The events in the order in which they were written; numbers only grow. Reads only; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def of(self, image_id: int) -> list[ImageEvent]:
        """Return what happened to an image, oldest first."""
        with self._catalogue.reading():
            return [
                ImageEvent(**row.__data__)
                for row in Event.select().where(Event.image_id == image_id).order_by(Event.id)
            ]

    def undecodable_path(self, shown: str) -> str | None:
        """Return the path of the inbox with bytes that are no UTF-8 which rows have as `shown`; None where none is."""
        if r"\udc" not in shown:
            return None
        with self._catalogue.reading():
            paths = [row.path for row in Event.select(Event.path).where(CAME_UNDECODABLE).order_by(Event.id.desc())]
        return next((path for path in paths if display(path) == shown), None)

    def last(self) -> int:
        """Return the number of the newest event, 0 where there is none."""
        with self._catalogue.reading():
            return int(Event.select(fn.MAX(Event.id)).scalar() or 0)

    def after(self, number: int, limit: int) -> list[tuple[ImageEvent, str | None]]:
        """Return the events that follow a number, oldest first, each with the status that its image has now."""
        with self._catalogue.reading():
            events = [
                ImageEvent(**row.__data__)
                for row in Event.select().where(Event.id > number).order_by(Event.id).limit(limit)
            ]
            ids = {event.image_id for event in events}
            status = {row.id: row.status for row in Image.select(Image.id, Image.status).where(Image.id.in_(ids))}
        return [(event, status.get(event.image_id)) for event in events]

    def outcomes(self, number: int, kinds: Sequence[Final], limit: int) -> list[Outcome]:
        """Return the next outcomes of some kinds, oldest first."""
        wanted = (Event.id > number) & Event.kind.in_(list(kinds))
        with self._catalogue.reading():
            events = [
                ImageEvent(**row.__data__) for row in Event.select().where(wanted).order_by(Event.id).limit(limit)
            ]
            ids = {event.image_id for event in events}
            rows = {row.id: ImageRow(**row.__data__) for row in Image.select().where(Image.id.in_(ids))}
        return [Outcome(event, rows.get(event.image_id)) for event in events]


def sentence(event: ImageEvent) -> str:
    """Return an event in words, for people."""
    path, text = display(event.path or ""), event.text or ""
    filed = f"{event.place}/{path}"
    match event.kind:
        case EventKind.QUEUED:
            return {
                Cause.FOUND: f"found in the inbox as {path}",
                Cause.UPLOADED: f"uploaded as {path}",
                Cause.CHANGED: "the file has changed",
            }.get(Cause(event.cause or Cause.ASKED), "asked to try again")
        case EventKind.POSTPONED:
            return WaitingReason(event.cause or WaitingReason.FAULT).sentence(text)
        case EventKind.RENAMED:
            return f"renamed to {path}"
        case EventKind.WITHDRAWN:
            return f"{path} is no longer in the inbox"
        case EventKind.DUPLICATE if event.cause == Cause.DELETED:
            return f"the same bytes as image {event.other_id}; deleted"
        case EventKind.DONE | EventKind.DUPLICATE:
            return filed
        case EventKind.FAILED:
            return f"{text} (now {filed})" if event.path else text
        case EventKind.LOST:
            return f"no longer at {filed}; its bytes came again and were filed anew"
        case EventKind.COMPANION if event.cause == Cause.CAME_WITH:
            return f"{text} came with it: {filed}"
        case EventKind.COMPANION:
            return f"filed beside image {event.other_id}: {filed}"
        case EventKind.EDITED if event.cause == Cause.SIDECAR:
            return "words of a person, out of an XMP file"
        case EventKind.EDITED if event.cause == Cause.PHOTO:
            return "words of a person, out of the photo itself"
        case EventKind.EDITED if event.cause == Cause.TAKEOUT:
            return f"{text} out of {filed}, as Google Photos had it"
        case EventKind.EDITED if event.cause == Cause.TAKEN_BACK:
            return f"{text} as before: the edit was taken back"
        case EventKind.EDITED:
            return f"{text} by a person"
        case EventKind.CAPTION_ASKED:
            return f"of {text}" if text else ""
        case EventKind.CAPTIONED:
            return "as its sidecar has it" if event.cause == Cause.SIDECAR else f"by {text}"
        case EventKind.CHANGED if event.cause == Cause.ROTTEN:
            return f"it has rotted on the disk; image {event.other_id} has the bytes that it was filed with"
        case EventKind.CHANGED:
            return "edited in the library"
        case EventKind.MOVED:
            return f"moved by its owner: {filed}"
        case EventKind.REFILED:
            return f"moved from library/{display(text)} to {filed}, by another template"
        case EventKind.DELETED:
            return f"no longer in the library: it lay at {filed}"
        case EventKind.REJECTED:
            return f"thrown away: {filed}"
        case EventKind.RESTORED if event.other_id is not None:
            return f"its file is that of image {event.other_id} now: {filed}"
        case EventKind.RESTORED | EventKind.ADOPTED:
            return filed if event.place else f"back in the inbox as {path}"
        case EventKind.PURGED:
            return "deleted from the trash for good"
        case EventKind.GIVEN_BACK:
            return f"its sidecar gave back what was known of it as image {event.other_id}"
        case EventKind.UNDONE:
            return f"moved out to {path}"
        case EventKind.ORIGINAL_GONE:
            return f"its original, image {event.other_id}, was moved out again"
    return text
