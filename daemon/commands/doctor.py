"""Checks all that darkroom needs, a line each, and says how to fix what is not well.

What is written, into the folders alone, are small files of its own, and they are gone when it ends.
"""

import argparse
import json
import logging
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import daemon
from daemon.app import decoder_count
from daemon.captions.gemini import FREE_KEY, CaptionError, Client, Limited, Misconfigured
from daemon.catalogue import Catalogue
from daemon.catalogue.restore import Restore
from daemon.catalogue.stats import Statistics
from daemon.commands import access_rules, probes
from daemon.config import Config
from daemon.decoding import Limits
from daemon.decoding.confinement import Confinement
from daemon.decoding.sandbox import Sandbox
from daemon.errors import ConfigError, DarkroomError, EnvironmentFault
from daemon.files import atomic, lock
from daemon.files.atomic import Root
from daemon.files.walk import subfolders, walk
from daemon.health import Finding
from daemon.phrases import counted, system_words

_log = logging.getLogger(__name__)

_INOTIFY = Path("/proc/sys/fs/inotify")
# Other programs watch folders too.
_SHARE = 0.8
# What the address of the hooks may take to be reached.
_HOOK_SECONDS = 5.0
# What Gemini may take to answer.
_GEMINI_SECONDS = 15.0


def main(config: Config, args: argparse.Namespace) -> int:
    """Print the findings; 1 when anything is not well."""
    findings = []
    for finding in all_checks(config):
        findings.append(finding)
        if not args.json:
            print(f"{'ok  ' if finding.ok else 'FIX '}  {finding.subject}: {finding.text}", flush=True)
            if finding.fix:
                print(f"      → {finding.fix}", flush=True)
    faults = [finding for finding in findings if not finding.ok]
    if args.json:
        print(json.dumps([{"ok": finding.ok, **asdict(finding)} for finding in findings], indent=2))
    elif faults:
        print(f"\n{len(faults)} of {len(findings)} to fix")
    return 1 if faults else 0


def all_checks(config: Config) -> Iterator[Finding]:
    """Yield what every check finds; takes some seconds."""
    yield configuration(config)
    yield from quick_checks(config)
    if atomic.is_folder(config.folders.inbox):
        yield probes.events(config)
    yield catalogue(config)
    yield from leaving(config)
    yield from decoders(config)
    yield web(config)
    yield from hooks(config)
    yield captions(config)


def quick_checks(config: Config) -> Iterator[Finding]:
    """Yield what the checks find that cost nothing: folders, room, leases, inotify, the clock."""
    yield from probes.folders(config)
    yield from probes.space(config)
    if atomic.is_folder(config.folders.inbox):
        yield probes.leases(config)
        yield watches(config)
    yield from hook_command(config)
    yield probes.clocks(config) or clock()


def warn(config: Config) -> None:
    """Log what the quick checks find that is not well."""
    try:
        for finding in quick_checks(config):
            if not finding.ok:
                _log.warning("%s", finding)
    except (DarkroomError, OSError) as error:
        _log.warning("the checks at the start could not be done: %s", error)


def configuration(config: Config) -> Finding:
    """Return what was read, and whether others may read the secrets."""
    text = str(config.file) if config.file.is_file() else f"there is no {config.file}: all defaults"
    secrets = config.base / ".env"
    try:
        open_to_all = secrets.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
    except OSError:
        return Finding("configuration", text)
    if open_to_all:
        return Finding("configuration", f"{secrets} can be read by others than its owner", f"chmod 600 {secrets}")
    return Finding("configuration", f"{text}, secrets from {secrets}")


def catalogue(config: Config) -> Finding:
    """Return what SQLite's own check says, and whether a catalogue was lost."""
    file = config.catalogue_file
    if not file.is_file():
        return _lost(config) or Finding("catalogue", "none yet: the first run makes it")
    try:
        opened = Catalogue(file)
        said = opened.check()
        if said == "ok" and not Restore(opened).count() and (lost := _lost(config)):
            return lost
    except DarkroomError as fault:
        said = str(fault)
    if said != "ok":
        fix = f"stop darkroom, move {file} away (and {file.name}-wal, {file.name}-shm), then: darkroom rebuild"
        return Finding("catalogue", said, fix)
    return Finding("catalogue", f"{file} is sound")


def leaving(config: Config) -> Iterator[Finding]:
    """Yield why files that are filed are still in the inbox."""
    if not config.catalogue_file.is_file():
        return
    try:
        staying = Statistics(Catalogue(config.catalogue_file)).stats(time.time()).staying
    except DarkroomError:  # said by `catalogue`
        return
    for reason, n in staying.items():
        fix = "give darkroom the right to delete there, or delete them: they are safe in the other folders"
        yield Finding("inbox", f"{n:,} {reason}", fix)


def _lost(config: Config) -> Finding | None:
    """Return that a catalogue was lost, where the library holds files: they would be filed beside once more."""
    library = config.folders.library
    if not library.is_dir() or next(walk(Root(library), config.inbox.ignore, recursive=True), None) is None:
        return None
    text = "the library holds files, and no image is in the catalogue"
    return Finding("catalogue", text, "if they were filed by darkroom: stop it, then darkroom rebuild")


def watches(config: Config, limits: Path = _INOTIFY) -> Finding:
    """Return whether the kernel allows as many watches as there are folders."""
    try:
        allowed = int((limits / "max_user_watches").read_text())
    except (OSError, ValueError):
        return Finding("inotify", "this system has no such limit")
    if config.inbox.observer == "polling":
        return Finding("inotify", "not used")
    wanted = 1 + sum(1 for _ in subfolders(Root(config.folders.inbox))) if config.inbox.recursive else 1
    text = f"{counted(wanted, 'folder')} to watch, {allowed:,} allowed"
    if wanted <= allowed * _SHARE:
        return Finding("inotify", text)
    more = max(524_288, 2 * wanted)
    line = f"fs.inotify.max_user_watches={more}"
    return Finding("inotify", text, f"sudo sysctl {line}; for good: echo {line} | sudo tee /etc/sysctl.d/darkroom.conf")


def clock(now: float | None = None) -> Finding:
    """Return whether the clock was ever set; one that nobody has set is earlier than this program."""
    now = time.time() if now is None else now
    made = Path(daemon.__file__).stat().st_mtime
    text = datetime.fromtimestamp(now, UTC).astimezone().isoformat(" ", "seconds")
    # A day: the program may have been unpacked in another time zone.
    if now < made - 86_400:
        return Finding(
            "clock", f"it says {text}, before this program was made", "set it: sudo timedatectl set-ntp true"
        )
    return Finding("clock", text)


def web(config: Config) -> Finding:
    """Return whether the web server can serve where it should, and whom."""
    from web.app import bind, unsafe

    access, port = access_rules(config), config.web.port
    if (fault := unsafe(access)) is not None:
        return Finding("web", *fault)
    where = f"{config.web.host}, {f'port {port}' if port else 'any free port'}"
    whom = "who has the token" if config.token else "this machine alone"
    if (pid := lock.running(config.folders.state)) is not None:
        return Finding("web", f"served at {where} to {whom}, by the darkroom that runs here (pid {pid or 'unknown'})")
    try:
        bind(access, port).close()
    except ConfigError as error:
        fix = "name another port under [web] in config.toml, or stop the program that has it"
        return Finding("web", f"port {port} on {config.web.host} can't be used: {system_words(error)}", fix)
    return Finding("web", f"can be served at {where} to {whom}")


def hooks(config: Config) -> Iterator[Finding]:
    """Yield whether the address that is told of outcomes can be reached."""
    if not config.hooks.command and not config.hooks.url:
        yield Finding("hooks", "none")
    if config.hooks.url:
        parts = urlsplit(config.hooks.url)
        where = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection(where, _HOOK_SECONDS).close()
        except OSError as error:
            fix = "start what serves it, or change url in [hooks] of config.toml"
            reason = error.strerror or str(error)
            yield Finding("hooks", f"{parts.hostname} does not answer at port {where[1]}: {reason}", fix)
        else:
            yield Finding("hooks", f"{parts.hostname} answers at port {where[1]}")


def hook_command(config: Config) -> Iterator[Finding]:
    """Yield whether the command of the hooks can be started, where there is one."""
    for program in config.hooks.command[:1]:
        if (found := shutil.which(program)) is None:
            fix = "name its whole path in [hooks] of config.toml, and let it be executable"
            yield Finding("hooks", f"there is no program {program} that this account may start", fix)
        else:
            yield Finding("hooks", f"{found} is there")


def captions(config: Config) -> Finding:
    """Return whether Gemini takes the key and knows the model; asks for the model's description."""
    if config.gemini_key is None:
        return Finding("captions", "off: there is no GEMINI_API_KEY")
    model = config.captions.model
    client = Client(config.gemini_key.get_secret_value(), config.gemini_base_url, threading.Event(), _GEMINI_SECONDS)
    try:
        client.check(model)
    except Limited as error:
        return Finding("captions", f"key and model are good; the quota is used up for now: {error}")
    except Misconfigured as error:
        return Finding("captions", str(error), "see https://aistudio.google.com/apikey, and [captions] in config.toml")
    except CaptionError as error:
        return Finding("captions", str(error), "look whether this machine reaches the internet; filing goes on without")
    finally:
        client.close()
    return Finding("captions", f"key and model {model} are good; {FREE_KEY}")


_INSTALL = "install darkroom's dependencies again (pip install --force-reinstall .)"


# Small images that come with the program, of each format, by the name that decoding gives the format.
SAMPLES: Mapping[str, Path] = {
    name: Path(daemon.__file__).parent / "decoding/samples" / file
    for name, file in {
        "JPEG": "sample.jpg",
        "PNG": "sample.png",
        "WebP": "sample.webp",
        "TIFF": "sample.tif",
        "TIFF, 16 bits": "sample-16bit.tif",
        "GIF": "sample.gif",
        "BMP": "sample.bmp",
        "AVIF": "sample.avif",
        "JPEG 2000": "sample.jp2",
        "JPEG XL": "sample.jxl",
        "HEIC": "sample.heic",
        "DNG": "sample.dng",
    }.items()
}


def decoders(config: Config, samples: Mapping[str, Path] = SAMPLES) -> Iterator[Finding]:
    """Decode a small image of each format, under the limits that hold for the user's."""
    limits = config.limits
    sandbox = Sandbox(Limits(limits.file_mb, limits.megapixels, limits.decode_seconds, limits.decode_memory_mb))
    try:
        for name, file in samples.items():
            yield _decoder(sandbox, name, file)
        if sandbox.confinement is not None:
            yield _confined(sandbox.confinement, decoder_count(config))
    except EnvironmentFault as fault:
        yield Finding("decoders", str(fault), f"raise [limits] decode_memory_mb, or {_INSTALL}")
    finally:
        sandbox.close()


def _confined(confinement: Confinement, count: int) -> Finding:
    """Return how many decoders there may be and by what they are shut in; what a kernel lacks can't be fixed here."""
    parts = " and ".join(confinement.parts)
    shut_in = f"shut in by {parts}" if parts else "limits on time and memory alone"
    at_once = "one at a time" if count == 1 else f"{count} at a time"
    return Finding("decoders", "; ".join([f"{at_once}, {shut_in}", *(f"without {why}" for why in confinement.lacks)]))


def _decoder(sandbox: Sandbox, name: str, file: Path) -> Finding:
    subject = f"{name} decoder"
    try:
        found = sandbox.decode(file)
    except EnvironmentFault:
        raise
    except DarkroomError as error:
        return Finding(subject, f"the test image {file} can't be decoded: {error}", _INSTALL)
    if found.format != name.partition(",")[0]:
        return Finding(subject, f"takes it for {found.format}", _INSTALL)
    return Finding(subject, f"{found.width} by {found.height} pixels")
