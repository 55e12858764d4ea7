"""Runs darkroom with names that a second run draws, too, so that one call can be found again by what it touches.

`python -m tests.campaigns.foretold SEED WORDS…`: hidden names depend on the seed, and on the thread that draws them.
"""

import random
import secrets
import sys
import threading
from typing import Any

from peewee import fn

import daemon.catalogue.queue
from daemon.__main__ import main
from daemon.catalogue.schema import Image


def foretell(seed: str) -> None:
    """Draw the names of temporaries, uploads and leaving files by this seed."""
    drawn: dict[str, random.Random] = {}

    def token_hex(nbytes: int | None = None) -> str:
        thread = threading.current_thread().name
        return drawn.setdefault(thread, random.Random(f"{seed} {thread}")).randbytes(nbytes or 32).hex()

    named: Any = secrets
    named.token_hex = token_hex
    queue: Any = daemon.catalogue.queue
    queue._TOKEN = fn.COALESCE(Image.token, fn.PRINTF(f"{random.Random(seed).getrandbits(32):08x}%08x", Image.id))


if __name__ == "__main__":
    foretell(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
