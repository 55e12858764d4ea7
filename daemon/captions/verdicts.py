"""What each thing that goes wrong with a request means: for the one image, or for all of them."""

import logging
import math

from daemon.captions import client as gemini
from daemon.captions import prompt
from daemon.captions.pause import Pauses
from daemon.captions.quota import day_ends
from daemon.captions.settings import Settings
from daemon.catalogue.captions import Captions, Wanting

_log = logging.getLogger(__name__)

_LIMIT_SECONDS = 60.0
_DAY_SECONDS = 86400.0
# Pauses of the whole while the service fails or can't be reached, and waits of the one image, in seconds.
_PAUSE_SECONDS = (5.0, 600.0)
_IMAGE_SECONDS = (60.0, 6 * 3600.0)
# An image's own attempts: with answers that can't be used, and with failures of the service (a day and a half).
_ANSWERS = 3
_FAILURES = 10
# So many images refused in a row, and it is not the images.
_STRANGE = 3


class Verdicts:
    """Judges failures, with a memory for those that come in a row."""

    def __init__(self, captions: Captions, pauses: Pauses) -> None:
        self._captions = captions
        self._pauses = pauses
        self._troubles = 0
        self._strange: list[int] = []

    def went_well(self) -> None:
        """Note that the service has answered as it should."""
        self._troubles, self._strange = 0, []
        self._pauses.end("Gemini answers again")

    def decide(self, wanting: Wanting, error: Exception, settings: Settings, now: float) -> float:
        """Turn what went wrong into the row's next status or a pause of all; returns the seconds to wait."""
        reason = str(error)
        match error:
            case gemini.Limited():
                return self._limit(wanting, error, settings, now)
            case gemini.NoModel() if wanting.wanted:
                self._captions.conclude(wanting.id, "failed", reason, now)
            case gemini.Misconfigured():
                return self._stop(reason, settings, now)
            case gemini.Unavailable() | gemini.Unreachable():
                return self._back_off(wanting, error, settings, now)
            case gemini.BadRequest():
                return self._doubt(wanting, reason, settings, now)
            case gemini.Blocked() | prompt.Refused():
                self.went_well()
                self._captions.conclude(wanting.id, "blocked", reason, now)
            case _:  # empty, cut off, in another form
                self.went_well()
                self._again(wanting, reason, _ANSWERS, now)
        _log.info("image %d: no caption: %s", wanting.id, reason)
        return 0.0

    def _limit(self, wanting: Wanting, error: gemini.Limited, settings: Settings, now: float) -> float:
        if error.per_day:
            until, what = day_ends(now), "the service's quota of the day is used up"
        else:
            seconds = min(error.seconds or _LIMIT_SECONDS, _DAY_SECONDS)
            until, what = now + seconds, "the service's quota of the minute is used up"
        if wanting.wanted not in {None, "", settings.model}:
            # Another model's quota; the usual one's is another matter.
            self._captions.later(wanting.id, until, what, spent=False)
            return 0.0
        self._pauses.begin("limited", f"{what} ({error})", until, settings.fingerprint, now)
        return until - now

    def _stop(self, reason: str, settings: Settings, now: float) -> float:
        self._pauses.begin("misconfigured", reason, None, settings.fingerprint, now)
        return math.inf

    def _back_off(self, wanting: Wanting, error: Exception, settings: Settings, now: float) -> float:
        first, last = _PAUSE_SECONDS
        wait = min(last, first * 2.0 ** min(self._troubles, 10))
        self._troubles += 1
        if isinstance(error, gemini.Unavailable):
            # Perhaps it is this image that the service stumbles over: others go first.
            self._again(wanting, str(error), _FAILURES, now)
        self._pauses.begin(type(error).__name__, str(error), now + wait, settings.fingerprint, now)
        return wait

    def _again(self, wanting: Wanting, reason: str, attempts: int, now: float) -> None:
        if wanting.attempts + 1 >= attempts:
            self._captions.conclude(wanting.id, "failed", reason, now)
            return
        first, last = _IMAGE_SECONDS
        self._captions.later(wanting.id, now + min(last, first * 4.0**wanting.attempts), reason)

    def _doubt(self, wanting: Wanting, reason: str, settings: Settings, now: float) -> float:
        """Blame one refused image, but not several in a row."""
        self._strange.append(wanting.id)
        if len(self._strange) < _STRANGE:
            self._captions.conclude(wanting.id, "failed", reason, now)
            _log.info("image %d: no caption: %s", wanting.id, reason)
            return 0.0
        self._captions.fill_in(self._strange)
        self._strange = []
        return self._stop(reason, settings, now)
