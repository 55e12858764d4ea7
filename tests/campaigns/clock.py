"""Sets the clock back under a running darkroom, whose `time.time` is made to read an offset from a file."""

from pathlib import Path

from tests.campaigns import check, program
from tests.campaigns.acts import photo
from tests.campaigns.stage import Stage
from tests.campaigns.watching import judge, log_of, wait_settled

_SECONDS = 30.0
_SITE = """
import time

def shifted(real=time.time):
    with open({offset!r}) as offset:
        return real() + float(offset.read())

time.time = shifted
"""


def clock_set_back(stage: Stage) -> None:
    """The clock is set back by a day while photos wait, are written and arrive."""
    context, offset = stage.base / "site", stage.base / "offset"
    context.mkdir()
    (context / "sitecustomize.py").write_text(_SITE.format(offset=str(offset)))
    offset.write_text("0")
    with program.serving(stage.base, under=["env", f"PYTHONPATH={context}:{program.ROOT}"]):
        stage.put("IMG_1.jpg", photo(1))
        wait_settled(stage)
        with (stage.inbox / "IMG_2.jpg").open("wb") as slow:
            slow.write(photo(2)[:100])
            slow.flush()
            program.wait(lambda: _waits(stage), _SECONDS, lambda: log_of(stage))
            _set(offset, -86400)
            slow.write(photo(2)[100:])
        stage.expect(photo(2))
        stage.put("IMG_3.jpg", photo(3))
        wait_settled(stage, _SECONDS)
        first, *later = (row["processed_at"] for row in check.rows(stage))
        assert all(time < first - 80_000 for time in later), "the clock was not set back"
        judge(stage)


def _waits(stage: Stage) -> bool:
    return any(row["waiting"] == "writer" for row in check.rows(stage))


def _set(offset: Path, seconds: float) -> None:
    fresh = offset.with_suffix(".new")
    fresh.write_text(str(seconds))
    fresh.replace(offset)
