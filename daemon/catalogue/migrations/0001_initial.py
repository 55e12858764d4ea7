"""The image table (catalogue and queue in one), its history, its raw EXIF and its counts."""

from typing import Any

from daemon.catalogue.migrations import statements

_SCHEMA = """
CREATE TABLE image (
    -- AUTOINCREMENT: an id is never given twice, so a link to an image can't come to show another
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    status TEXT NOT NULL CHECK (status IN ('queued', 'processing', 'done', 'duplicate', 'failed')),
    path,
    original_name TEXT NOT NULL,
    folder TEXT NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('inbox', 'upload')),
    created_at REAL NOT NULL,
    not_before REAL NOT NULL,
    attempts INTEGER NOT NULL,
    size_bytes INTEGER,
    mtime_ns INTEGER,
    quiet_since REAL,
    waiting TEXT,
    claimed_at REAL,
    processed_at REAL,
    processing_ms INTEGER,
    error TEXT,
    warning TEXT,
    place TEXT CHECK (place IN ('library', 'duplicates', 'failed')),
    destination,
    duplicate_of INTEGER,
    sha256 TEXT,
    format TEXT,
    width INTEGER,
    height INTEGER,
    taken_at TEXT,
    taken_from TEXT,
    camera_make TEXT,
    camera_model TEXT,
    lens_model TEXT,
    datetime_original TEXT,
    iso INTEGER,
    focal_length REAL,
    exposure_time TEXT,
    f_number REAL,
    orientation INTEGER,
    lat REAL,
    lon REAL
);
-- A file of the inbox has one row, a filed file has one row, and bytes are filed once: the schema says so.
CREATE UNIQUE INDEX image_open_path ON image (path) WHERE path IS NOT NULL;
CREATE UNIQUE INDEX image_destination ON image (place, destination) WHERE destination IS NOT NULL;
CREATE UNIQUE INDEX image_filed_bytes ON image (sha256) WHERE status = 'done';
CREATE INDEX image_queue ON image (id, not_before) WHERE status = 'queued';
CREATE INDEX image_due ON image (not_before) WHERE status = 'queued';
CREATE INDEX image_leaving ON image (id) WHERE path IS NOT NULL AND status NOT IN ('queued', 'processing');
CREATE INDEX image_status ON image (status, id);
CREATE INDEX image_folder ON image (folder) WHERE folder <> '';
CREATE INDEX image_processed ON image (processed_at);

CREATE TABLE raw_exif (image_id INTEGER PRIMARY KEY, tags TEXT NOT NULL);

CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    image_id INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX event_image ON event (image_id, id);

CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE tally (status TEXT PRIMARY KEY, n INTEGER NOT NULL, processing_ms INTEGER NOT NULL);
INSERT INTO tally VALUES
    ('queued', 0, 0), ('processing', 0, 0), ('done', 0, 0), ('duplicate', 0, 0), ('failed', 0, 0);
CREATE TRIGGER tally_insert AFTER INSERT ON image BEGIN
    UPDATE tally SET n = n + 1, processing_ms = processing_ms + coalesce(new.processing_ms, 0)
     WHERE status = new.status;
END;
CREATE TRIGGER tally_delete AFTER DELETE ON image BEGIN
    UPDATE tally SET n = n - 1, processing_ms = processing_ms - coalesce(old.processing_ms, 0)
     WHERE status = old.status;
END;
CREATE TRIGGER tally_update AFTER UPDATE OF status, processing_ms ON image
WHEN old.status IS NOT new.status OR old.processing_ms IS NOT new.processing_ms BEGIN
    UPDATE tally SET n = n - 1, processing_ms = processing_ms - coalesce(old.processing_ms, 0)
     WHERE status = old.status;
    UPDATE tally SET n = n + 1, processing_ms = processing_ms + coalesce(new.processing_ms, 0)
     WHERE status = new.status;
END;
"""


def up(_migrator: Any, db: Any) -> None:
    """Create everything."""
    for statement in statements(_SCHEMA):
        db.execute_sql(statement)
