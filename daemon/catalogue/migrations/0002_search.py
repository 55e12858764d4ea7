"""The caption's columns and counts, the full-text index over what people search by, the indices of the filters."""

from typing import Any

from daemon.catalogue.migrations import statements

_SCHEMA = """
ALTER TABLE image ADD COLUMN caption TEXT;
ALTER TABLE image ADD COLUMN caption_status TEXT NOT NULL DEFAULT 'off';
ALTER TABLE image ADD COLUMN title TEXT;
ALTER TABLE image ADD COLUMN keywords TEXT;
ALTER TABLE image ADD COLUMN visible_text TEXT;

-- How many filed images have each caption_status, kept like `tally`.
CREATE TABLE caption_tally (status TEXT PRIMARY KEY, n INTEGER NOT NULL);
INSERT INTO caption_tally SELECT caption_status, count(*) FROM image WHERE status = 'done' GROUP BY caption_status;
CREATE TRIGGER caption_tally_insert AFTER INSERT ON image WHEN new.status = 'done' BEGIN
    INSERT INTO caption_tally VALUES (new.caption_status, 1) ON CONFLICT (status) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER caption_tally_delete AFTER DELETE ON image WHEN old.status = 'done' BEGIN
    UPDATE caption_tally SET n = n - 1 WHERE status = old.caption_status;
END;
CREATE TRIGGER caption_tally_update AFTER UPDATE OF status, caption_status ON image
WHEN old.status IS NOT new.status OR old.caption_status IS NOT new.caption_status BEGIN
    UPDATE caption_tally SET n = n - 1 WHERE old.status = 'done' AND status = old.caption_status;
    INSERT INTO caption_tally SELECT new.caption_status, 1 WHERE new.status = 'done'
        ON CONFLICT (status) DO UPDATE SET n = n + 1;
END;

-- Ranges of local time; the id makes the index enough to sort by.
CREATE INDEX image_taken ON image (taken_at, id);
CREATE INDEX image_gps ON image (id) WHERE lat IS NOT NULL;
CREATE INDEX image_waiting_bytes ON image (sha256) WHERE status = 'queued' AND sha256 IS NOT NULL;
CREATE INDEX image_waiting ON image (status, waiting) WHERE waiting IS NOT NULL;

-- The text itself stays in `image` (content=); results come by id, so no sizes for ranking are kept. unicode61
-- takes `_`, `-` and `.` for gaps between words: IMG_1234.jpg is found by 1234, by img_1234 and by img_12.
CREATE VIRTUAL TABLE image_text USING fts5 (
    original_name, folder, destination, camera_make, camera_model, lens_model, caption, title, keywords, visible_text,
    content = 'image', content_rowid = 'id', columnsize = 0, prefix = '2 3',
    tokenize = 'unicode61 remove_diacritics 2'
);
INSERT INTO image_text (image_text) VALUES ('rebuild');
CREATE TRIGGER image_text_insert AFTER INSERT ON image BEGIN
    INSERT INTO image_text (rowid, {columns}) VALUES (new.id, {new});
END;
CREATE TRIGGER image_text_delete AFTER DELETE ON image BEGIN
    INSERT INTO image_text (image_text, rowid, {columns}) VALUES ('delete', old.id, {old});
END;
CREATE TRIGGER image_text_update AFTER UPDATE OF {columns} ON image
WHEN {changed} BEGIN
    INSERT INTO image_text (image_text, rowid, {columns}) VALUES ('delete', old.id, {old});
    INSERT INTO image_text (rowid, {columns}) VALUES (new.id, {new});
END;
"""
_COLUMNS = (
    *("original_name", "folder", "destination", "camera_make", "camera_model", "lens_model"),
    *("caption", "title", "keywords", "visible_text"),
)


def up(_migrator: Any, db: Any) -> None:
    """Create everything."""
    script = _SCHEMA.format(
        columns=", ".join(_COLUMNS),
        new=", ".join(f"new.{name}" for name in _COLUMNS),
        old=", ".join(f"old.{name}" for name in _COLUMNS),
        changed=" OR ".join(f"old.{name} IS NOT new.{name}" for name in _COLUMNS),
    )
    for statement in statements(script):
        db.execute_sql(statement)
