"""How each caption came about, the requests that the quota counts, and the files that belong to a photo."""

from typing import Any

_SCHEMA = """
ALTER TABLE image ADD COLUMN caption_model TEXT;
ALTER TABLE image ADD COLUMN caption_prompt TEXT;
ALTER TABLE image ADD COLUMN tokens_in INTEGER;
ALTER TABLE image ADD COLUMN tokens_out INTEGER;
ALTER TABLE image ADD COLUMN captioned_at REAL;
ALTER TABLE image ADD COLUMN caption_not_before REAL NOT NULL DEFAULT 0;
ALTER TABLE image ADD COLUMN caption_attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE image ADD COLUMN caption_error TEXT;
-- asked for by a person: the model's name, or '' for the configured one; such a caption is never copied from a twin
ALTER TABLE image ADD COLUMN caption_wanted TEXT;
-- which words a person wrote ('caption', 'keywords', 'caption keywords'), and when; no model ever changes those
ALTER TABLE image ADD COLUMN edited TEXT;
ALTER TABLE image ADD COLUMN edited_at REAL;
ALTER TABLE image ADD COLUMN thumb_sha TEXT;
-- how many changes of the row the sidecar on disk does not show yet
ALTER TABLE image ADD COLUMN sidecar_due INTEGER NOT NULL DEFAULT 0;
-- this row is a file on its way beside that image; it goes when the file has arrived
ALTER TABLE image ADD COLUMN companion_of INTEGER;

CREATE INDEX image_caption_due ON image (caption_not_before, id) WHERE caption_status = 'pending';
CREATE INDEX image_thumb ON image (thumb_sha) WHERE thumb_sha IS NOT NULL;
CREATE INDEX image_sidecar_due ON image (id) WHERE sidecar_due > 0;
CREATE INDEX image_original ON image (folder, original_name COLLATE NOCASE);
CREATE INDEX image_lonely ON image (folder, original_name COLLATE NOCASE)
    WHERE status = 'queued' AND waiting = 'waiting for its photo';

CREATE TABLE caption_request (id INTEGER PRIMARY KEY, model TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX caption_request_at ON caption_request (model, at);

CREATE TABLE companion (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id INTEGER NOT NULL,
    place TEXT NOT NULL CHECK (place IN ('library', 'duplicates')),
    destination NOT NULL,
    original_name TEXT NOT NULL,
    folder TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    filed_at REAL NOT NULL
);
CREATE UNIQUE INDEX companion_destination ON companion (place, destination);
CREATE INDEX companion_image ON companion (image_id);
"""


def up(_migrator: Any, db: Any) -> None:
    """Create everything."""
    for statement in _SCHEMA.split(";\n"):
        if statement.strip():
            db.execute_sql(statement)
