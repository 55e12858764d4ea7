"""Phrases that messages of several parts share: a count with its noun, and the system's own words for a failure."""

import os
import re


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: "1 photo", "1,234 photos"; `many` is the plural that is not `one` and an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def system_words(error: BaseException) -> str:
    """Return why a request or a call failed in the system's own words, where any cause of the error has some.

    HTTP clients often have none, or wrap the system's as Python shows them: "[Errno 111] …".
    """
    import socket
    import ssl

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror | ssl.SSLError) and cause.strerror:
            # OpenSSL's begin with "[SSL: CERTIFICATE_VERIFY_FAILED] " and end with " (_ssl.c:1006)".
            return re.sub(r"^\[\w+: \w+\] | \(_ssl\.c:\d+\)$", "", cause.strerror)
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        # Of a name with several addresses each has failed.
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
