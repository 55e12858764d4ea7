"""Has the child process develop a test image of each format."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from daemon.config import Config
from daemon.develop import Limits
from daemon.develop.samples import samples
from daemon.develop.sandbox import Sandbox
from daemon.doctor import Finding
from daemon.errors import DarkroomError, EnvironmentFault

_INSTALL = "install darkroom's dependencies again (pip install --force-reinstall .)"


def decoders(config: Config, images: Mapping[str, Callable[[], bytes]] | None = None) -> Iterator[Finding]:
    """Develop a small image of each format, under the limits that hold for the user's."""
    images = samples() if images is None else images
    limits = config.limits
    sandbox = Sandbox(Limits(limits.file_mb, limits.megapixels, limits.decode_seconds, limits.decode_memory_mb))
    try:
        with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
            for name, make in images.items():
                yield _decoder(sandbox, Path(folder) / "sample", name, make)
    except EnvironmentFault as fault:
        yield Finding("decoders", str(fault), f"raise [limits] decode_memory_mb, or {_INSTALL}")
    finally:
        sandbox.close()


def _decoder(sandbox: Sandbox, file: Path, name: str, make: Callable[[], bytes]) -> Finding:
    subject = f"{name} decoder"
    try:
        file.write_bytes(make())
        found = sandbox.develop(file)
    except EnvironmentFault:
        raise
    except DarkroomError as error:
        return Finding(subject, str(error), _INSTALL)
    except Exception as error:  # an encoder that is missing or broken: whatever its library raises
        return Finding(subject, f"no test image can be made: {error!r}", _INSTALL)
    if found.format != name:
        return Finding(subject, f"takes it for {found.format}", _INSTALL)
    return Finding(subject, f"{found.width} by {found.height} pixels")
