"""Asks for captions again, or for those that are missing, after saying how many requests that makes.

A running darkroom makes them, and the command shows how far it is; without one the command makes them itself. Sidecars
follow; a caption that a person wrote is never replaced.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from daemon.app import build, existing_catalogue
from daemon.captions.limits import CaptionProgress, Quota, forget_pause, progress, roughly, stored_pause
from daemon.captions.settings import CaptionSettings, caption_settings
from daemon.catalogue import Catalogue
from daemon.catalogue.captions import Captions
from daemon.catalogue.settings import Settings
from daemon.config import MODEL, Config
from daemon.errors import ConfigError, Rejected
from daemon.files import lock
from daemon.phrases import counted

_SHOW_SECONDS = 0.3
# Nothing is due for so long: another model's quota, or answers that were none. Nobody wants to watch that.
_REST_SECONDS = 90.0


def main(config: Config, args: argparse.Namespace) -> int:
    """Ask; 0 when each has its caption, 1 when some were refused, failed, or must wait for the quota."""
    catalogue, settings = existing_catalogue(config), caption_settings(config)
    if args.model is not None and not re.fullmatch(MODEL, args.model):
        raise ConfigError(f"--model takes a model's name such as gemini-flash-latest, not {args.model[:100]!r}")
    if settings.key is None:
        raise ConfigError(f"captions need a key: put GEMINI_API_KEY=… into {config.base / '.env'}")
    captions = Captions(catalogue)
    asked = [*captions.missing(), *captions.waiting()] if args.missing else list(dict.fromkeys(args.ids))
    wanted = asked if args.missing else _accepted(captions, settings, asked)
    refused = len(asked) - len(wanted)
    if not wanted:
        print("no captions are missing" if args.missing else "nothing to ask for")
        return 1 if refused else 0
    now, stored = time.time(), Settings(catalogue)
    # Somebody is there and wants it: what was refused before may be fixed on Google's side.
    if (pause := stored_pause(stored)) is not None and pause.until is None:
        forget_pause(stored)
    paused = progress(captions, stored, settings, now).paused_until or now
    print(_announcement(captions, settings, args.model or settings.model, len(wanted), now, paused), flush=True)
    if args.missing and args.model is None:
        captions.fill_in(wanted)
    else:
        for image_id in wanted:
            captions.ask_again(image_id, now, args.model)
    left = _Following(config, catalogue, wanted).run()
    return 1 if refused or left or captions.without(wanted) else 0


def _accepted(captions: Captions, settings: CaptionSettings, image_ids: Sequence[int]) -> list[int]:
    """Return the images that can be asked for; for the others print why not."""
    accepted = []
    for image_id in image_ids:
        try:
            if any(map(settings.is_private, captions.check(image_id))):
                raise Rejected(f"image {image_id}: its folder is private, so no model is asked about it")
        except Rejected as reason:
            print(reason, file=sys.stderr)
        else:
            accepted.append(image_id)
    return accepted


def _announcement(
    captions: Captions, settings: CaptionSettings, model: str, requests: int, now: float, paused: float
) -> str:
    quota = Quota(captions, model, settings.requests_per_minute, settings.requests_per_day)
    used = f", {quota.used_today(now):,} of {quota.per_day:,} of today's are used" if quota.per_day else ""
    seconds = roughly(max(quota.seconds_for(requests, now), paused - now))
    return f"this makes at most {counted(requests, 'request')} to {model}{used}; done in about {seconds}"


class _Following:
    """Shows how far the captions of some images are, until all is done that can be done now."""

    def __init__(self, config: Config, catalogue: Catalogue, wanted: Sequence[int]) -> None:
        self._config, self._catalogue, self._wanted = config, catalogue, wanted
        self._captions, self._settings = Captions(catalogue), Settings(catalogue)

    def run(self) -> int:
        """Return how many captions are still waited for."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
        )
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("captions", total=len(self._wanted), speed="")

            def show() -> int:
                left, paused = self._captions.pending_among(self._wanted), self._progress().paused
                speed = f"paused: {paused}" if paused else ""
                bar.update(task, completed=len(self._wanted) - left, speed=speed)
                return left

            try:
                left = self._until_made(show)
            except KeyboardInterrupt:
                left = show()
        self._print(left)
        return left

    def _until_made(self, show: Callable[[], int]) -> int:
        left = None
        if lock.running(self._config.folders.state) is not None:
            left = self._by_daemon(show)
        return self._by_ourselves(show) if left is None else left

    def _by_daemon(self, show: Callable[[], int]) -> int | None:
        """Wait while the running darkroom makes the captions; return None where it has ended meanwhile."""
        while (left := show()) > 0:
            if lock.running(self._config.folders.state) is None:
                return None
            now = self._progress()
            rests = (self._captions.next_due() or 0) > time.time() + _REST_SECONDS
            if now.paused or rests or now.requests_today >= now.per_day > 0:
                print(now.line(), file=sys.stderr)
                return left
            time.sleep(_SHOW_SECONDS)
        return left

    def _by_ourselves(self, show: Callable[[], int]) -> int:
        with lock.exclusive(self._config.folders.state, []):
            darkroom = build(self._config, self._catalogue)
            try:
                darkroom.captioner.drain(show, announced=True)
            finally:
                darkroom.close()
        if left := show():
            print(self._progress().line(), file=sys.stderr)
        return left

    def _progress(self) -> CaptionProgress:
        return progress(self._captions, self._settings, caption_settings(self._config), time.time())

    def _print(self, left: int) -> None:
        made = len(self._wanted) - left - self._captions.without(self._wanted)
        waiting = f", {left:,} left to darkroom run" if left else ""
        print(f"{counted(made, 'photo')} captioned{waiting}")
        for reason, n in self._captions.reasons(self._wanted):
            print(f"{counted(n, 'photo')} not: {reason}", file=sys.stderr)
