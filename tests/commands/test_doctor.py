"""Each line of `doctor` is provoked once by the fault that it finds."""

import json
import os
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import pytest

from daemon.catalogue import Catalogue
from daemon.commands import doctor, probes
from daemon.commands.doctor import SAMPLES, captions, decoders
from daemon.config import Config, load
from daemon.health import Finding
from tests.program import Program, darkroom, environment
from tests.support import Room, jpeg, rest_slow, tree, wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def config(base: Path, toml: str = "", **environ: str) -> Config:
    """Read a configuration whose folders are there."""
    base.mkdir(exist_ok=True)
    (base / "config.toml").write_text(toml)
    made = load(base / "config.toml", environ)
    for _, path in made.folders.items():
        path.mkdir(exist_ok=True)
    return made


def only(findings: Iterator[Finding], subject: str) -> Finding:
    [found] = [finding for finding in findings if finding.subject == subject]
    return found


def test_all_is_well_on_a_fresh_machine(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[web]\nport = 0\n")
    before = tree(tmp_path)
    answer = darkroom(tmp_path, "doctor")
    assert answer.returncode == 0, answer.stdout
    assert "FIX" not in answer.stdout
    assert "inbox: " in answer.stdout
    assert "is made by the first run" in answer.stdout
    assert "ok    web: can be served at 127.0.0.1, any free port to this machine alone\n" in answer.stdout
    assert "ok    hooks: none\n" in answer.stdout
    for name in SAMPLES:
        assert f"ok    {name} decoder: 32 by 24 pixels" in answer.stdout
    assert "at a time, shut in by Landlock" in answer.stdout or "without Landlock" in answer.stdout
    assert tree(tmp_path) == before, "it leaves nothing behind"


def test_one_document_for_scripts(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    made.folders.library.rmdir()
    (made.folders.state / "darkroom.db").touch()
    answer = darkroom(tmp_path / "room", "doctor", "--json")
    assert answer.returncode == 1
    lines = {line["subject"]: line for line in json.loads(answer.stdout)}
    assert lines["inbox"] == {"ok": True, "subject": "inbox", "text": lines["inbox"]["text"], "fix": None}
    assert not lines["library"]["ok"]
    assert "mkdir" in lines["library"]["fix"]


def test_what_is_not_well_is_shown_with_its_fix(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    (made.folders.state / "darkroom.db").touch()
    made.folders.library.rmdir()
    answer = darkroom(tmp_path / "room", "doctor")
    assert answer.returncode == 1
    assert f"FIX   library: {made.folders.library} is not there\n      \u2192 mount its disk" in answer.stdout
    assert re.search(r"\n\n1 of \d+ to fix\n$", answer.stdout)


def test_a_configuration_that_cant_be_used(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[inbox]\nsettle = 3\n")
    answer = darkroom(tmp_path, "doctor")
    assert answer.returncode == 2
    assert "unknown key; did you mean settle_seconds?" in answer.stderr


def test_the_web_server(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        busy = doctor.web(config(tmp_path / "room", f"[web]\nport = {port}\n"))
    assert busy.text == f"port {port} on 127.0.0.1 can't be used: Address already in use"
    assert busy.fix is not None
    assert doctor.web(config(tmp_path / "room", f"[web]\nport = {port}\n")).ok
    exposed = doctor.web(config(tmp_path / "room", '[web]\nhost = "0.0.0.0"\nport = 0\n'))
    assert exposed.text == "other machines can call at 0.0.0.0, and there is no DARKROOM_TOKEN"
    assert re.search(r"\n +DARKROOM_TOKEN=\S{32}$", exposed.fix or "")
    guarded = doctor.web(config(tmp_path / "room", '[web]\nhost = "0.0.0.0"\nport = 0\n', DARKROOM_TOKEN="x" * 16))
    assert (guarded.ok, guarded.text) == (True, "can be served at 0.0.0.0, any free port to who has the token")


@pytest.mark.slow
def test_the_web_server_of_the_darkroom_that_runs_here(tmp_path: Path) -> None:
    with Program(tmp_path / "room") as program:
        found = doctor.web(load(tmp_path / "room/config.toml", {}))
        assert found.ok
        assert found.text.endswith(f"by the darkroom that runs here (pid {program.process.pid})")


def test_the_hooks(tmp_path: Path) -> None:
    made = config(tmp_path / "room", '[hooks]\ncommand = ["cat", "-"]\n')
    assert str(only(doctor.hook_command(made), "hooks")) == f"hooks: {shutil.which('cat')} is there"
    assert list(doctor.hooks(made)) == []
    missing = config(tmp_path / "room", '[hooks]\ncommand = ["no-such-program"]\n')
    assert not only(doctor.quick_checks(missing), "hooks").ok, "said at the start, too"
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        called = config(tmp_path / "room", f'[hooks]\nurl = "http://127.0.0.1:{port}/x"\n')
        assert str(only(doctor.hooks(called), "hooks")) == f"hooks: 127.0.0.1 answers at port {port}"
    silent = only(doctor.hooks(called), "hooks")
    assert silent.text == f"127.0.0.1 does not answer at port {port}: Connection refused"
    assert not silent.ok


def test_configuration_secrets_that_others_can_read(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    assert doctor.configuration(made).ok
    secrets = tmp_path / "room/.env"
    secrets.write_text("GEMINI_API_KEY=x\n")
    secrets.chmod(0o644)
    assert doctor.configuration(made).fix == f"chmod 600 {secrets}"
    secrets.chmod(0o600)
    assert doctor.configuration(made).ok


@pytest.mark.parametrize("name", ["inbox", "library", "duplicates", "failed", "state"])
def test_a_folder_that_is_gone(tmp_path: Path, name: str) -> None:
    made = config(tmp_path / "room")
    (made.folders.state / "darkroom.db").touch()
    path: Path = getattr(made.folders, name)
    assert only(probes.folders(made), name).ok
    shutil.rmtree(path)
    if name != "state":
        assert "is not there" in only(probes.folders(made), name).text
    path.touch()
    finding = probes.folder(name, path)
    assert "is a file, not a folder" in finding.text
    assert not finding.ok


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users may enter; those of pytest it shuts to them again when another run of it begins."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@as_root
def test_a_folder_without_the_right_to_write(reachable: Path) -> None:
    made = config(reachable / "room")
    finding = _as_another_user(made, "probes.folder('library', config.folders.library)")
    assert "can't be written: Permission denied" in finding
    assert "give daemon the right" in finding
    assert tree(reachable / "room/library") == {}


def test_filing_between_folders_of_which_one_is_gone(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    assert "by link" in probes.filing(made).text
    made.folders.library.rmdir()
    made.folders.library.symlink_to(tmp_path / "nowhere")
    assert probes.filing(made).ok, "a copy is as good as a link"
    shutil.rmtree(made.folders.inbox)
    assert not probes.filing(made).ok


def test_too_little_space(tmp_path: Path) -> None:
    [finding] = probes.space(config(tmp_path / "room", "[limits]\nmin_free_mb = 1_000_000_000\n"))
    assert "inbox, library" in finding.text
    assert "make room" in str(finding.fix)


def test_a_filesystem_that_makes_no_events(tmp_path: Path) -> None:
    # proc makes none for what others do, and lets nobody make a file.
    made = config(tmp_path / "room")
    assert probes.events(made).ok
    made.folders.inbox.rmdir()
    made.folders.inbox.symlink_to("/proc/self/task")
    again = load(made.file, {})
    assert not probes.events(again).ok


def test_events_that_cant_be_had(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    opened = os.dup(0)  # the lowest number that is free: below it there are no gaps
    os.close(opened)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened, hard))
    try:
        finding = probes.events(made)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert finding.text == "there can be none"
    assert "until then the inbox is polled" in str(finding.fix)
    assert probes.events(config(tmp_path / "room", '[inbox]\nobserver = "polling"\n')).ok


@as_root
@pytest.mark.slow
def test_leases_that_are_refused_on_files_of_others(reachable: Path) -> None:
    made = config(reachable / "room")
    made.folders.inbox.chmod(0o777)
    assert probes.leases(made).ok
    (made.folders.inbox / "secret.jpg").touch(0o600)
    assert "granted" in _as_another_user(made, "probes.leases(config)"), "what can't be read shows nothing"
    (made.folders.inbox / "roots.jpg").write_bytes(jpeg())
    assert probes.leases(made).ok
    finding = _as_another_user(made, "probes.leases(config)")
    assert "none on files of other owners (roots.jpg)" in finding
    assert "service --install" in finding
    patient = config(reachable / "room", "[inbox]\nsettle_seconds = 20.0\n")
    assert "; a file counts as complete" in _as_another_user(patient, "probes.leases(config)")


def test_more_folders_than_inotify_watches(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    assert doctor.watches(made).ok
    for number in range(9):
        (made.folders.inbox / str(number)).mkdir()
    (tmp_path / "max_user_watches").write_text("10\n")
    finding = doctor.watches(made, limits=tmp_path)
    assert finding.text == "10 folders to watch, 10 allowed"
    assert "sysctl fs.inotify.max_user_watches=524288" in str(finding.fix)
    assert doctor.watches(config(tmp_path / "room", "[inbox]\nrecursive = false\n"), limits=tmp_path).ok
    assert doctor.watches(made, limits=tmp_path / "nowhere").ok


def test_a_clock_that_nobody_has_set(tmp_path: Path) -> None:
    assert doctor.clock().ok
    finding = doctor.clock(now=86_400.0 * 365)
    assert "it says 1970-12-3" in finding.text or "it says 1971-01-01" in finding.text
    assert "set-ntp" in str(finding.fix)


def test_a_file_server_whose_clock_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(tmp_path / "room")
    assert probes.clocks(made) is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    finding = only(doctor.quick_checks(made), "clock")
    assert "off from this machine" in finding.text
    assert not finding.ok


@pytest.mark.slow
def test_a_damaged_catalogue(room: Room) -> None:
    for number in range(40):
        room.put(f"{number}.jpg", jpeg(seed=number))
    room.drain()
    assert doctor.catalogue(room.config).ok
    room.close()
    file = room.state / "darkroom.db"
    content = bytearray(file.read_bytes())
    content[8192:40960] = bytes(40960 - 8192)
    file.write_bytes(content)
    finding = doctor.catalogue(room.config)
    assert "darkroom rebuild" in str(finding.fix)


def test_a_lost_catalogue_of_a_library_with_photos(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    assert doctor.catalogue(made).ok
    (made.folders.library / "a.jpg").write_bytes(jpeg())
    finding = doctor.catalogue(made)
    assert "the library holds files" in finding.text
    assert "darkroom rebuild" in str(finding.fix)
    Catalogue(made.folders.state / "darkroom.db").close()
    assert not doctor.catalogue(made).ok, "one without any image is as good as none"


def test_a_catalogue_of_another_version(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    with closing(sqlite3.connect(made.folders.state / "darkroom.db")) as database:
        database.execute("PRAGMA user_version = 99")
    finding = doctor.catalogue(made)
    assert "is of version 99" in finding.text
    assert "darkroom rebuild" in str(finding.fix)


@pytest.mark.parametrize("name", rest_slow(sorted(SAMPLES), 3))
def test_a_decoder_that_fails(tmp_path: Path, name: str) -> None:
    made = config(tmp_path / "room")
    content = SAMPLES[name].read_bytes()
    damaged = tmp_path / "sample"
    damaged.write_bytes(content[: len(content) // 3])
    finding, *_ = decoders(made, {name: damaged})
    assert finding.subject == f"{name} decoder"
    assert "install" in str(finding.fix)


def test_a_decoder_that_takes_one_format_for_another(tmp_path: Path) -> None:
    finding, *_ = decoders(config(tmp_path / "room"), {"HEIC": SAMPLES["PNG"]})
    assert finding.text == "takes it for PNG"


def test_a_test_image_that_is_missing(tmp_path: Path) -> None:
    finding, *_ = decoders(config(tmp_path / "room"), {"AVIF": tmp_path / "sample.avif"})
    assert finding.text.startswith(f"the test image {tmp_path}/sample.avif can't be decoded: ")
    assert "install" in str(finding.fix)


def test_every_test_image_comes_with_the_program() -> None:
    [folder] = {file.parent for file in SAMPLES.values()}
    assert tree(folder) == {file.name: file.read_bytes() for file in SAMPLES.values()}


def test_no_decoder_at_all(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    # Less than the configuration lets anybody set.
    starved = made.model_copy(update={"limits": made.limits.model_copy(update={"decode_memory_mb": 10})})
    [finding] = decoders(starved)
    assert finding.subject == "decoders"
    assert "raise [limits] decode_memory_mb" in str(finding.fix)


@contextmanager
def gemini(status: int, message: str = "") -> Iterator[str]:
    """Answer every request for a model's description alike; yield the server's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path.startswith("/v1beta/models/gemini-flash-lite-latest")
            kind = "type.googleapis.com/google.rpc.ErrorInfo"
            details = [{"@type": kind, "reason": "API_KEY_INVALID"}] if status == 400 else []
            error = {"code": status, "message": message, "status": "X", "details": details}
            content = json.dumps({"name": "m"} if status == 200 else {"error": error}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "message", "ok", "text"),
    [
        (200, "", True, "are good; what is sent with a free key Google may use to improve its products"),
        (429, "quota", True, "used up for now"),
        (400, "API key not valid.", False, "refuses the key"),
        (404, "not found", False, "there is no model"),
        (503, "overloaded", False, "a fault of its own"),
    ],
)
def test_key_and_model(tmp_path: Path, status: int, message: str, ok: bool, text: str) -> None:
    with gemini(status, message) as url:
        made = config(tmp_path / "room", GEMINI_API_KEY="k", GOOGLE_GEMINI_BASE_URL=url)
        finding = captions(made)
    assert finding.ok is ok
    assert text in finding.text


def test_no_way_to_gemini(tmp_path: Path) -> None:
    with gemini(200) as url:
        pass
    made = config(tmp_path / "room", GEMINI_API_KEY="k", GOOGLE_GEMINI_BASE_URL=url)
    assert "reaches the internet" in str(captions(made).fix)
    assert captions(config(tmp_path / "room")).ok, "no key is no fault"


def test_the_start_makes_the_quick_checks(tmp_path: Path) -> None:
    base = tmp_path / "room"
    with Program(base, "[limits]\nmin_free_mb = 1_000_000_000\n") as program:
        wait_until(lambda: "space: " in program.log(), what="the warning")
        assert "make room" in program.log()
        # Killed in the middle of the next check, it would leave a file behind.
        assert program.stop() == 0
    assert not [path for path in base.rglob("*") if "doctor" in path.name]


def test_what_a_killed_doctor_left_goes(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    left = made.folders.library / ".darkroom-doctor-99999999-0"
    left.touch()
    own = made.folders.library / f".darkroom-doctor-{os.getppid()}-0"
    own.touch()
    odd = [made.folders.library / f".darkroom-doctor-{number}-0" for number in ("9" * 20, "8" * 20, "x")]
    for path in odd:
        path.touch()
    assert probes.folder("library", made.folders.library).ok
    assert not left.exists(), "whatever names there are beside it"
    assert all(path.exists() for path in odd), "no doctor's"
    assert own.exists(), "a doctor that is at work keeps what is its own"


def _as_another_user(made: Config, check: str) -> str:
    """Return what a check finds that somebody makes who is not root."""
    script = (
        "import os, sys; from pathlib import Path; from daemon.config import load\n"
        "from daemon.commands import probes\n"
        "import daemon.inbox.events, psutil\n"
        "config = load(Path(sys.argv[1]), {}); os.setgroups([]); os.setgid(1); os.setuid(1)\n"
        f"print({check})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(made.file)], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
