"""Plays a neighbour who may write into the inbox, and who wants what is the daemon's account's alone.

He swaps what is queued for links to secrets, after each call that names it; flips it to and fro as fast as he can;
plants links under every temporary name that can be foretold; leaves set-id bits, open descriptors and second names.
A success of his is a problem, and so is a photo that is lost or not filed.
"""

import itertools
import os
import random
import re
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.campaigns import accounts, check, program, swaps
from tests.campaigns.acts import TEXT, photo
from tests.campaigns.kill import Tally, in_parallel
from tests.campaigns.random_kills import upload
from tests.campaigns.shared import Room, room
from tests.campaigns.stage import OUTPUTS, has_second_filesystem

# Names that were or might be used for a file of the daemon's own; those that a run is seen to use are added.
PLANTED = (
    ".darkroom-{number}",
    ".darkroom-{number}.part",
    ".darkroom-{number}-1.part",
    ".darkroom-upload-{number}",
    ".darkroom-doctor-{number}",
    ".darkroom-doctor-{pid}",
    ".darkroom-doctor-{pid}-{number}",
)
# So many numbers, of images and of the next processes, are foretold.
_NUMBERS, _PIDS = 8, 250
MODES = (0o4755, 0o2755, 0o6777, 0o1777, 0o755, 0o777, 0o666, 0o664, 0o644)
# Set-id, sticky, to be executed, writable by others.
_NEVER = 0o7000 | 0o111 | stat.S_IWOTH


# -- planted names


def planted(*, thin: bool) -> Tally:
    """Plant links to a victim, and to what does not exist yet, under temporary names, before each command.

    Then once more, under those names, too, that the first time was seen to use.
    """
    tally = Tally("planted names")
    kinds = [(target, across) for target in ("victim", "made") for across in _sides()]
    for part in in_parallel(lambda kind: _planted(*kind), kinds[-1:] if thin else kinds):
        tally.add(part)
    return tally


def _planted(target: str, across: bool) -> Tally:
    tally = Tally("planted names, two filesystems" if across else "planted names")
    names = set(PLANTED)
    for _ in range(2):
        names |= _plant_all(tally, target, sorted(names), across=across)
    return tally


def _sides() -> list[bool]:
    """Return whether the outputs are to lie on another filesystem: on none, and where there is one on that."""
    return [False, True][: 1 + has_second_filesystem()]


def _plant_all(tally: Tally, target: str, names: Sequence[str], *, across: bool) -> set[str]:
    """Give each command its turn among the planted names; return what the names were that they used."""
    bad = f"a trip {TEXT.decode()}".encode()
    with room(across=across) as here, ExitStack() as stack:
        victim = here.own(here.private / "victim", b"the owner's own\n" * 99)
        here.offer("trip/bad.jpg", bad)
        here.run("run", "--once")
        here.guard([victim])
        log = Path(stack.enter_context(tempfile.NamedTemporaryFile(suffix=".strace")).name)
        log.chmod(0o666)
        used: set[str] = set()
        for name, command in _commands(here).items():
            _plant(here, names, here.private / target)
            # As a grandchild: who signals the process that was started signals darkroom itself.
            traced = ["strace", "-D", "-f", "--seccomp-bpf", "-y", "-qq", "-o", str(log), "-e", "trace=%file"]
            wrong = command(here.words(*traced))
            wrong += here.faults()
            tally.points += 1
            if wrong:
                tally.problems.append(f"{tally.name}: {name}, by links to {target}: {'; '.join(wrong)}")
            used |= _used(log, here.stage.inbox)
            victim.write_bytes(b"the owner's own\n" * 99)
            (here.private / "made").unlink(missing_ok=True)
            here.guard([victim])
        if not any(row["status"] == "failed" for row in check.rows(here.stage)):
            tally.problems.append(f"{tally.name}: what was tried again did not fail again")
    return used


def _commands(here: Room) -> dict[str, Callable[[list[str]], list[str]]]:
    def command(*words: str) -> Callable[[list[str]], list[str]]:
        def run(under: list[str]) -> list[str]:
            text = program.run(here.stage.base, *words, under=under).text
            return [f"a traceback: {text[-500:]}"] if "Traceback" in text else []

        return run

    def file(under: list[str]) -> list[str]:
        here.offer("trip/good.jpg", photo(1))
        here.offer("trip/again.jpg", photo(1))
        wrong = command("run", "--once")(under)
        return wrong if here.filed("good.jpg") or here.filed("again.jpg") else [*wrong, "a photo is not filed"]

    def take_upload(under: list[str]) -> list[str]:
        try:
            with program.serving(here.stage.base, under=under):
                if not upload(here.stage, "sent.jpg", photo(2), random.Random(1)):
                    return ["an upload is refused"]
                program.wait(lambda: here.filed("sent.jpg"), 15, "an upload is not filed")
        except AssertionError as error:
            return [str(error)]
        return []

    doctor, retry = command("doctor"), command("retry", "--failed")
    return {"doctor": doctor, "retry": retry, "filing": file, "an upload": take_upload}


def _plant(here: Room, names: Sequence[str], target: Path) -> None:
    last = int(Path("/proc/loadavg").read_text().split()[-1])
    with accounts.neighbour():
        for folder in (here.stage.inbox, here.stage.inbox / "trip"):
            folder.mkdir(exist_ok=True)
            for name in names:
                for number in range(_NUMBERS if "{number}" in name else 1):
                    for pid in range(last, last + _PIDS) if "{pid}" in name else [0]:
                        # What is there from before, or is a folder of the daemon's own, stays.
                        with suppress(FileExistsError):
                            (folder / name.format(number=number, pid=pid)).symlink_to(target)


def _used(log: Path, inbox: Path) -> set[str]:
    """Return the hidden names of its own that a traced run used in the inbox, without its process's number."""
    text = log.read_text(errors="replace")
    pids = set(re.findall(r"^\d+", text, re.MULTILINE))
    names = {
        name for line in text.splitlines() if str(inbox) in line for name in re.findall(r"\.darkroom-[\w.-]+", line)
    }
    return {re.sub(r"\d+", lambda found: "{pid}" if found[0] in pids else found[0], name) for name in names}


# -- what arrives


def modes() -> Tally:
    """File files of all modes, of both accounts; what arrives nobody may execute, and no other account write."""
    tally = Tally("modes")
    for across in _sides():
        tally.add(_modes(across))
    return tally


def _modes(across: bool) -> Tally:
    tally = Tally("modes, two filesystems" if across else "modes")
    with room(across=across, library=0o2775 if across else 0o750) as here:
        library = here.stage.folder("library")
        wanted, others = library.stat().st_mode, set[str]()
        for uid, mode in itertools.product((accounts.OWNER, accounts.NEIGHBOUR), MODES):
            content = photo(uid * 10_000 + mode)
            folder = f"of {'the owner' if uid == accounts.OWNER else 'the neighbour'} {mode:04o}"
            offered = {"good.jpg": content, "twin.jpg": content, "bad.jpg": f"{folder} {TEXT.decode()}".encode()}
            for name, bytes_ in offered.items():
                here.offer(f"{folder}/{mode:o}-{uid}-{name}", bytes_, uid, mode)
                tally.points += 1
        here.guard()
        here.run("run", "--once")
        problems = [*here.served(), *here.faults()]
        for path in (path for place in OUTPUTS for path in here.stage.folder(place).rglob("*")):
            found, name = path.lstat().st_mode, "/".join(path.parts[-2:])
            if not path.is_dir() and found & _NEVER:
                problems.append(f"{name} has mode {stat.S_IMODE(found):04o}")
            elif path.is_dir() and path.is_relative_to(library) and found != wanted:
                others.add(f"{stat.S_IMODE(found):04o}")
        if others:
            problems.append(f"folders in the library have other modes than it has: {', '.join(sorted(others))}")
        tally.problems += [f"{tally.name}: {problem}" for problem in problems]
    return tally


def inodes() -> Tally:
    """File files that the neighbour holds open, or has another name of, and let him write into them afterwards."""
    tally = Tally("inodes")
    for across in _sides():
        tally.add(_inodes(across))
    return tally


def _inodes(across: bool) -> Tally:
    tally = Tally("inodes, two filesystems" if across else "inodes")
    with room(across=across) as here, ExitStack() as stack:
        held: dict[tuple[int, int], int] = {}
        for number, (how, name) in enumerate(itertools.product(("open", "named", "owner's"), ("good", "twin", "bad"))):
            content = f"{number} {TEXT.decode()}".encode() if name == "bad" else photo(number - (name == "twin"))
            uid = accounts.OWNER if how == "owner's" else accounts.NEIGHBOUR
            path = here.offer(f"trip/{number}-{name}.jpg", content, uid)
            with accounts.neighbour():
                own = here.kept / path.name
                # Of another's file fs.protected_hardlinks lets him, as long as he may write into it.
                os.link(path, own)
                opened = os.open(own, os.O_RDWR) if how == "open" else -1
            if opened >= 0:
                stack.callback(os.close, opened)
            held[_inode(own)] = opened
            tally.points += 1
        here.run("run", "--once")
        with accounts.neighbour():
            for own in here.kept.iterdir():
                descriptor = held[_inode(own)]
                with open(os.dup(descriptor) if descriptor >= 0 else own, "r+b") as file:
                    file.write(b"changed")
        here.offered.clear()
        problems = here.served()
        for row in check.rows(here.stage):
            if row["place"] is None:
                problems.append(f"{row['original_name']} is {row['status']}")
                continue
            path = here.stage.folder(row["place"]) / row["destination"]
            is_his, changed = _inode(path) in held, check.hash_of(path) != row["sha256"]
            if is_his or changed:
                what = (
                    f"is{'' if is_his else ' not'} the file that he holds, and was {'' if changed else 'not '}changed"
                )
                problems.append(f"{row['place']}/{row['destination']} {what}")
        tally.problems += [f"{tally.name}: {problem}" for problem in problems]
    return tally


def _inode(path: Path) -> tuple[int, int]:
    return path.stat().st_dev, path.stat().st_ino


PARTS: Mapping[str, Callable[[bool], Tally]] = {
    "swaps": lambda thin: swaps.at_each_call(101 if thin else 1),
    "flips": lambda thin: swaps.flips(3 if thin else 60),
    "planted names": lambda thin: planted(thin=thin),
    "modes": lambda _: modes(),
    "inodes": lambda _: inodes(),
}
