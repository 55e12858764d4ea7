"""What captions have cost so far, counted as it happens: requests are forgotten after days, images may go."""

import sqlite3
from typing import Any

_SCHEMA = """
CREATE TABLE caption_usage (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    requests INTEGER NOT NULL,
    tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL
);
INSERT INTO caption_usage
    SELECT 1, (SELECT count(*) FROM caption_request), coalesce(sum(tokens_in), 0), coalesce(sum(tokens_out), 0)
      FROM image;
CREATE TRIGGER caption_usage_request AFTER INSERT ON caption_request BEGIN
    UPDATE caption_usage SET requests = requests + 1;
END;
CREATE TRIGGER caption_usage_tokens AFTER UPDATE OF captioned_at ON image
WHEN new.captioned_at IS NOT old.captioned_at BEGIN
    UPDATE caption_usage SET tokens_in = tokens_in + coalesce(new.tokens_in, 0),
                             tokens_out = tokens_out + coalesce(new.tokens_out, 0);
END;
"""


def up(_migrator: Any, db: Any) -> None:
    """Create everything."""
    statement = ""
    for line in _SCHEMA.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute_sql(statement)
            statement = ""
