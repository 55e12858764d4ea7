"""Looks whether all that darkroom needs is there: one finding each, and how to mend what is not well.

`folders` looks at the five folders, `system` at the machine, `decoders` and `captions` at what images go through.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one look came to. `mend` is what to do about it; None where all is well."""

    subject: str
    text: str
    mend: str | None = None

    @property
    def ok(self) -> bool:
        """Tell whether there is nothing to do."""
        return self.mend is None

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}" + (f"; {self.mend}" if self.mend else "")
