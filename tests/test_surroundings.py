"""What a machine may lack: a UTF-8 locale, standard streams, a home folder, an init."""

import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from daemon.config import load
from tests.campaigns import accounts
from tests.program import Program, darkroom, environment
from tests.support import jpeg, rest_slow, slow, tree, wait_until

PHOTO = jpeg(taken="2024:05:01 12:34:56")
MARK = b"\xef\xbb\xbf"
NOT_UTF8 = [
    {"LANG": "C"},
    {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
    # As where Python neither takes C for UTF-8 nor finds a locale: names would be read as ASCII.
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


def _decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "config.toml").write_text("[inbox]\nsettle_seconds = 0.05\n[web]\nport = 0\n")
    return tmp_path


def _names(folder: Path) -> set[bytes]:
    return {os.fsencode(path.name) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("locale", rest_slow(NOT_UTF8[::-1], 1), ids=["ascii names", "ascii output", "C"])
@pytest.mark.slow
def test_names_are_right_on_disk_whatever_the_terminal_shows(base: Path, locale: dict[str, str]) -> None:
    (base / "inbox" / _decomposed("Grün.jpg")).write_bytes(PHOTO)
    (base / "inbox/日本.jpg").write_bytes(b"no photo at all\n" * 9)
    done = _run(base, locale, "run", "--once")
    assert done.returncode == 1
    assert _names(base / "library") == {"Grün.jpg".encode(), "Grün.jpg.xmp".encode()}
    assert "日本.jpg".encode() in _names(base / "failed")
    for words in (["list"], ["explain", "日本.jpg"], ["status"], ["verify"], ["retry", "--failed"]):
        told = _run(base, locale, *words)
        assert told.returncode == 0, told.stderr
        assert b"Traceback" not in told.stderr
    listed = _run(base, locale, "list").stdout
    assert ("Grün" if locale == {"LANG": "C"} else r"Gr\xfcn").encode() in listed
    assert "日本.jpg".encode() in _names(base / "inbox")


def _run(base: Path, locale: dict[str, str], *words: str) -> "subprocess.CompletedProcess[bytes]":
    without = {key: value for key, value in environment().items() if not key.startswith(("LC_", "LANG"))}
    command = [sys.executable, "-m", "daemon", *words]
    return subprocess.run(command, cwd=base, env=without | locale, capture_output=True, timeout=60, check=False)


def test_names_that_are_no_utf8_come_back_byte_for_byte(base: Path) -> None:
    photo, text, beside = b"caf\xe9/f\xff\xfe.jpg", b"caf\xe9/t\xff.jpg", b"caf\xe9/f\xff\xfe.aae"
    (base / "inbox" / os.fsdecode(b"caf\xe9")).mkdir()
    (base / "inbox" / os.fsdecode(photo)).write_bytes(PHOTO)
    (base / "inbox" / os.fsdecode(beside)).write_bytes(b"<plist/>")
    (base / "inbox" / os.fsdecode(text)).write_bytes(b"no photo at all\n" * 9)
    assert darkroom(base, "run", "--once").returncode == 1
    assert darkroom(base, "undo", "--since", "1h", "--to", "back").returncode == 0
    back = {os.fsencode(name): content for name, content in tree(base / "back").items()}
    assert (back[photo], back[beside]) == (PHOTO, b"<plist/>")
    assert darkroom(base, "retry", "--failed").returncode == 0
    assert [os.fsencode(name) for name in tree(base / "inbox")] == [text]


@pytest.mark.parametrize("forms", [("NFD", "NFC"), slow(("NFC", "NFD"))])
def test_a_photo_and_its_companions_in_two_unicode_forms_stay_together(
    base: Path, forms: tuple[Literal["NFC", "NFD"], Literal["NFC", "NFD"]]
) -> None:
    photo, companion = (unicodedata.normalize(form, "Grün é") for form in forms)
    (base / "inbox" / f"{photo}.jpg").write_bytes(PHOTO)
    for suffix in (".aae", ".MOV", ".jpg.json"):
        (base / "inbox" / (companion + suffix)).write_text(f'{{"title": "{suffix}"}}')
    assert darkroom(base, "run", "--once").returncode == 0
    stem = unicodedata.normalize("NFC", photo)
    found = {name for name in tree(base / "library") if not name.endswith(".xmp")}
    assert found == {f"2024/05/{stem}{suffix}" for suffix in (".jpg", ".aae", ".MOV", ".jpg.json")}
    assert not tree(base / "failed")


def test_a_byte_order_mark_is_no_part_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(MARK + b"[web]\nport = 8123\n")
    (tmp_path / ".env").write_bytes(MARK + b"GEMINI_API_KEY=key\n")
    config = load(tmp_path / "config.toml", {})
    assert config.web.port == 8123
    assert config.gemini_key is not None


@pytest.mark.parametrize("closed", rest_slow(["<&- >&- 2>&-", "<&-", ">&-", "2>&-", "<&- 2>&-"], 1))
@pytest.mark.slow
def test_closed_streams_cost_nothing(base: Path, closed: str) -> None:
    (base / "inbox/a.jpg").write_bytes(PHOTO)
    (base / "inbox/text.jpg").write_bytes(b"no photo at all\n" * 9)
    for words, code in (("run --once", 1), ("list", 0), ("explain 1", 0), ("verify", 0), ("nonsense", 2)):
        line = f"exec {sys.executable} -m daemon {words} {closed}"
        ended = subprocess.run(["sh", "-c", line], cwd=base, env=environment(), capture_output=True, timeout=60)
        assert ended.returncode == code, (words, ended.stderr)
        assert b"Traceback" not in ended.stdout + ended.stderr
        if words == "nonsense":
            assert ended.stdout == b"", "what is meant for one stream goes to no other"
    assert darkroom(base, "verify").returncode == 0
    assert "a.jpg" in darkroom(base, "list").stdout


def test_a_program_without_streams_serves(base: Path) -> None:
    closed = ("sh", "-c", 'exec "$@" <&-', "sh")
    with Program(base, under=closed) as program:
        (base / "inbox/a.jpg").write_bytes(PHOTO)
        program.wait_for(done=1)
        assert program.stop() == 0


@pytest.mark.slow
def test_nobody_needs_a_home(base: Path) -> None:
    if why := accounts.why_not():
        pytest.skip(why)
    for path in (base, base / "inbox"):
        os.chown(path, accounts.OWNER, accounts.OWNER)
    (base / "inbox/a.jpg").write_bytes(PHOTO)
    os.chown(base / "inbox/a.jpg", accounts.OWNER, accounts.OWNER)
    base.chmod(0o755)
    for parent in base.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    # No account of this number is in the passwd file either.
    under = (*accounts.as_owner(Path("/")), "env", "-u", "HOME")
    assert darkroom(base, "run", "--once", under=under).returncode == 0
    assert darkroom(base, "list", under=under).stdout.count("a.jpg") == 1
    (base / "config.toml").write_text('[folders]\ninbox = "~/inbox"\n')
    homeless = darkroom(base, "list", under=under)
    assert homeless.returncode == 2
    assert "there is no home folder ~" in homeless.stderr


@pytest.mark.slow
def test_as_process_1_it_reaps_what_hooks_leave_behind(base: Path) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare (apt install util-linux)")
    hook = '["/bin/sh", "-c", "(sleep 0.3; echo $$ >> ended; exit 3) & (setsid sleep 0.3) & exit 0"]'
    (base / "config.toml").write_text(f"[web]\nport = 0\n[hooks]\ncommand = {hook}\n")
    with Program(base, under=("unshare", "-p", "-f", "--mount-proc", "--kill-child")) as program:
        for number in range(3):
            (base / "inbox" / f"{number}.jpg").write_bytes(jpeg(seed=number))
        program.wait_for(done=3)
        wait_until(lambda: (base / "ended").exists() and (base / "ended").read_text().count("\n") == 3)
        wait_until(lambda: not _zombies(program.process.pid), what="that none is left")
        # And it takes no status from whom it is due: the decoders go on.
        (base / "inbox/4.jpg").write_bytes(jpeg(seed=4))
        program.wait_for(done=4)


def _zombies(pid: int) -> list[str]:
    listed = subprocess.run(["ps", "--no-headers", "-eo", "ppid,stat,comm"], capture_output=True, text=True, check=True)
    first = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True).stdout.strip()
    return [line for line in listed.stdout.splitlines() if line.split()[0] == first and line.split()[1].startswith("Z")]
