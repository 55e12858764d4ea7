"""Brings the same photos in by real clients, each into a darkroom of its own: small ones, large ones, one in two goes.

What is interrupted is cut off by its client or server somewhere in its middle, lies there for longer than any settling,
and is then resumed by the client's own means, or sent anew where it has none. Judged from outside, as all campaigns.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.campaigns import check, program, servers
from tests.campaigns.acts import photo
from tests.campaigns.kill import Tally
from tests.campaigns.stage import Stage, temporary_stage

PHOTOS = 200
# Of them so many large ones, as of a camera; the last of these is the one that is interrupted.
_LARGE, _LARGE_SIZE = 10, (3000, 2000)
# How long what was interrupted is left alone: longer than all settling, and than attempts with a backoff take. Not
# less: vsftpd opens without waiting, and refuses to resume in the moment in which a lease is held.
_PAUSE_SECONDS = 12.0
_BYTES_PER_SECOND = 2_000_000
_FILED_SECONDS = 120.0
_BATCH = 20


@dataclass(frozen=True)
class Bringing:
    """What a client brings, and where to: the files of a folder, the last of them in two goes.

    `expected` has by its name the hash of what is to come out, for clients that change it to change.
    """

    stage: Stage
    source: Path
    expected: dict[str, str]

    @property
    def inbox(self) -> Path:
        return self.stage.inbox

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.source.iterdir())

    @property
    def whole(self) -> list[str]:
        """The names of those that come in one go."""
        return self.names[:-1]

    @property
    def broken(self) -> str:
        """The name of the one that is interrupted."""
        return self.names[-1]

    def run(self, *words: object, said: str = "", folder: Path | None = None) -> None:
        """Run a client to its end; what it is to do may be `said` to it."""
        done = subprocess.run(
            [str(word) for word in words],
            input=said,
            cwd=folder or self.source,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{words[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")

    def cut(self, *words: object, said: str = "", folder: Path | None = None) -> None:
        """Run a client until a third of the interrupted photo is there, stop it, and leave all as it is for a while."""
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=folder or self.source,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(said)
        process.stdin.close()
        third = (self.source / self.broken).stat().st_size // 3
        program.wait(lambda: self._arrived() >= third, 60, f"{words[0]} does not begin")
        assert process.poll() is None, f"{words[0]} was not to be through so soon"
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        self.leave_alone()

    def leave_alone(self) -> None:
        """Let some time pass."""
        time.sleep(_PAUSE_SECONDS)

    def _arrived(self) -> int:
        """Return how many bytes of the interrupted photo are there, under whatever name."""
        sizes = [path.stat().st_size for path in self.inbox.rglob("*") if self.broken in path.name and path.is_file()]
        return max(sizes, default=0)


def _copy(one: Bringing) -> None:
    one.run("cp", *one.whole, one.inbox)
    # cp has no limit; what it leaves when it is killed is what dd leaves here.
    one.run("dd", f"if={one.broken}", f"of={one.inbox / one.broken}", "bs=64k", "count=8", "status=none")
    one.leave_alone()
    one.run("cp", one.broken, one.inbox)


def _move(one: Bringing) -> None:
    """Move from another filesystem where there is one, so that mv has to copy, and from this one."""
    folders = [Path("/dev/shm"), one.stage.base]
    for number, folder in enumerate(folders):
        with tempfile.TemporaryDirectory(dir=folder if folder.is_dir() else one.stage.base) as outside:
            names = one.names[number :: len(folders)]
            one.run("cp", *names, outside)
            one.run("mv", *(Path(outside) / name for name in names), one.inbox)


def _rsync(*options: str) -> Callable[[Bringing], None]:
    def bring(one: Bringing) -> None:
        one.run("rsync", *options, *one.whole, f"{one.inbox}/")
        one.cut("rsync", *options, f"--bwlimit={_BYTES_PER_SECOND // 1000}", one.broken, f"{one.inbox}/")
        one.run("rsync", *options, one.broken, f"{one.inbox}/")

    return bring


def _scp(one: Bringing) -> None:
    with servers.sshd(one.stage) as ssh:
        target = f"{ssh.account}@127.0.0.1:{one.inbox}/"
        one.run("scp", *ssh.options, *one.whole, target)
        one.cut("scp", "-l", _BYTES_PER_SECOND // 125, *ssh.options, one.broken, target)
        one.run("scp", *ssh.options, one.broken, target)


def _sftp(one: Bringing) -> None:
    with servers.sshd(one.stage) as ssh:
        sftp = ("sftp", "-b", "-", *ssh.options)
        target, begin = f"{ssh.account}@127.0.0.1", f"cd {one.inbox}\n"
        one.run(*sftp, target, said=begin + "".join(f"put {name}\n" for name in one.whole))
        one.cut(*sftp, "-l", _BYTES_PER_SECOND // 125, target, said=f"{begin}put {one.broken}\n")
        one.run(*sftp, target, said=f"{begin}reput {one.broken}\n")


def _curl_to_ftp(one: Bringing) -> None:
    with servers.vsftpd(one.stage) as url:
        curl = ("curl", "-sS", "-T")
        one.run(*curl, f"{{{','.join(one.whole)}}}", url)
        one.cut(*curl, one.broken, "--limit-rate", _BYTES_PER_SECOND, url)
        one.run(*curl, one.broken, "-C", "-", url)


def _lftp(one: Bringing) -> None:
    with servers.vsftpd(one.stage) as url:
        one.run("lftp", "-c", f"open {url}; mput {' '.join(one.whole)}")
        # By itself it saves up what it may send for two seconds, and sends it at once.
        slowly = f"set net:limit-rate 0:{_BYTES_PER_SECOND}; set net:limit-max {_BYTES_PER_SECOND // 20}"
        one.cut("lftp", "-c", f"{slowly}; open {url}; put {one.broken}")
        one.run("lftp", "-c", f"open {url}; put -c {one.broken}")


def _smb(one: Bringing) -> None:
    """Send the interrupted photo anew: Debian's `reput` (4.17) writes the rest over the beginning, wherever it goes."""
    with servers.smbd(one.stage) as client:
        one.run(*client, "-c", "; ".join(f"put {name}" for name in one.whole))
        with tempfile.NamedTemporaryFile() as half:
            half.write((one.source / one.broken).read_bytes()[: 1 << 19])
            half.flush()
            one.run(*client, "-c", f"put {half.name} {one.broken}")
            one.leave_alone()
        one.run(*client, "-c", f"put {one.broken}")


def _webdav(one: Bringing) -> None:
    with servers.rclone("webdav", one.inbox) as url:
        curl = ("curl", "-sSf", "-T")
        one.run(*curl, f"{{{','.join(one.whole)}}}", url)
        one.cut(*curl, one.broken, "--limit-rate", _BYTES_PER_SECOND, url)
        one.run(*curl, one.broken, url)


def _unison(one: Bringing) -> None:
    """Synchronise once: a second time would take back what was filed, as it is gone from the inbox.

    It goes both ways, and darkroom's checks at its start leave a file in the inbox for a moment.
    """
    with tempfile.TemporaryDirectory(dir=one.stage.base) as home:
        unison = ("env", f"UNISON={home}", "unison", "-batch", "-silent", "-ui", "text", "-ignore", "Name .darkroom-*")
        one.run(*unison, "-perms", 0, one.source, one.inbox)


def _wget(one: Bringing) -> None:
    with servers.rclone("http", one.source) as url:
        one.run("wget", "-q", *(url + name for name in one.whole), folder=one.inbox)
        one.cut("wget", "-q", f"--limit-rate={_BYTES_PER_SECOND}", url + one.broken, folder=one.inbox)
        one.run("wget", "-q", "-c", url + one.broken, folder=one.inbox)


def _chromium(one: Bringing) -> None:
    """Download by clicks on a page; a browser that is closed meanwhile deletes what it has, and begins anew."""
    with tempfile.TemporaryDirectory(dir=one.stage.base) as pages, servers.rclone("http", Path(pages)) as url:
        for name in one.names:
            (Path(pages) / name).symlink_to(one.source / name)
        servers.write_download_page(Path(pages) / "index.html", one.names)
        with servers.chromium(f"{url}index.html", one.inbox, Path(pages) / "profile"):
            program.wait(lambda: _has_seen(one), 300, "Chromium does not download all")


def _has_seen(one: Bringing) -> bool:
    return len(check.rows(one.stage)) >= len(one.names)


def _temporary_names(one: Bringing) -> None:
    """Do as gphoto2 does: a `tmpfileXXXXXX` in the folder itself, which is renamed once it is closed."""
    loop = 'for name; do made=$(mktemp -p "$0" tmpfileXXXXXX); cat "$name" > "$made"; mv "$made" "$0/$name"; done'
    one.run("sh", "-c", loop, one.inbox, *one.whole)
    one.run("dd", f"if={one.broken}", f"of={one.inbox}/tmpfileBROKEN", "bs=64k", "count=8", "status=none")
    one.leave_alone()
    one.run("sh", "-c", 'cat "$1" > "$0/tmpfileBROKEN"; mv "$0/tmpfileBROKEN" "$0/$1"', one.inbox, one.broken)


def _in_place(*words: str) -> Callable[[Bringing], None]:
    """Copy photos into the inbox, and have a program change them there."""

    def bring(one: Bringing) -> None:
        for start in range(0, len(one.names), _BATCH):
            batch = one.names[start : start + _BATCH]
            one.run("cp", *batch, one.inbox)
            one.run(*words, *batch, folder=one.inbox)
            one.expected.update((name, check.hash_of(one.inbox / name)) for name in batch)

    return bring


def _scan(one: Bringing) -> None:
    """Write documents of three pages, page by page; each time the file is closed it is a whole document."""
    one.expected.clear()
    pages = [
        [Image.frombytes("L", (60, 80), random.Random(f"{name} {page}").randbytes(4800)) for page in range(3)]
        for name in one.names
    ]
    for page in range(3):
        for name, images in zip(one.names, pages, strict=True):
            path = (one.inbox / name).with_suffix(".tif")
            images[page].save(path, "TIFF", append=page > 0)
            if page == 2:
                one.expected[path.name] = check.hash_of(path)
        if page < 2:
            time.sleep(2.0)


@dataclass(frozen=True)
class Client:
    """A way in which photos come; `packages` has by their programs those of Debian's that it needs."""

    bring: Callable[[Bringing], None]
    packages: Mapping[str, str]
    quiet_seconds: float = 0.0

    def why_not(self) -> str | None:
        """Return why it can't be played here; None where it can."""
        missing = sorted({package for name, package in self.packages.items() if servers.find(name) is None})
        if missing:
            return f"needs Debian's {' and '.join(missing)}"
        # What these two confine themselves by is root's to do.
        return "needs root" if {"vsftpd", "smbd"} & set(self.packages) and os.geteuid() != 0 else None


_SSH = {"sshd": "openssh-server", "sftp": "openssh-client"}
_FTP = {"vsftpd": "vsftpd"}
_RSYNC = {"rsync": "rsync"}
_CURL = {"curl": "curl"}
CLIENTS: dict[str, Client] = {
    "cp": Client(_copy, {}),
    "mv": Client(_move, {}),
    "rsync": Client(_rsync(), _RSYNC),
    "rsync --inplace": Client(_rsync("--inplace"), _RSYNC),
    "rsync --append-verify": Client(_rsync("--append-verify"), _RSYNC),
    "rsync --partial-dir": Client(_rsync("--partial-dir=.rsync-partial"), _RSYNC),
    "scp": Client(_scp, _SSH),
    "sftp": Client(_sftp, _SSH),
    "curl to vsftpd": Client(_curl_to_ftp, _FTP | _CURL),
    "lftp to vsftpd": Client(_lftp, _FTP | {"lftp": "lftp"}),
    "smbclient to Samba": Client(_smb, {"smbd": "samba", "smbclient": "smbclient"}),
    "WebDAV (rclone)": Client(_webdav, {"rclone": "rclone"} | _CURL),
    "Unison": Client(_unison, {"unison": "unison"}),
    "wget": Client(_wget, {"wget": "wget", "rclone": "rclone"}),
    "Chromium": Client(_chromium, {"chromium": "chromium", "rclone": "rclone"}),
    "temporary names, as gphoto2": Client(_temporary_names, {}),
    "exiftool in place": Client(
        _in_place("exiftool", "-q", "-overwrite_original", "-Artist=me"), {"exiftool": "libimage-exiftool-perl"}, 5.0
    ),
    "ImageMagick in place": Client(_in_place("mogrify", "-quality", "80"), {"mogrify": "imagemagick"}, 5.0),
    "a scanner that appends pages": Client(_scan, {}, 5.0),
}
# Those that are played in the short form.
SHORT = ("rsync", "rsync --inplace", "sftp", "curl to vsftpd", "smbclient to Samba", "a scanner that appends pages")


@dataclass(frozen=True)
class Outcome:
    """What came of one client: how many were right, and how long after its end the last photo was filed."""

    tally: Tally
    right: int
    seconds: float


@contextmanager
def photos(count: int) -> Iterator[Path]:
    """Make the photos that all clients bring."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        # Servers that run as other accounts read here, too.
        Path(folder).chmod(0o755)
        large = max(1, count * _LARGE // PHOTOS)
        for number in range(count):
            size = _LARGE_SIZE if number >= count - large else (160, 120)
            (Path(folder) / f"IMG_{number:04}.jpg").write_bytes(photo(number, size))
        yield Path(folder)


def play(name: str, source: Path) -> Outcome:
    """Bring all photos of a folder in by one client, and judge what came of it."""
    client, tally = CLIENTS[name], Tally(name)
    expected = {path.name: check.hash_of(path) for path in source.iterdir()}
    tally.points = len(expected)
    with temporary_stage() as stage:
        inbox = {"settle_seconds": 2.0, "quiet_seconds": client.quiet_seconds}
        stage.configure(inbox=inbox, filing={"sidecars": False})
        # Clients come as other accounts, too.
        stage.base.chmod(0o755)
        stage.inbox.chmod(0o777)
        with program.serving(stage.base):
            try:
                client.bring(Bringing(stage, source, expected))
            except AssertionError as error:
                tally.problems.append(str(error))
            ended = time.monotonic()
            stage.must.update(expected.values())
            try:
                program.wait(lambda: _is_filed(stage), _FILED_SECONDS, lambda: f"not filed: {_waiting(stage)}")
            except AssertionError as error:
                tally.problems.append(str(error))
            seconds = time.monotonic() - ended
        tally.problems += check.drained(stage)
        right, wrong = _right(stage, expected)
        tally.problems += wrong
        log = (stage.base / "run.log").read_text(errors="replace")
        if "Traceback" in log:
            tally.problems.append(f"a traceback: {log[log.index('Traceback') :][:3000]}")
    return Outcome(tally, right, seconds)


def _is_filed(stage: Stage) -> bool:
    rows = check.rows(stage)
    final = all(row["status"] not in {"queued", "processing"} and row["path"] is None for row in rows)
    return final and len(rows) >= len(stage.must) and not list(check.files(stage.inbox))


def _waiting(stage: Stage) -> str:
    waits = [(row["path"], row["waiting"], row["waiting_detail"]) for row in check.rows(stage) if row["path"]]
    return f"{waits[:5]}, and in the inbox {list(check.files(stage.inbox))[:5]}"


def _right(stage: Stage, expected: Mapping[str, str]) -> tuple[int, list[str]]:
    """Return how many are in the library once, whole and under their own names, and what is to be said of others."""
    found: dict[str, list[str]] = {}
    for path in check.files(stage.folder("library")):
        found.setdefault(check.hash_of(stage.folder("library") / path), []).append(Path(path).name)
    wrong = [
        f"{name} is in the library as {found.get(content, [])}"
        for name, content in expected.items()
        if found.get(content) != [name]
    ]
    return len(expected) - len(wrong), wrong


def left_out() -> dict[str, str]:
    """Return the clients that can't be played here, and why."""
    return {name: why for name, client in CLIENTS.items() if (why := client.why_not())}


def play_all(count: int = PHOTOS) -> Tally:
    """Play each client that is here, with a row for README's table on standard error; `kills` counts the clients."""
    total, missing = Tally("clients"), left_out()
    print("| client | photos | right | seconds after the last byte |\n| --- | --- | --- | --- |", file=sys.stderr)
    with photos(count) as source:
        for name in [one for one in CLIENTS if one not in missing]:
            outcome = play(name, source)
            row = f"| {name} | {outcome.tally.points} | {outcome.right} | {outcome.seconds:.1f} |"
            print(row, *outcome.tally.problems, sep="\n", file=sys.stderr, flush=True)
            total.add(outcome.tally)
            total.kills += 1
    return total
