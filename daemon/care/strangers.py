"""Finds files in the folders that no row of the catalogue knows."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from daemon.catalogue import Place
from daemon.catalogue.inventory import Inventory
from daemon.scan import batched, is_junk, walk

_REASON = ".reason.txt"
_SIDECAR = ".xmp"


def strangers(inventory: Inventory, place: Place, root: Path, ignore: Sequence[str]) -> Iterator[Path]:
    """Yield them, but for junk, Darkroom's own files, and what Darkroom writes beside an image that is known."""
    for found in batched(walk(root, (), recursive=True), 500):
        paths = [one.path for one in found if not is_junk(one.path, ignore)]
        known = inventory.known(place, [*paths, *filter(None, map(_owner, paths))])
        yield from (root / path for path in paths if path not in known and _owner(path) not in known)


def _owner(path: str) -> str | None:
    """Name the image that Darkroom would write such a file beside."""
    for suffix in (_REASON, _SIDECAR):
        if path.endswith(suffix) and os.path.basename(path) != suffix:  # noqa: PTH119 - a name may be no UTF-8
            return path.removesuffix(suffix)
    return None
