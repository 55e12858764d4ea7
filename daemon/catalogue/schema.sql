-- The catalogue and the queue in one SQLite file. Times are seconds since 1970, sizes bytes.
-- Whoever changes this raises VERSION in database.py.

CREATE TABLE image (
    -- AUTOINCREMENT: an id is never given twice, so a link to an image can't come to show another
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    status TEXT NOT NULL CHECK (status IN ('queued', 'processing', 'done', 'duplicate', 'failed')),
    -- in the inbox, relative to it; NULL once the file has left
    path,
    original_name TEXT NOT NULL,
    folder TEXT NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('inbox', 'upload')),
    created_at REAL NOT NULL,
    -- the local day of created_at, where the program ran
    arrived_on TEXT,
    not_before REAL NOT NULL,
    attempts INTEGER NOT NULL,
    -- who goes first among those that are due: 0 never tried, 1 tried before, 2 has met a fault of the environment
    rank INTEGER NOT NULL DEFAULT 0,
    -- makes the hidden name that the file has in its folder from the last look at it until it is gone
    token TEXT,
    size_bytes INTEGER,
    mtime_ns INTEGER,
    quiet_since REAL,
    -- a WaitingReason, and what completes its sentence
    waiting TEXT,
    waiting_detail TEXT,
    claimed_at REAL,
    processed_at REAL,
    processing_ms INTEGER,
    error TEXT,
    -- a FailureReason: what `error` says, in a code
    failure TEXT,
    warning TEXT,
    -- where the file goes or went: written before the move, so that start-up can finish or undo it
    place TEXT CHECK (place IN ('library', 'duplicates', 'failed')),
    destination,
    duplicate_of INTEGER,
    sha256 TEXT,
    format TEXT,
    width INTEGER,
    height INTEGER,
    -- the class of the mean colour (decoding/thumbnails.py)
    colour INTEGER,
    -- local time without offset, and where it is from (filing/dates.py has the codes)
    taken_at TEXT,
    taken_from TEXT,
    -- the instant where it is known, and by what: the name of the place's zone, or an offset ("+02:00")
    taken_utc REAL,
    zone TEXT,
    -- seconds since 1970 to sort by: the instant, or else local time in this machine's zone
    taken_order REAL,
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
    lon REAL,
    caption TEXT,
    caption_status TEXT NOT NULL DEFAULT 'off',
    title TEXT,
    keywords TEXT,
    visible_text TEXT,
    caption_model TEXT,
    caption_prompt TEXT,
    tokens_in INTEGER,
    tokens_out INTEGER,
    captioned_at REAL,
    caption_not_before REAL NOT NULL DEFAULT 0,
    caption_attempts INTEGER NOT NULL DEFAULT 0,
    caption_error TEXT,
    -- asked for by a person: the model's name, or '' for the configured one; such a caption is never copied from
    -- another image of the same thumbnail
    caption_wanted TEXT,
    -- which words a person wrote ('caption', 'keywords', 'caption keywords'), and when; no model ever changes those
    edited TEXT,
    edited_at REAL,
    thumb_sha TEXT,
    -- how many changes of the row the sidecar on disk does not show yet
    sidecar_due INTEGER NOT NULL DEFAULT 0,
    -- this row is a file on its way beside that image; it goes when the file has arrived
    companion_of INTEGER
);
-- A file of the inbox has one row, a filed file has one row, and bytes are filed once: the schema says so.
CREATE UNIQUE INDEX image_open_path ON image (path) WHERE path IS NOT NULL;
CREATE UNIQUE INDEX image_destination ON image (place, destination) WHERE destination IS NOT NULL;
CREATE UNIQUE INDEX image_filed_bytes ON image (sha256) WHERE status = 'done';
CREATE INDEX image_queue ON image (rank, id, not_before) WHERE status = 'queued';
CREATE INDEX image_hidden ON image (id) WHERE status = 'queued' AND token IS NOT NULL;
CREATE INDEX image_due ON image (not_before) WHERE status = 'queued';
CREATE INDEX image_leaving ON image (id) WHERE path IS NOT NULL AND status NOT IN ('queued', 'processing');
-- Wide enough for the filters of a list: one that nothing passes is told from this index alone.
CREATE INDEX image_status ON image (status, id, caption_status, lat, folder);
CREATE INDEX image_folder ON image (folder) WHERE folder <> '';
CREATE INDEX image_processed ON image (processed_at);
-- Ranges of local time; the id makes the index enough to sort by.
CREATE INDEX image_taken ON image (taken_at, id);
-- What has no date comes last, before all dates.
CREATE INDEX image_taken_order ON image (coalesce(taken_order, -1e12), id, status, caption_status, lat, folder);
-- The months of the contact sheet, in both of its orders.
CREATE INDEX image_month_arrived ON image (substr(arrived_on, 1, 7), id) WHERE status = 'done';
CREATE INDEX image_month_taken ON image (substr(taken_at, 1, 7), coalesce(taken_order, -1e12), id)
    WHERE status = 'done';
CREATE INDEX image_duplicate ON image (duplicate_of) WHERE duplicate_of IS NOT NULL;
CREATE INDEX image_failure ON image (coalesce(failure, 'other'), id) WHERE status = 'failed';
CREATE INDEX image_gps ON image (id) WHERE lat IS NOT NULL;
CREATE INDEX image_waiting_bytes ON image (sha256) WHERE status = 'queued' AND sha256 IS NOT NULL;
CREATE INDEX image_waiting ON image (status, waiting, waiting_detail) WHERE waiting IS NOT NULL;
CREATE INDEX image_caption_due ON image (caption_not_before, id) WHERE caption_status = 'pending';
CREATE INDEX image_thumb ON image (thumb_sha) WHERE thumb_sha IS NOT NULL;
CREATE INDEX image_sidecar_due ON image (id) WHERE sidecar_due > 0;
CREATE INDEX image_original ON image (folder, original_name COLLATE NOCASE);
CREATE INDEX image_waiting_companion ON image (folder, original_name COLLATE NOCASE)
    WHERE status = 'queued' AND waiting = 'photo';

CREATE TABLE raw_exif (image_id INTEGER PRIMARY KEY, tags TEXT NOT NULL);

-- What happened, in codes; the sentences are made where a person reads them (history.py).
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    image_id INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    cause TEXT,
    place TEXT,
    path,
    other_id INTEGER,
    text TEXT
);
CREATE INDEX event_image ON event (image_id, id);
CREATE INDEX event_arrived ON event (path) WHERE kind = 'queued';
CREATE INDEX event_companion ON event (place, path) WHERE kind = 'companion';

CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL);

-- Browsers that have signed in. The id itself is with the browser alone; `token` is a slow hash of the token of then.
CREATE TABLE session (
    hash TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    address TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL
);

-- How many images have each status, the time they took and their bytes; triggers keep it, so counting scans nothing.
CREATE TABLE tally (
    status TEXT PRIMARY KEY, n INTEGER NOT NULL, processing_ms INTEGER NOT NULL, size_bytes INTEGER NOT NULL
);
INSERT INTO tally VALUES
    ('queued', 0, 0, 0), ('processing', 0, 0, 0), ('done', 0, 0, 0), ('duplicate', 0, 0, 0), ('failed', 0, 0, 0);
CREATE TRIGGER tally_insert AFTER INSERT ON image BEGIN
    UPDATE tally SET n = n + 1, processing_ms = processing_ms + coalesce(new.processing_ms, 0),
        size_bytes = size_bytes + coalesce(new.size_bytes, 0) WHERE status = new.status;
END;
CREATE TRIGGER tally_delete AFTER DELETE ON image BEGIN
    UPDATE tally SET n = n - 1, processing_ms = processing_ms - coalesce(old.processing_ms, 0),
        size_bytes = size_bytes - coalesce(old.size_bytes, 0) WHERE status = old.status;
END;
CREATE TRIGGER tally_update AFTER UPDATE OF status, processing_ms, size_bytes ON image
WHEN old.status IS NOT new.status OR old.processing_ms IS NOT new.processing_ms
    OR old.size_bytes IS NOT new.size_bytes BEGIN
    UPDATE tally SET n = n - 1, processing_ms = processing_ms - coalesce(old.processing_ms, 0),
        size_bytes = size_bytes - coalesce(old.size_bytes, 0) WHERE status = old.status;
    UPDATE tally SET n = n + 1, processing_ms = processing_ms + coalesce(new.processing_ms, 0),
        size_bytes = size_bytes + coalesce(new.size_bytes, 0) WHERE status = new.status;
END;

-- How many filed images have each caption_status, kept like `tally`.
CREATE TABLE caption_tally (status TEXT PRIMARY KEY, n INTEGER NOT NULL);
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

-- How many filed images have each value of what people choose by, kept like `tally`: months in both orders, days of
-- arrival, cameras, folders, formats. Counted is what has its day of arrival: one that comes without is given it below.
CREATE TABLE facet (
    kind TEXT NOT NULL, value TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (kind, value)
) WITHOUT ROWID;
CREATE TRIGGER facet_insert AFTER INSERT ON image
WHEN new.status = 'done' AND new.arrived_on IS NOT NULL BEGIN
    INSERT INTO facet SELECT column1, column2, 1 FROM (VALUES
            ('arrived', substr(new.arrived_on, 1, 7)), ('day', new.arrived_on), ('taken', substr(new.taken_at, 1, 7)),
            ('camera', coalesce(new.camera_model, new.camera_make)), ('folder', nullif(new.folder, '')),
            ('format', new.format))
     WHERE new.status = 'done' AND new.arrived_on IS NOT NULL AND column2 IS NOT NULL ON CONFLICT (kind, value) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER facet_delete AFTER DELETE ON image WHEN old.status = 'done' BEGIN
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'arrived'
        AND value = substr(old.arrived_on, 1, 7);
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'day'
        AND value = old.arrived_on;
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'taken'
        AND value = substr(old.taken_at, 1, 7);
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'camera'
        AND value = coalesce(old.camera_model, old.camera_make);
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'folder'
        AND value = old.folder;
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'format'
        AND value = old.format;
END;
CREATE TRIGGER facet_update AFTER UPDATE OF status, arrived_on, taken_at, camera_make, camera_model, folder, format
    ON image
WHEN 'done' IN (old.status, new.status) BEGIN
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'arrived'
        AND value = substr(old.arrived_on, 1, 7);
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'day'
        AND value = old.arrived_on;
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'taken'
        AND value = substr(old.taken_at, 1, 7);
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'camera'
        AND value = coalesce(old.camera_model, old.camera_make);
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'folder'
        AND value = old.folder;
    UPDATE facet SET n = n - 1 WHERE old.status = 'done' AND old.arrived_on IS NOT NULL AND kind = 'format'
        AND value = old.format;
    INSERT INTO facet SELECT column1, column2, 1 FROM (VALUES
            ('arrived', substr(new.arrived_on, 1, 7)), ('day', new.arrived_on), ('taken', substr(new.taken_at, 1, 7)),
            ('camera', coalesce(new.camera_model, new.camera_make)), ('folder', nullif(new.folder, '')),
            ('format', new.format))
     WHERE new.status = 'done' AND new.arrived_on IS NOT NULL AND column2 IS NOT NULL ON CONFLICT (kind, value) DO UPDATE SET n = n + 1;
END;

-- For rows that are restored. Written once, and kept: what was counted under a day must be found under it again, in
-- whatever zone the program runs then.
CREATE TRIGGER image_arrived AFTER INSERT ON image WHEN new.arrived_on IS NULL BEGIN
    UPDATE image SET arrived_on = strftime('%Y-%m-%d', new.created_at, 'unixepoch', 'localtime') WHERE id = new.id;
END;

CREATE TABLE caption_request (id INTEGER PRIMARY KEY, model TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX caption_request_at ON caption_request (model, at);

-- What captions have cost so far, counted as it happens: requests are forgotten after days, images may go.
CREATE TABLE caption_usage (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    requests INTEGER NOT NULL,
    tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL
);
INSERT INTO caption_usage VALUES (1, 0, 0, 0);
CREATE TRIGGER caption_usage_request AFTER INSERT ON caption_request BEGIN
    UPDATE caption_usage SET requests = requests + 1;
END;
CREATE TRIGGER caption_usage_tokens AFTER UPDATE OF captioned_at ON image
WHEN new.captioned_at IS NOT old.captioned_at BEGIN
    UPDATE caption_usage SET tokens_in = tokens_in + coalesce(new.tokens_in, 0),
                             tokens_out = tokens_out + coalesce(new.tokens_out, 0);
END;

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

-- What the full-text index knows of a row. A camera's number finds its photo without the letters and zeros before
-- it: DSC01234.jpg by 1234. As a view, so that FTS5's own `rebuild` reads the same as the triggers write.
CREATE VIEW image_words AS SELECT id,
    original_name || ' ' || ltrim(original_name,
        'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_- 0') AS original_name,
    folder, destination, camera_make, camera_model, lens_model, caption, title, keywords, visible_text
  FROM image;
-- The text itself stays in `image`; results come by id, so no sizes for ranking are kept. unicode61 takes the signs
-- between letters for gaps: IMG_1234.jpg is found by 1234, by img_1234 and by img_12.
CREATE VIRTUAL TABLE image_text USING fts5 (
    original_name, folder, destination, camera_make, camera_model, lens_model, caption, title, keywords, visible_text,
    content = 'image_words', content_rowid = 'id', columnsize = 0, prefix = '2 3',
    tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER image_text_insert AFTER INSERT ON image BEGIN
    INSERT INTO image_text (rowid, original_name, folder, destination, camera_make, camera_model, lens_model,
        caption, title, keywords, visible_text)
    SELECT id, original_name, folder, destination, camera_make, camera_model, lens_model, caption, title, keywords,
        visible_text FROM image_words WHERE id = new.id;
END;
CREATE TRIGGER image_text_delete AFTER DELETE ON image BEGIN
    INSERT INTO image_text (image_text, rowid, original_name, folder, destination, camera_make, camera_model,
        lens_model, caption, title, keywords, visible_text)
    VALUES ('delete', old.id, old.original_name || ' ' || ltrim(old.original_name,
        'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_- 0'), old.folder, old.destination, old.camera_make,
        old.camera_model, old.lens_model, old.caption, old.title, old.keywords, old.visible_text);
END;
CREATE TRIGGER image_text_update AFTER UPDATE OF original_name, folder, destination, camera_make, camera_model,
    lens_model, caption, title, keywords, visible_text ON image
WHEN old.original_name IS NOT new.original_name
    OR old.folder IS NOT new.folder
    OR old.destination IS NOT new.destination
    OR old.camera_make IS NOT new.camera_make
    OR old.camera_model IS NOT new.camera_model
    OR old.lens_model IS NOT new.lens_model
    OR old.caption IS NOT new.caption
    OR old.title IS NOT new.title
    OR old.keywords IS NOT new.keywords
    OR old.visible_text IS NOT new.visible_text BEGIN
    INSERT INTO image_text (image_text, rowid, original_name, folder, destination, camera_make, camera_model,
        lens_model, caption, title, keywords, visible_text)
    VALUES ('delete', old.id, old.original_name || ' ' || ltrim(old.original_name,
        'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_- 0'), old.folder, old.destination, old.camera_make,
        old.camera_model, old.lens_model, old.caption, old.title, old.keywords, old.visible_text);
    INSERT INTO image_text (rowid, original_name, folder, destination, camera_make, camera_model, lens_model,
        caption, title, keywords, visible_text)
    SELECT id, original_name, folder, destination, camera_make, camera_model, lens_model, caption, title, keywords,
        visible_text FROM image_words WHERE id = new.id;
END;
