"""Finding an image by a name that its file had once: only its history still knows it."""

from typing import Any


def up(_migrator: Any, db: Any) -> None:
    """Create the index."""
    db.execute_sql("CREATE INDEX event_queued ON event (detail) WHERE kind = 'queued'")
