"""Ask for captions again, or for those that are missing, after saying how many requests that makes."""

import argparse
import re
import sys
import time
from collections.abc import Callable

from daemon.app import open_catalogue
from daemon.captions.captioner import Captioner
from daemon.captions.limits import PAUSE_KEY, Quota, progress, roughly, stored_pause
from daemon.captions.settings import LiveSettings, caption_settings
from daemon.catalogue import Catalogue
from daemon.catalogue.captions import Captions
from daemon.catalogue.companions import SidecarRows
from daemon.catalogue.settings import Settings
from daemon.config import MODEL, Config
from daemon.errors import ConfigError, Rejected
from daemon.files import lock
from daemon.filing.thumbnail_store import Thumbnails
from daemon.sidecar.sidecars import Sidecars

_LOOK_SECONDS = 0.3
# Nothing is due for so long: another model's quota, or answers that were none. Nobody wants to watch that.
_REST_SECONDS = 90.0


def main(config: Config, args: argparse.Namespace) -> int:
    """Ask; 0 when each has its caption, 1 when some were refused, failed, or must wait for the quota."""
    settings = caption_settings(config)
    if args.model is not None and not re.fullmatch(MODEL, args.model):
        raise ConfigError(f"--model takes a model's name such as gemini-flash-latest, not {args.model[:100]!r}")
    if settings.key is None:
        raise ConfigError("captions need a key: put GEMINI_API_KEY=… into .env beside config.toml")
    catalogue = open_catalogue(config)
    captions, stored = Captions(catalogue), Settings(catalogue)
    refused = 0
    if args.missing:
        wanted = [*captions.missing(), *captions.waiting()]
    else:
        wanted = list(dict.fromkeys(args.ids))
        refused = _refuse(captions, wanted)
    if not wanted:
        print("no captions are missing" if args.missing else "nothing to ask for")
        return 1 if refused else 0
    now = time.time()
    model = args.model or settings.model
    quota = Quota(captions, model, settings.requests_per_minute, settings.requests_per_day)
    used = f", {quota.used_today(now):,} of {quota.per_day:,} of today's are used" if quota.per_day else ""
    print(
        f"this makes at most {len(wanted):,} requests to {model}{used};"
        f" done in about {roughly(quota.seconds_for(len(wanted), now))}",
        flush=True,
    )
    # Somebody is there and wants it: what was refused before may be mended on Google's side.
    if (pause := stored_pause(stored)) is not None and pause.until is None:
        stored.set(PAUSE_KEY, None)
    if args.missing and args.model is None:
        captions.fill_in(wanted)
    else:
        for image_id in wanted:
            captions.ask_again(image_id, now, args.model)
    left = _follow(config, catalogue, captions, stored, wanted)
    return 1 if refused or left or captions.without(wanted) else 0


def _refuse(captions: Captions, wanted: list[int]) -> int:
    """Say which images can't be asked for, and leave them out."""
    refused = 0
    for image_id in list(wanted):
        try:
            captions.check(image_id)
        except Rejected as reason:
            print(reason, file=sys.stderr)
            wanted.remove(image_id)
            refused += 1
    return refused


def _follow(config: Config, catalogue: Catalogue, captions: Captions, stored: Settings, wanted: list[int]) -> int:
    """Show the progress until all is done that can be done now; returns how many are left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}")
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("captions", total=len(wanted), speed="")

        def show() -> int:
            left = captions.pending_among(wanted)
            now = progress(captions, stored, caption_settings(config), time.time())
            speed = f"paused: {now.paused}" if now.paused else ""
            bar.update(task, completed=len(wanted) - left, speed=speed)
            return left

        try:
            left = None
            if lock.running(config.folders.state) is not None:
                left = _by_daemon(show, config, captions, stored)
            if left is None:
                left = _by_ourselves(show, config, catalogue, captions, stored)
        except KeyboardInterrupt:
            left = show()
    made = len(wanted) - left - captions.without(wanted)
    print(f"{made:,} captioned", end="")
    print(f", {left:,} wait and are made by darkroom run" if left else "")
    for reason, n in captions.reasons(wanted):
        print(f"{n:,} not: {reason}", file=sys.stderr)
    return left


def _by_daemon(show: Callable[[], int], config: Config, captions: Captions, stored: Settings) -> int | None:
    """Watch the running darkroom make the captions; None where it has ended meanwhile."""
    while (left := show()) > 0:
        if lock.running(config.folders.state) is None:
            return None
        now = progress(captions, stored, caption_settings(config), time.time())
        rests = (captions.next_due() or 0) > time.time() + _REST_SECONDS
        if now.paused or rests or now.requests_today >= now.per_day > 0:
            print(now.line(), file=sys.stderr)
            return left
        time.sleep(_LOOK_SECONDS)
    return left


def _by_ourselves(
    show: Callable[[], int], config: Config, catalogue: Catalogue, captions: Captions, stored: Settings
) -> int:
    folders = config.folders
    with lock.exclusive(folders.state, []):
        sidecars = Sidecars(SidecarRows(catalogue), folders.library, enabled=config.filing.sidecars)
        thumbnails = Thumbnails(folders.state / "thumbnails")
        captioner = Captioner(captions, stored, thumbnails, sidecars, LiveSettings(config), session=catalogue.session)
        captioner.drain(show)
    left = show()
    if left:
        print(progress(captions, stored, caption_settings(config), time.time()).line(), file=sys.stderr)
    return left
