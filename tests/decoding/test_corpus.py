"""Every file of a folder of real photos ends developed or with a clear reason, and the worker outlives them all."""

import io
from pathlib import Path

from PIL import Image

from daemon.decoding import Limits
from daemon.decoding.sandbox import Sandbox
from daemon.errors import Rejected, Truncated


def test_every_file_ends_developed_or_with_a_reason(corpus: Path) -> None:
    sandbox = Sandbox(Limits(seconds=30))
    refused: dict[str, str] = {}
    pids = set()
    for path in sorted(p for p in corpus.rglob("*") if p.is_file()):
        try:
            decoded = sandbox.decode(path)
        except (Rejected, Truncated) as error:
            refused[str(path.relative_to(corpus))] = str(error)
            continue
        pids |= set(sandbox.pids)
        if decoded.width is None or decoded.height is None:
            assert "has no thumbnail" in (decoded.warning or "")
            continue
        with Image.open(io.BytesIO(decoded.small)) as small, Image.open(io.BytesIO(decoded.medium)) as medium:
            assert max(small.size) <= 200
            assert max(medium.size) <= 800
            if min(decoded.width, decoded.height) > 50:
                assert abs(medium.width / medium.height - decoded.width / decoded.height) < 0.05, path
    sandbox.close()
    assert len(pids) == 1
    assert all("\n" not in reason and "Traceback" not in reason for reason in refused.values())
    for name in refused:
        # Broken PNGs are marked by their first letter; the rest is text, or a format not promised.
        assert Path(name).name.startswith("x") or not name.lower().endswith((".jpg", ".jpeg", ".png", ".tiff")), name
