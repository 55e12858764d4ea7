"""The real program with a Gemini on loopback: filing never waits for captions, whatever Gemini does."""

import json
import time
from functools import partial
from pathlib import Path

import pytest

from daemon.captions.limits import day_ends, until_when
from tests.captions.gemini_server import (
    BLOCKED,
    BROKEN,
    DEAD_KEY,
    HANG,
    PER_DAY,
    PER_MINUTE,
    RETIRED,
    SIGN_IN,
    Answer,
    Gemini,
    caption,
)
from tests.program import Program, darkroom
from tests.support import jpeg, tree, wait_until


def put(base: Path, n: int, first: int = 0) -> None:
    (base / "inbox").mkdir(exist_ok=True)
    for number in range(first, first + n):
        temporary = base / f"{number}.part"
        # Pixels of its own, so that no caption is copied from another's.
        temporary.write_bytes(jpeg((300, 200), seed=number, taken="2024:05:01 12:34:56"))
        temporary.rename(base / f"inbox/{number}.jpg")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (caption(), "done", "captions are on"),
        (PER_MINUTE, "pending", "quota of the minute"),
        (PER_DAY, "pending", "quota of the day"),
        (BROKEN, "pending", "a fault of its own"),
        (HANG, "pending", "captions are on"),
        (SIGN_IN, "pending", "something other than Gemini"),
        (BLOCKED, "blocked", "PROHIBITED_CONTENT"),
        (DEAD_KEY, "pending", "refuses the key"),
        (RETIRED, "pending", "no model"),
    ],
)
def test_filing_goes_on_whatever_gemini_does(tmp_path: Path, answer: Answer, status: str, said: str) -> None:
    with (
        Gemini(usually=answer) as server,
        Program(tmp_path / "p", GEMINI_API_KEY="k", GOOGLE_GEMINI_BASE_URL=server.url) as program,
    ):
        put(program.base, 1)
        wait_until(lambda: server.asked, what="the first request")
        put(program.base, 5, first=1)
        program.wait_for(done=6, failed=0)
        wait_until(lambda: said in program.log(), what=said)
        if status != "pending":
            wait_until(lambda: program.query("SELECT DISTINCT caption_status FROM image") == [(status,)])
        began = time.monotonic()
        assert program.stop() == 0
        assert time.monotonic() - began < 5
        assert program.log().count("are paused") <= 1
    assert {status for (status,) in program.query("SELECT status FROM image")} == {"done"}


def test_without_a_key_it_is_said_once(tmp_path: Path) -> None:
    with Program(tmp_path / "p") as program:
        put(program.base, 3)
        program.wait_for(done=3)
        assert program.stop() == 0
        assert program.log().count("captions are off") == 1


@pytest.mark.slow
def test_a_key_put_into_the_env_file_wakes_the_captions(tmp_path: Path) -> None:
    with Gemini([DEAD_KEY]) as server, Program(tmp_path / "p", GOOGLE_GEMINI_BASE_URL=server.url) as program:
        (program.base / ".env").write_text("GEMINI_API_KEY=dead\n")
        wait_until(lambda: "captions are on" in program.log())
        put(program.base, 2)
        wait_until(lambda: "refuses the key" in program.log())
        (program.base / ".env").write_text("GEMINI_API_KEY=alive\n")
        wait_until(lambda: program.query("SELECT DISTINCT caption_status FROM image") == [("done",)])
        assert {asked.key for asked in server.asked} == {"dead", "alive"}


@pytest.mark.slow
def test_the_caption_command_asks_nothing_about_a_private_image(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[captions]\nprivate = ["Doctor"]\n')
    (tmp_path / "inbox/Doctor").mkdir(parents=True)
    (tmp_path / "inbox/Doctor/a.jpg").write_bytes(jpeg())
    assert darkroom(tmp_path, "run", "--once").returncode == 0
    with Gemini() as server:
        asked = darkroom(tmp_path, "caption", "1", GEMINI_API_KEY="k", GOOGLE_GEMINI_BASE_URL=server.url)
    assert (asked.returncode, server.asked) == (1, [])
    assert asked.stderr == "image 1: its folder is private, so no model is asked about it\n"


@pytest.mark.slow
def test_once_makes_captions_within_the_quota_and_leaves(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[captions]\nrequests_per_day = 3\n")
    put(tmp_path, 5)
    with Gemini() as server:
        done = darkroom(tmp_path, "run", "--once", GEMINI_API_KEY="k", GOOGLE_GEMINI_BASE_URL=server.url)
    assert done.returncode == 0, done.stderr
    assert len(server.asked) == 3
    assert "captions: 3 done, 2 waiting (about " in done.stderr
    sidecars = [name for name in tree(tmp_path / "library") if name.endswith(".xmp")]
    assert len(sidecars) == 5
    status = darkroom(tmp_path, "status", "--json", GEMINI_API_KEY="k")
    told = json.loads(status.stdout)["captioner"]
    assert (told["waiting"], told["requests_today"], told["per_day"]) == (2, 3, 3)
    shown = darkroom(tmp_path, "status", GEMINI_API_KEY="k").stdout
    assert "; 3 of 3 requests to gemini-flash-lite-latest made today" in shown


@pytest.mark.slow
def test_once_files_companions_and_fails_lone_ones_at_the_end(tmp_path: Path) -> None:
    put(tmp_path, 1)
    (tmp_path / "inbox/0.MOV").write_bytes(b"a video")
    (tmp_path / "inbox/lonely.aae").write_bytes(b"edits of nothing")
    began = time.monotonic()
    done = darkroom(tmp_path, "run", "--once")
    assert time.monotonic() - began < 30
    assert done.returncode == 1
    assert {name for name in tree(tmp_path / "library") if not name.endswith(".xmp")} == {
        "2024/05/0.jpg",
        "2024/05/0.MOV",
    }
    assert "no photo named lonely.* came" in tree(tmp_path / "failed")["lonely.aae.reason.txt"].decode()
    assert tree(tmp_path / "inbox") == {}


@pytest.mark.slow
def test_the_caption_command_by_itself(tmp_path: Path) -> None:
    put(tmp_path, 3)
    assert darkroom(tmp_path, "run", "--once").returncode == 0
    refused = darkroom(tmp_path, "caption", "--missing")
    assert (refused.returncode, "GEMINI_API_KEY" in refused.stderr) == (2, True)
    with Gemini([BLOCKED]) as server:
        ask = partial(darkroom, tmp_path, "caption", GEMINI_API_KEY="k", GOOGLE_GEMINI_BASE_URL=server.url)
        done = ask("--missing")
        assert (
            "this makes at most 3 requests to gemini-flash-lite-latest, 0 of 1,000 of today's are used" in done.stdout
        )
        assert "2 photos captioned" in done.stdout
        assert "1 photo not: Gemini blocked the image" in done.stderr
        assert done.returncode == 1
        again = ask("1", "99", "--model", "gemini-x")
        assert (again.returncode, "image 99 is not one that was filed" in again.stderr) == (1, True)
        assert server.asked[-1].model == "gemini-x"
        assert "no captions are missing" in ask("--missing").stdout
        assert ask().returncode == 2


@pytest.mark.slow
def test_the_caption_command_beside_the_daemon(tmp_path: Path) -> None:
    put(tmp_path, 2)
    assert darkroom(tmp_path, "run", "--once").returncode == 0
    (tmp_path / "config.toml").write_text("[web]\nport = 0\n")
    with Gemini() as server, Program(tmp_path, GEMINI_API_KEY="k", GOOGLE_GEMINI_BASE_URL=server.url) as program:
        assert program.query("SELECT DISTINCT caption_status FROM image") == [("off",)]
        done = darkroom(tmp_path, "caption", "--missing", GEMINI_API_KEY="k", GOOGLE_GEMINI_BASE_URL=server.url)
        assert (done.returncode, "2 photos captioned" in done.stdout) == (0, True), done.stderr
        assert len(server.asked) == 2


@pytest.mark.slow
def test_the_caption_command_says_until_when_captions_are_paused(tmp_path: Path) -> None:
    put(tmp_path, 2)
    assert darkroom(tmp_path, "run", "--once").returncode == 0
    with Gemini([PER_DAY]) as server:
        ask = partial(darkroom, tmp_path, "caption", "--missing", GEMINI_API_KEY="k", GOOGLE_GEMINI_BASE_URL=server.url)
        first = ask()
        until = until_when(day_ends(time.time()))
        assert first.returncode == 1
        assert f"; paused {until}: Google's quota of the day for gemini-flash-lite-latest is used up" in first.stderr
        assert first.stdout.endswith("0 photos captioned, 2 left to darkroom run\n")
        again = ask()
        assert (again.returncode, len(server.asked)) == (1, 1)
        assert again.stderr.count(f"paused {until}: Google's quota of the day") == 1


@pytest.mark.slow
def test_killed_with_a_request_under_way(tmp_path: Path) -> None:
    program = Program(tmp_path / "p")
    with Gemini([HANG]) as server:
        program._more = {"GEMINI_API_KEY": "k", "GOOGLE_GEMINI_BASE_URL": server.url}
        with program:
            put(program.base, 2)
            program.wait_for(done=2)
            wait_until(lambda: server.asked)
            program.process.kill()
            program.process.wait()
        with program:
            wait_until(lambda: program.query("SELECT DISTINCT caption_status FROM image") == [("done",)])
    # The one that was under way is asked for again, and both are in the ledger.
    assert len(server.asked) == 3
    assert program.query("SELECT count(*) FROM caption_request") == [(3,)]
