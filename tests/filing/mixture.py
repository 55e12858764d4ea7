"""Files of few names and every kind, so that many meet: photos, RAW files, companions, copies and texts."""

import random
import time
from pathlib import Path

from daemon.errors import Rejected
from tests.support import Room, jpeg, tree

RAW = b"II*\0" + b"\x10\0\0\0CR" + b"\0" * 4096
AAE = b"<?xml version='1.0'?><plist></plist>"
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>
"""


def lie(room: Room) -> list[str]:
    """Return where files lie in the folders, but for what Darkroom writes beside them."""
    found = []
    for place, folder in {"library": room.library, "duplicates": room.duplicates, "failed": room.failed}.items():
        files = tree(folder)
        beside = {f"{name}{suffix}" for name in files for suffix in (".xmp", ".reason.txt")}
        found += [f"{place}/{name}" for name in files if name not in beside]
    return sorted(found)


def drain(room: Room) -> None:
    """File all that there is; what waits for a photo waits no longer."""
    for _ in range(3):
        room.drain(time.time() + 60)
    room.companions.give_up()
    for _ in range(2):
        room.drain(time.time() + 1000)


def fill(room: Room, rng: random.Random, kept: list[bytes]) -> None:
    """Put in files of few names, so that many meet."""
    for number in range(25):
        folder = rng.choice(["", "a/", "b/c/"])
        stem = rng.choice(["IMG_1", "IMG_2", "img_1", "IMG_1-1"])
        kind = rng.choice(["jpg", "jpg", "JPG", "png", "cr2", "aae", "xmp", "jpg.xmp", "txt", "again"])
        name = f"{folder}{stem}.{'jpg' if kind == 'again' else kind}"
        if (room.inbox / name).exists():
            continue
        if kind in {"jpg", "JPG", "png"}:
            kept.append(jpeg(size=(8, 8), seed=rng.randrange(10**6)))
            room.put(name, kept[-1])
        elif kind == "again" and kept:
            room.put(name, rng.choice(kept))
        elif kind == "cr2":
            room.put(name, RAW + str(rng.random()).encode())
        elif kind in {"aae", "xmp", "jpg.xmp"}:
            room.put(name, (AAE if kind == "aae" else XMP) + f"<!--{number}{rng.random()}-->".encode())
        elif kind == "txt":
            room.put(name, str(rng.random()).encode())
            room.decoder.errors.setdefault(Path(name).name, []).extend([Rejected("not an image")] * 4)
