"""The steps by which a catalogue got its tables, in order, and what they share."""

import sqlite3


def statements(script: str) -> list[str]:
    """Split a script at the semicolons that end statements; those inside a trigger's body end none."""
    found, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            found.append(current)
            current = ""
    return found
