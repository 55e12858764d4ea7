"""Has a process kill itself at one of its steps, as a power cut or `kill -9` would."""

import os
import signal
from collections.abc import Callable
from typing import Any


def die_at(step: int, when: str, *functions: tuple[object, str]) -> None:
    """Kill this process at the call of that number among those of some functions: `before` it or `after`.

    A function is named by what it is an attribute of, and its name there.
    """
    calls = 0

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            mine = calls == step
            if mine and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if mine and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    for owner, name in functions:
        setattr(owner, name, dying(getattr(owner, name)))
