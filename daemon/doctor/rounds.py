"""Makes the rounds: all looks one after another, or the quick ones as a start-up does."""

import logging
from collections.abc import Iterator

from daemon import disk
from daemon.config import Config
from daemon.doctor import Finding, captions, decoders, folders, system

_log = logging.getLogger(__name__)


def everything(config: Config) -> Iterator[Finding]:
    """Look at everything; takes some seconds."""
    yield system.configuration(config)
    yield from quick(config)
    if disk.is_folder(config.folders.inbox):
        yield folders.events(config)
    yield system.catalogue(config)
    yield from decoders.decoders(config)
    yield captions.captions(config)


def quick(config: Config) -> Iterator[Finding]:
    """Look at what costs nothing: folders, room, leases, inotify, the clock."""
    yield from folders.folders(config)
    yield from folders.space(config)
    if disk.is_folder(config.folders.inbox):
        yield folders.leases(config)
        yield system.watches(config)
    yield folders.clocks(config) or system.clock()


def warn(config: Config) -> None:
    """Log what the quick looks find amiss."""
    try:
        for finding in quick(config):
            if not finding.ok:
                _log.warning("%s", finding)
    except Exception:
        _log.exception("the checks at the start could not be done")
