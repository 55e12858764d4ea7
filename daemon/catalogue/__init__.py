"""The catalogue and the queue in one SQLite file; nothing outside this package imports peewee.

One row of `image` is one photo from the moment it is seen until for ever: the statuses are
`queued → processing → done | duplicate | failed`. `path` is the file's name in the inbox and is empty once it
has left there, so "which files of the inbox are known" is a unique index, not a convention. Rows leave as frozen
values (schema.py).
"""

from daemon.catalogue.database import Catalogue
from daemon.catalogue.queue import Queue
from daemon.catalogue.schema import Final, ImageEvent, ImageRow, Place

__all__ = ["Catalogue", "Final", "ImageEvent", "ImageRow", "Place", "Queue"]
