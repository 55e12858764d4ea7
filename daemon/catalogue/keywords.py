"""The keywords of many images at once: added and removed as a person's words, and put back as they were.

The images of one call change in one transaction, so a caller goes through thousands of them in steps, between which
others get their turn. Their sidecars follow the commit, as with any edit: `sidecar_due` counts what they do not show
yet, so whatever stops the program in between, they are written after its next start.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from daemon.catalogue.captions import MAX_KEYWORDS, together
from daemon.catalogue.database import CURRENT, Catalogue, insert_row
from daemon.catalogue.schema import Cause, Event, EventKind

_READ = "SELECT keywords, edited, edited_at FROM image WHERE id = ? AND companion_of IS NULL"
_WRITE = "UPDATE image SET keywords = ?, edited = ?, edited_at = ?, sidecar_due = sidecar_due + 1 WHERE id = ?"


@dataclass(frozen=True, slots=True)
class KeywordState:
    """What a row says of its keywords and of who wrote them, as the columns have it: `keywords` is JSON."""

    keywords: str | None
    edited: str | None
    edited_at: float | None


@dataclass(frozen=True)
class KeywordChange:
    """What a person wants with keywords, and when, in seconds since 1970; those that are added go last."""

    now: float
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()

    def of(self, before: KeywordState) -> KeywordState | None:
        """Return what becomes of a row; None where it is so already."""
        words = json.loads(before.keywords or "[]")
        kept = [word for word in words if word not in self.remove]
        wanted = [*kept, *(word for word in self.add if word not in kept)]
        if wanted == words:
            return None
        edited = together(before.edited, ["keywords"])
        return KeywordState(json.dumps(wanted, ensure_ascii=False), edited, self.now)


@dataclass(frozen=True)
class Refusal:
    """Why an image was left as it is: `code` is for programs."""

    image_id: int
    code: str
    message: str


@dataclass(frozen=True)
class Changed:
    """What became of some images: those that were changed as they were before, and those that could not be."""

    before: dict[int, KeywordState] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)


class Keywords:
    """The keywords of one catalogue; any thread may call it. `changed` is set whenever sidecars are due."""

    def __init__(self, catalogue: Catalogue, changed: threading.Event) -> None:
        self._catalogue = catalogue
        self._changed = changed

    def change(self, image_ids: Sequence[int], change: KeywordChange) -> Changed:
        """Change the keywords of some images, in one transaction. No model changes them from then on."""
        done = Changed()
        with self._catalogue.writing():
            for image_id in image_ids:
                before = _read(image_id)
                if before is None:
                    done.refused.append(_no_image(image_id))
                    continue
                after = change.of(before)
                if after is None:
                    continue
                # What has more already may still be made less.
                if change.add and len(json.loads(after.keywords or "[]")) > MAX_KEYWORDS:
                    text = f"image {image_id} would have more than {MAX_KEYWORDS} keywords"
                    done.refused.append(Refusal(image_id, "too_many_keywords", text))
                    continue
                _write(image_id, after, change.now, None)
                done.before[image_id] = before
        self._changed.set()
        return done

    def put_back(self, before: Mapping[int, KeywordState], change: KeywordChange, now: float) -> Changed:
        """Undo a change of some images, in one transaction; those whose keywords changed since are left alone."""
        done = Changed()
        with self._catalogue.writing():
            for image_id, was in before.items():
                here = _read(image_id)
                if here is None:
                    done.refused.append(_no_image(image_id))
                elif here != change.of(was):
                    text = f"the keywords of image {image_id} have changed since, and stay"
                    done.refused.append(Refusal(image_id, "changed_since", text))
                else:
                    _write(image_id, was, now, Cause.TAKEN_BACK)
                    done.before[image_id] = here
        self._changed.set()
        return done


def _read(image_id: int) -> KeywordState | None:
    row = CURRENT.execute_sql(_READ, (image_id,)).fetchone()
    return None if row is None else KeywordState(*row)


def _write(image_id: int, state: KeywordState, now: float, cause: Cause | None) -> None:
    CURRENT.execute_sql(_WRITE, (state.keywords, state.edited, state.edited_at, image_id))
    insert_row(Event, {"image_id": image_id, "at": now, "kind": EventKind.EDITED, "cause": cause, "text": "keywords"})


def _no_image(image_id: int) -> Refusal:
    return Refusal(image_id, "not_found", f"there is no image {image_id}")
