"""What an attacker can do who has taken over a decoder: nothing but to lie about the image at hand."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.decoding import Decoded, Limits, answers, confinement
from daemon.decoding.answers import Lengths, Nonsense
from daemon.decoding.sandbox import Sandbox
from daemon.decoding.worker import HEADER
from daemon.errors import FailureReason, Rejected, Transient, Unresponsive
from daemon.files.opening import Identity
from tests.decoding.images import photo
from tests.decoding.misbehave import deed, work
from tests.support import wait_until

LIMITS = Limits(seconds=20, memory_mb=512)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox(LIMITS, work)
    yield sandbox
    sandbox.close()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.jpg"
    photo().save(path)
    return path


def refusal(sandbox: Sandbox, path: Path, name: str, given: bytes = b"") -> str:
    """Have the decoder do something, and return what it says of it."""
    path.write_bytes(deed(name, given))
    with pytest.raises(Rejected) as raised:
        sandbox.decode(path)
    return str(raised.value)


def lacks(sandbox: Sandbox, good: Path) -> tuple[str, ...]:
    sandbox.decode(good)
    assert sandbox.confinement is not None
    return sandbox.confinement.lacks


def test_an_attacker_opens_reaches_starts_and_signals_nothing(sandbox: Sandbox, good: Path, tmp_path: Path) -> None:
    if missing := lacks(sandbox, good):
        pytest.skip("; ".join(missing))
    library, state, secret = tmp_path / "library/a.jpg", tmp_path / "state/darkroom.db", tmp_path / ".env"
    for path in (library, state, secret):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"private")
    paths = [library, state, secret, good, Path("/etc/passwd"), ROOT / "README.md", Path(sys.executable).resolve()]
    given = json.dumps({"parent": os.getpid(), "paths": [str(path) for path in paths]}).encode()
    assert refusal(sandbox, tmp_path / "attack.jpg", "attack", given) == "not refused: nothing"
    assert [path.read_bytes() for path in (library, state, secret)] == [b"private"] * 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".env", "attack.jpg", "good.jpg", "library", "state"]
    assert sandbox.decode(good).format == "JPEG"


def test_it_is_given_no_environment_no_working_folder_and_no_descriptor(
    sandbox: Sandbox, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    fresh = Sandbox(LIMITS, work)
    told = json.loads(refusal(fresh, tmp_path / "state.jpg", "state"))
    fresh.close()
    assert set(told["environment"]) <= {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LC_CTYPE"}
    assert told["folder"] == "/"
    assert str(ROOT) not in told["path"]
    assert not {"", ".", str(Path.cwd())} & set(told["path"])
    # Its socket, twice nothing, and the photo.
    assert told["descriptors"] == [0, 1, 2, 3]


def framed(told: bytes, small: bytes = b"", medium: bytes = b"") -> bytes:
    return HEADER.pack(len(told), len(small), len(medium)) + told + small + medium


JPEG = b"\xff\xd8\xff\xe0\xff\xd9"
NOTHING = {
    **dict.fromkeys(["camera_make", "camera_model", "lens_model", "datetime_original", "iso", "focal_length"]),
    **dict.fromkeys(["exposure_time", "f_number", "orientation", "lat", "lon"]),
    "dates": {
        **dict.fromkeys(["original", "original_offset", "created", "created_offset", "gps", "iptc"]),
        **dict.fromkeys(["modified", "modified_offset"]),
        "xmp": dict.fromkeys(["original", "photoshop", "created"]),
    },
    "raw": {},
}
IMAGE = {
    "sha256": "0" * 64,
    "format": "GIF",
    "suffixes": [".gif"],
    "width": 1,
    "height": 1,
    "exif": NOTHING,
    "colour": None,
    "warning": None,
}


def image(**changes: object) -> bytes:
    return framed(json.dumps({**IMAGE, **changes}).encode(), JPEG, JPEG)


def with_tag(value: bytes) -> bytes:
    """Return an answer with a tag that Python would not write."""
    told = json.dumps(IMAGE).encode().replace(b'"raw": {}', b'"raw": {"a": %s}' % value)
    return framed(told, JPEG, JPEG)


def refused(**changes: object) -> bytes:
    return framed(json.dumps({"code": "rejected", "text": "", "failure": "other", **changes}).encode())


def not_shown(**changes: object) -> bytes:
    """Return an answer as to a file of a kind without a decoder."""
    return framed(json.dumps({**IMAGE, "width": None, "height": None, **changes}).encode())


def exif(**changes: object) -> bytes:
    return image(exif={**NOTHING, **changes})


class Run:
    """What would make a file if it were ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_an_answer_like_an_honest_one_is_taken(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(deed("say", image()))
    decoded = sandbox.decode(tmp_path / "a.jpg")
    assert (decoded.format, decoded.width, decoded.exif.raw) == ("GIF", 1, {})
    info = (tmp_path / "a.jpg").stat()
    assert (decoded.identity.inode, decoded.identity.size) == (info.st_ino, info.st_size)


def test_an_answer_without_a_picture_is_taken(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(deed("say", not_shown()))
    decoded = sandbox.decode(tmp_path / "a.jpg")
    assert (decoded.width, decoded.small, decoded.medium, decoded.colour) == (None, b"", b"", None)


FORGED = {
    "pickle": framed(pickle.dumps(print)),
    "no JSON": framed(b"{"),
    "endless": HEADER.pack(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF) + bytes(1 << 20),
    "deep": framed(b"[" * 500_000),
    "deep tags": framed(
        json.dumps(IMAGE).replace('"raw": {}', '"raw": {"a": %s}').encode() % (b"[" * 9000 + b"]" * 9000)
    ),
    "no thumbnails": framed(json.dumps(IMAGE).encode()),
    "thumbnails of no picture": image(width=None, height=None),
    "half a size": not_shown(height=1),
    "a colour of no picture": not_shown(colour=7),
    "another field": image(more=1),
    "a hash that leads elsewhere": image(sha256="../" * 21 + "x"),
    "a hash and a line": image(sha256="0" * 64 + "\n"),
    "a suffix that leads elsewhere": image(suffixes=["/../../x.gif"]),
    "a suffix of another format": image(suffixes=[".jpg"]),
    "no pixels": image(width=0),
    "pixels beyond the database": image(width=1 << 80),
    "a size in words": image(width="1"),
    "a line feed": exif(camera_make="a\nb"),
    "an escape sequence": exif(lens_model="\x1b[2J"),
    "a NUL": exif(camera_model="a\0"),
    "half a character": exif(camera_make="\ud800"),
    "half a character among the tags": exif(raw={"a": "\ud800"}),
    "a text of a megabyte": exif(camera_make="a" * 1_000_000),
    "no number": exif(focal_length=float("nan")),
    "no number among the tags": exif(raw={"a": [{"b": float("inf")}]}),
    "a number beyond all": with_tag(b"1e999"),
    "a place on no map": exif(lat=91.0, lon=0.0),
    "an orientation": exif(orientation=9),
    "a colour that has no class": image(colour=64),
    "an error of no kind": refused(code="SystemExit"),
    "an endless error": refused(text="a" * 100_000),
    "an error and an image": refused(sha256=""),
    "a reason that nobody has": refused(failure="tired"),
}


def read(content: bytes) -> Decoded:
    lengths = Lengths.parse(content[: HEADER.size])
    return answers.read(content[HEADER.size :], lengths, Identity(1, 2, 3, 4))


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_answer_is_taken_for_nothing_else(name: str) -> None:
    with pytest.raises(Nonsense):
        read(FORGED[name])


UNENDED = {
    "nothing": b"",
    "half a header": b"\0\0\0",
    "shorter than it says": HEADER.pack(1 << 20, 0, 0) + b"{}",
    "endless": FORGED["endless"],
    "pickle": FORGED["pickle"],
}


@pytest.mark.parametrize("name", UNENDED)
def test_a_forged_answer_costs_its_image_alone(sandbox: Sandbox, good: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "forged.jpg").write_bytes(deed("say", UNENDED[name]))
    with pytest.raises(Transient, match=r"makes no sense|the decoder ended with status 0"):
        sandbox.decode(tmp_path / "forged.jpg")
    assert sandbox.decode(good).format == "JPEG"


def test_what_would_run_is_not_run(sandbox: Sandbox, tmp_path: Path) -> None:
    for given in (pickle.dumps(Run(tmp_path / "ran")), framed(pickle.dumps(Run(tmp_path / "ran")))):
        (tmp_path / "forged.jpg").write_bytes(deed("say", given))
        with pytest.raises(Transient):
            sandbox.decode(tmp_path / "forged.jpg")
    assert not (tmp_path / "ran").exists()


def test_an_error_is_one_of_four_and_its_text_fit_for_a_line(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(deed("say", refused(code="unresponsive", text="\x1b[2J\n")))
    with pytest.raises(Unresponsive) as raised:
        sandbox.decode(tmp_path / "a.jpg")
    assert str(raised.value) == "\\x1b[2J\\n"


def test_why_an_image_fails_comes_along_with_the_error(tmp_path: Path) -> None:
    for code, kind in (("rejected", Rejected), ("transient", Transient)):
        with pytest.raises(kind) as raised:
            read(refused(code=code, failure="damaged"))
        assert getattr(raised.value, "failure", None) is FailureReason.DAMAGED


def test_who_says_more_than_was_asked_is_asked_no_more(sandbox: Sandbox, good: Path, tmp_path: Path) -> None:
    assert refusal(sandbox, tmp_path / "a.jpg", "chatter") == "said"
    [child] = list(sandbox._children)
    wait_until(lambda: not child.is_sound())
    assert sandbox.decode(good).format == "JPEG"
    assert child not in sandbox._children


# -- where the kernel has none of it

_BARE = """
import ctypes, struct, sys
sys.path.insert(0, {root!r})
from daemon.decoding import confinement as c
# Refuses some calls and allows all others, as a kernel does that has them not.
steps = [(c._LOAD, 0, 0, c._NUMBER)]
for number in {numbers!r}:
    steps += [(c._JUMP_EQUAL, 0, 1, number), (c._RETURN, 0, 0, c._ERRNO | {code})]
steps.append((c._RETURN, 0, 0, c._ALLOW))
libc = ctypes.CDLL(None, use_errno=True)
filters = (c._SockFilter * len(steps))(*(c._SockFilter(*step) for step in steps))
program = c._SockProgram(len(steps), filters)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(program)) == 0
from pathlib import Path
from daemon.decoding import Limits
from daemon.decoding.sandbox import Sandbox
from tests.decoding.misbehave import work
from daemon.errors import Rejected
sandbox = Sandbox(Limits(), work)
print(sandbox.decode(Path({good!r})).format)
print(sandbox.confinement.landlock > 0, sandbox.confinement.seccomp, *sandbox.confinement.lacks, sep="|")
# Without seccomp it would succeed.
try:
    if sandbox.confinement.seccomp:
        sandbox.decode(Path({attack!r}))
except Rejected as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("calls", "code", "said"),
    [
        ("landlock", 38, "False|True|Landlock: this kernel has none"),
        ("landlock", 95, "False|True|Landlock: switched off when this machine was started"),
        ("seccomp", 38, "True|False|seccomp: this kernel has none"),
        ("landlock seccomp", 1, "False|False|Landlock: forbidden here"),
    ],
)
def test_what_the_kernel_lacks_is_said_and_the_rest_is_used(
    sandbox: Sandbox, good: Path, tmp_path: Path, calls: str, code: int, said: str
) -> None:
    if missing := lacks(sandbox, good):
        pytest.skip("; ".join(missing))
    numbers = {"landlock": confinement._CREATE_RULESET, "seccomp": confinement._SECCOMP[os.uname().machine != "x86_64"]}
    attack = tmp_path / "attack.jpg"
    attack.write_bytes(deed("attack", json.dumps({"parent": os.getpid(), "paths": ["/etc/passwd"]}).encode()))
    wanted = [numbers[call] for call in calls.split()]
    script = _BARE.format(root=str(ROOT), numbers=wanted, code=code, good=str(good), attack=str(attack))
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    decoded, confined, *rest = ran.stdout.splitlines()
    assert decoded == "JPEG"
    assert confined.startswith(said)
    # Without Landlock it opens nothing at all.
    assert rest == (["not refused: nothing"] if "seccomp" not in calls else [])


THREADS = """
import os, sys, threading
from daemon.decoding.confinement import confine
go, opened = threading.Event(), []
def look():
    go.wait()
    try:
        os.open("/etc/passwd", os.O_RDONLY)
    except PermissionError:
        opened.append("refused")
thread = threading.Thread(target=look)
thread.start()
confined = confine([])
go.set()
thread.join()
os.write(1, repr((confined.landlock, confined.lacks, opened)).encode())
"""


def test_threads_that_are_there_already_open_nothing_either(sandbox: Sandbox, good: Path) -> None:
    if missing := lacks(sandbox, good):
        pytest.skip("; ".join(missing))
    ran = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.stdout.startswith("(0, ('Landlock: a decoder has left threads running")
    assert ran.stdout.endswith("['refused'])")


def test_the_filter_knows_the_other_machine_too() -> None:
    for machine, (audit, column) in confinement._MACHINES.items():
        steps = confinement.program(audit, column, opens=True, pid=1)
        assert len(steps) < 4096, machine
        for at, (code, true, false, _) in enumerate(steps):
            if code in (confinement._JUMP_EQUAL, confinement._JUMP_GREATER_EQUAL):
                assert at + 1 + max(true, false) < len(steps)
