"""The commands: a module each, loaded only when it is called, whose `main(config, args)` returns the exit code."""

import re

# SQLite's integers end here.
LARGEST = 2**63 - 1


def whole_number(text: str) -> int | None:
    """Return the number from 1 to LARGEST that somebody has typed, such as an image's id; None where it is none."""
    # Digits alone, and not too many: int() takes " 7 ", "1_000" and those of other scripts, and no more than 4,300.
    if not re.fullmatch("[0-9]{1,19}", text):
        return None
    return int(text) if 1 <= int(text) <= LARGEST else None
