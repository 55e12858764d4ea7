"""The real program, with faults in the steps of its loops: `python -m tests.faulty_program FILE run`.

FILE holds a line `LOOP KIND` for each loop whose steps are to raise at present; it is read anew at each step.
"""

import errno
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon import __main__ as program
from daemon.errors import EnvironmentFault
from daemon.loop import Loop

KINDS: dict[str, Callable[[], BaseException]] = {
    "bug": lambda: ZeroDivisionError("division by zero"),
    "exit": lambda: SystemExit(3),
    "memory": MemoryError,
    "recursion": lambda: RecursionError("maximum recursion depth exceeded"),
    "sqlite": lambda: sqlite3.OperationalError("disk I/O error"),
    "disk": lambda: OSError(errno.EIO, "Input/output error"),
    "share": lambda: EnvironmentFault("the share does not answer"),
}


def main() -> int:
    """Run the program's command line, all loops of which look into the file before each step."""
    file = Path(sys.argv.pop(1))
    make = Loop.__init__

    def init(loop: Loop, name: str, step: Callable[[], float], **options: Any) -> None:
        def faulty() -> float:
            faults = dict(line.split() for line in file.read_text().splitlines())
            if name in faults:
                raise KINDS[faults[name]]()
            return step()

        make(loop, name, faulty, **options)

    Loop.__init__ = init  # type: ignore[assignment, method-assign]
    return program.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
