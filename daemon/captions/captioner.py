"""The captioner's loop: one caption at a time, from its own thread, and what each failure of a request means.

Nothing here touches the queue: an image is `done` before it comes here, and stays so whatever happens.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from functools import partial

from daemon.captions import gemini, prompt
from daemon.captions.limits import CaptionPauses, Quota, day_ends, progress
from daemon.captions.settings import CaptionSettings
from daemon.catalogue.captions import CaptionJob, CaptionOrigin, Captions, Words
from daemon.catalogue.settings import Settings
from daemon.errors import EnvironmentFault
from daemon.loop import Loop, LoopFault, Strikes
from daemon.sidecar.sidecars import Sidecars

_log = logging.getLogger(__name__)

# What a limit without a date is taken for, and what `drain` waits for: the quota of a minute, not of a day.
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


class FailurePolicy:
    """Decides what failures mean, also of those that come in a row."""

    def __init__(self, captions: Captions, pauses: CaptionPauses) -> None:
        self._captions = captions
        self._pauses = pauses
        self._troubles = 0
        self._strange: list[int] = []

    def went_well(self) -> None:
        """Note that the service has answered as it should."""
        self._troubles, self._strange = 0, []
        self._pauses.end("Gemini answers again")

    def decide(self, job: CaptionJob, error: Exception, settings: CaptionSettings, now: float) -> float:
        """Turn what went wrong into the row's next status or a pause of all; returns the seconds to wait."""
        reason = str(error)
        match error:
            case gemini.Limited():
                return self._limit(job, error, settings, now)
            case gemini.NoModel() if job.wanted:
                self._captions.conclude(job.id, "failed", reason, now)
            case gemini.Misconfigured():
                return self._stop(reason, settings, now)
            case gemini.Unavailable() | gemini.Unreachable():
                return self._back_off(job, error, settings, now)
            case gemini.BadRequest():
                return self._doubt(job, reason, settings, now)
            case gemini.Blocked() | prompt.Declined():
                self.went_well()
                self._captions.conclude(job.id, "blocked", reason, now)
            case _:  # empty, cut off, in another form
                self.went_well()
                self._again(job, reason, _ANSWERS, now)
        _log.info("image %d: no caption: %s", job.id, reason)
        return 0.0

    def _limit(self, job: CaptionJob, error: gemini.Limited, settings: CaptionSettings, now: float) -> float:
        if error.per_day:
            until, what = day_ends(now), f"Google's quota of the day for {settings.model} is used up"
        else:
            seconds = min(error.seconds or _LIMIT_SECONDS, _DAY_SECONDS)
            until, what = now + seconds, f"Google's quota of the minute for {settings.model} is used up"
        if job.wanted not in {None, "", settings.model}:
            # Another model's quota; the usual one's is another matter.
            self._captions.later(job.id, until, what, spent=False)
            return 0.0
        self._pauses.begin(what, f"{what} ({error})", until, settings.fingerprint, now)
        return until - now

    def _stop(self, reason: str, settings: CaptionSettings, now: float) -> float:
        self._pauses.begin(reason, reason, None, settings.fingerprint, now)
        return math.inf

    def _back_off(self, job: CaptionJob, error: Exception, settings: CaptionSettings, now: float) -> float:
        first, last = _PAUSE_SECONDS
        wait = min(last, first * 2.0 ** min(self._troubles, 10))
        self._troubles += 1
        if isinstance(error, gemini.Unavailable):
            # Perhaps it is this image that the service fails at: others go first.
            self._again(job, str(error), _FAILURES, now)
        self._pauses.begin(type(error).__name__, str(error), now + wait, settings.fingerprint, now)
        return wait

    def _again(self, job: CaptionJob, reason: str, attempts: int, now: float) -> None:
        if job.attempts + 1 >= attempts:
            self._captions.conclude(job.id, "failed", reason, now)
            return
        first, last = _IMAGE_SECONDS
        self._captions.later(job.id, now + min(last, first * 4.0**job.attempts), reason)

    def _doubt(self, job: CaptionJob, reason: str, settings: CaptionSettings, now: float) -> float:
        """Blame one refused image, but not several in a row."""
        self._strange.append(job.id)
        if len(self._strange) < _STRANGE:
            self._captions.conclude(job.id, "failed", reason, now)
            _log.info("image %d: no caption: %s", job.id, reason)
            return 0.0
        self._captions.fill_in(self._strange)
        self._strange = []
        return self._stop(reason, settings, now)


_SOON_SECONDS = 1.0
_REST_SECONDS = 30.0
_STOP_SECONDS = 3.0
_REQUEST_SECONDS = 45.0
_TOKENS = 2048


class CaptionerState(StrEnum):
    """What the captioner does."""

    ON = "on"
    OFF = "off"
    ENDED = "has ended"


class Captioner:
    """Asks for captions from `start` to `stop`; `drain` does so in the caller's thread until nothing is due."""

    def __init__(
        self,
        captions: Captions,
        stored: Settings,
        read_thumbnail: Callable[[str], bytes],
        sidecars: Sidecars,
        settings: Callable[[], CaptionSettings],
        *,
        session: Callable[[], AbstractContextManager[None]] = nullcontext,
        request_seconds: float = _REQUEST_SECONDS,
        report: Callable[[LoopFault | None], None] = lambda _: None,
    ) -> None:
        self.captions = captions
        self._read_thumbnail = read_thumbnail
        self._sidecars = sidecars
        self._settings = settings
        self._seconds = request_seconds
        self._stored = stored
        self._pauses = CaptionPauses(stored)
        self._failures = FailurePolicy(captions, self._pauses)
        self.loop = Loop("captioner", self._step, wake=captions.changed, news=self._news, within=session, report=report)
        self._strikes = Strikes()
        self._client: tuple[str, gemini.Client] | None = None
        self._was_on: bool | None = None
        self._wait = 0.0

    @property
    def settings(self) -> CaptionSettings:
        """Return the settings as they are now."""
        return self._settings()

    @property
    def state(self) -> CaptionerState:
        """What the captioner does at the moment."""
        if not self.loop.alive:
            return CaptionerState.ENDED
        return CaptionerState.ON if self._settings().key else CaptionerState.OFF

    def start(self) -> None:
        """Begin; says once whether captions are on."""
        self.loop.start()

    def stop(self) -> None:
        """End within seconds; an answer that is still awaited is given up, and asked for again another time."""
        self.loop.stop(_STOP_SECONDS)

    def drain(self, turned: Callable[[], object] = lambda: None, *, announced: bool = False) -> float | None:
        """Make the captions that are due, waiting for the minute's quota where need be.

        `turned` is called after each turn; `announced` is whether the caller has said how far captions are. Returns
        the seconds until more can be done, None when nothing is left.
        """
        left: list[float | None] = [None]
        if announced:
            self._was_on = self._settings().key is not None

        def finished() -> bool:
            turned()
            left[0] = self._left()
            return left[0] != 0.0

        self.loop.run(finished, attempts=Strikes.LIMIT)
        return left[0] if self.loop.fault is None else self.loop.backoff()

    def _left(self) -> float | None:
        """Return after how many seconds `drain` could do more: 0 to go on, None where nothing is left."""
        if self.loop.stopping or not self._settings().key or self.captions.count("pending") == 0:
            return None
        if self._wait > _LIMIT_SECONDS:
            return self._wait
        due = self.captions.next_due()
        return due - time.time() if due is not None and due - time.time() > _SOON_SECONDS else 0.0

    def _news(self) -> tuple[int, CaptionSettings]:
        return self.captions.version(), self._settings()

    def _step(self) -> float:
        self._wait = self.run_once(time.time())
        return min(self._wait, _REST_SECONDS)

    def run_once(self, now: float) -> float:
        """Do one turn, at most one request; returns the seconds after which another makes sense.

        Raises what nobody foresaw, and EnvironmentFault; an image on which that happens three times is given up.
        """
        self._write_sidecars()
        return 0.0 if self.loop.stopping else self._turn(now)

    def _write_sidecars(self) -> None:
        """Write all sidecars that are due, however many: none waits for an answer of the service."""
        last = 0
        while due := self.captions.sidecars_due(last):
            for image_id in due:
                if self.loop.stopping:
                    return
                with self._blamed(image_id, partial(self._sidecars.give_up, image_id)):
                    self._sidecars.write(image_id)
            last = due[-1]

    @contextmanager
    def _blamed(self, image_id: int, give_up: Callable[[str], None]) -> Iterator[None]:
        """Count what a block raises against an image, and give up at the third time; it is raised further."""
        try:
            with self._strikes.counting(image_id):
                yield
        except EnvironmentFault:
            raise
        except BaseException:
            if self._strikes.out(image_id):
                give_up(self._strikes.reason(image_id))
                self._strikes.forget(image_id)
            raise
        self._strikes.forget(image_id)

    def _turn(self, now: float) -> float:
        settings = self._settings()
        self._log_state(settings, now)
        if settings.key is None:
            return _REST_SECONDS
        left = self._pauses.left(settings.fingerprint, now)
        if left is not None:
            return left
        job = self.captions.next(now)
        if job is None:
            due = self.captions.next_due()
            return _REST_SECONDS if due is None else max(0.05, min(_REST_SECONDS, due - now))
        with self._blamed(job.id, lambda reason: self.captions.conclude(job.id, "failed", reason, now)):
            return self._work(job, settings, now)

    def _work(self, job: CaptionJob, settings: CaptionSettings, now: float) -> float:
        if settings.is_private(job.folder) or settings.is_private(job.destination.rpartition("/")[0]):
            self.captions.conclude(job.id, "private", "its folder is private", now)
            return 0.0
        try:
            image = self._read_thumbnail(job.sha256)
        except OSError as error:
            self.captions.conclude(job.id, "failed", f"its thumbnail can't be read: {error.strerror}", now)
            return 0.0
        return self._caption(job, image, settings, now)

    def _caption(self, job: CaptionJob, image: bytes, settings: CaptionSettings, now: float) -> float:
        thumb_sha = hashlib.sha256(image).hexdigest()
        if job.wanted is None and (twin := self.captions.twin(thumb_sha, job.id)) is not None:
            self._keep(job, *twin, thumb_sha, now)
            return 0.0
        model = job.wanted or settings.model
        quota = Quota(self.captions, model, settings.requests_per_minute, settings.requests_per_day)
        free_at = quota.free_at(now)
        if free_at > now and job.wanted not in {None, "", settings.model}:
            # Another model's quota must not hold up the usual one's.
            self.captions.later(job.id, free_at, "the quota is used up", spent=False)
            return 0.0
        if free_at > now:
            return free_at - now
        quota.spend(now)
        try:
            words, origin = self._ask(job, image, model, settings)
        except gemini.Stopped:
            return 0.0
        except (gemini.CaptionError, prompt.Unusable) as error:
            return self._failures.decide(job, error, settings, time.time())
        self._failures.went_well()
        self._keep(job, words, origin, thumb_sha, time.time())
        return 0.0

    def _ask(self, job: CaptionJob, image: bytes, model: str, settings: CaptionSettings) -> tuple[Words, CaptionOrigin]:
        if self._client is None or self._client[0] != settings.fingerprint:
            self._close()
            fresh = gemini.Client(settings.key or "", settings.base_url, self.loop.stop_requested, self._seconds)
            self._client = settings.fingerprint, fresh
        text = prompt.compose(settings.prompt, settings.language, _facts(job) if settings.facts else ())
        # Cut off once, it may think longer the next time.
        tokens = _TOKENS << min(job.attempts, 3)
        reply = self._client[1].ask(model, image, text, tokens=tokens)
        answer = prompt.check(reply.text)
        words = Words(answer.caption, answer.keywords, None, answer.visible_text)
        version = prompt.version(settings.prompt, settings.language)
        return words, CaptionOrigin(model, version, reply.tokens_in, reply.tokens_out)

    def _keep(self, job: CaptionJob, words: Words, origin: CaptionOrigin, thumb_sha: str, now: float) -> None:
        if not self.loop.stopping and self.captions.store(job.id, words, origin, thumb_sha, now):
            _log.info("image %d: captioned", job.id)
            self._sidecars.write(job.id)

    def _log_state(self, settings: CaptionSettings, now: float) -> None:
        """Log once whether captions are on, and again when that changes."""
        is_on = settings.key is not None
        if is_on is self._was_on:
            return
        self._was_on = is_on
        if is_on:
            how_far = progress(self.captions, self._stored, settings, now).how_far()
            _log.info("captions are on: %s; %s", how_far, gemini.FREE_KEY)
        else:
            _log.info("captions are off: there is no GEMINI_API_KEY in the environment or in .env")

    def _close(self) -> None:
        if self._client is not None:
            self._client[1].close()
            self._client = None


def _facts(job: CaptionJob) -> tuple[str, ...]:
    """Return what is known of a photo, for the prompt."""
    facts = []
    if job.taken_at and job.taken_from != "mtime":
        facts.append(f"taken on {job.taken_at[:10]}")
    if job.folder:
        facts.append(f"from a folder named {job.folder}")
    camera = " ".join(part for part in (job.camera_make, job.camera_model) if part)
    if camera:
        facts.append(f"camera {camera}")
    return tuple(facts)
