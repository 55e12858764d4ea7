"""The tables as peewee sees them; the migrations create them, and a test compares the two."""

import json
import os
from functools import partial
from typing import Any

from peewee import AutoField, Field, FloatField, IntegerField, JSONField, Model, TextField


class FilenameField(Field):
    """A file's name: text where it is valid UTF-8, else the raw bytes, which SQLite keeps apart from any text."""

    field_type = "TEXT"

    def db_value(self, value: str | None) -> str | bytes | None:
        """Store bytes for names that are no UTF-8 (an old camera's, an unpacked archive's)."""
        if value is None:
            return None
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return os.fsencode(value)
        return value

    def python_value(self, value: Any) -> str | None:
        """Give the name as the file system calls take it."""
        return os.fsdecode(value) if isinstance(value, bytes) else value


class Image(Model):
    """One photo. Times are seconds since 1970, sizes bytes."""

    id = AutoField()
    status = TextField(default="queued")
    # In the inbox, relative to it; None once the file has left.
    path = FilenameField(null=True)
    original_name = TextField()
    folder = TextField(default="")
    source = TextField(default="inbox")
    created_at = FloatField()
    not_before = FloatField()
    attempts = IntegerField(default=0)
    size_bytes = IntegerField(null=True)
    mtime_ns = IntegerField(null=True)
    quiet_since = FloatField(null=True)
    waiting = TextField(null=True)
    claimed_at = FloatField(null=True)
    processed_at = FloatField(null=True)
    processing_ms = IntegerField(null=True)
    error = TextField(null=True)
    warning = TextField(null=True)

    # Where the file goes or went: written before the move, so that start-up can finish or undo it.
    place = TextField(null=True)
    destination = FilenameField(null=True)
    duplicate_of = IntegerField(null=True)

    sha256 = TextField(null=True)
    format = TextField(null=True)
    width = IntegerField(null=True)
    height = IntegerField(null=True)
    taken_at = TextField(null=True)
    taken_from = TextField(null=True)
    camera_make = TextField(null=True)
    camera_model = TextField(null=True)
    lens_model = TextField(null=True)
    datetime_original = TextField(null=True)
    iso = IntegerField(null=True)
    focal_length = FloatField(null=True)
    exposure_time = TextField(null=True)
    f_number = FloatField(null=True)
    orientation = IntegerField(null=True)
    lat = FloatField(null=True)
    lon = FloatField(null=True)

    caption = TextField(null=True)
    caption_status = TextField(default="off")
    title = TextField(null=True)
    # Letters as they are, not as \u escapes: the search index reads this text.
    keywords: JSONField = JSONField(null=True, dumps=partial(json.dumps, ensure_ascii=False))
    visible_text = TextField(null=True)
    caption_model = TextField(null=True)
    caption_prompt = TextField(null=True)
    tokens_in = IntegerField(null=True)
    tokens_out = IntegerField(null=True)
    captioned_at = FloatField(null=True)
    caption_not_before = FloatField(default=0)
    caption_attempts = IntegerField(default=0)
    caption_error = TextField(null=True)
    # A model that a person asked for, "" for the configured one; None where nobody has asked.
    caption_wanted = TextField(null=True)
    # Which words a person wrote ("caption", "keywords", "caption keywords"), and when: no model ever changes those.
    edited = TextField(null=True)
    edited_at = FloatField(null=True)
    thumb_sha = TextField(null=True)
    # How many changes of this row the sidecar on disk does not show yet.
    sidecar_due = IntegerField(default=0)
    # The image beside which this row's file is being filed; the row goes when the file is there.
    companion_of = IntegerField(null=True)

    class Meta:
        table_name = "image"


class RawExif(Model):
    """Every tag of one image; apart from its row, so that pages of rows stay small."""

    image_id = IntegerField(primary_key=True)
    tags = JSONField()

    class Meta:
        table_name = "raw_exif"


class Event(Model):
    """One line of an image's history; never changed, and kept when a withdrawn image's row goes."""

    id = AutoField()
    image_id = IntegerField()
    at = FloatField()
    kind = TextField()
    detail = TextField(default="")

    class Meta:
        table_name = "event"


class Tally(Model):
    """How many images have each status, and the time they took; triggers keep it, so counting scans nothing."""

    status = TextField(primary_key=True)
    n = IntegerField()
    processing_ms = IntegerField()

    class Meta:
        table_name = "tally"


class Setting(Model):
    """What the program remembers of itself: why it is paused, on which mount a folder was."""

    key = TextField(primary_key=True)
    value = JSONField()

    class Meta:
        table_name = "setting"


class Companion(Model):
    """A file that was filed beside an image, under its stem."""

    id = AutoField()
    image_id = IntegerField()
    place = TextField()
    destination = FilenameField()
    original_name = TextField()
    folder = TextField()
    sha256 = TextField()
    size_bytes = IntegerField()
    filed_at = FloatField()

    class Meta:
        table_name = "companion"


class CaptionRequest(Model):
    """One request to a model, written before it is sent; the quota counts them."""

    id = AutoField()
    model = TextField()
    at = FloatField()

    class Meta:
        table_name = "caption_request"


MODELS: tuple[type[Model], ...] = (Image, RawExif, Event, Tally, Setting, Companion, CaptionRequest)
