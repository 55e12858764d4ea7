"""The examples of the README work as printed, one after the other, on the real program."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.program import Program, environment
from tests.readme import README, blocks
from tests.support import jpeg, wait_until

ADDRESS = "http://127.0.0.1:8080"
# curl's own exit code for the time limit, which ends an endless stream.
TIMED_OUT = 28


def texts(kind: str, heading: str) -> list[str]:
    """Return the fenced blocks under a heading."""
    found = [block.text for block in blocks(kind) if block.heading == heading]
    assert found
    return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Program(tmp_path_factory.mktemp("readme"), "[inbox]\nsettle_seconds = 0.05\n") as made:
        wait_until(lambda: "serving http" in made.log(), what="the web server")
        yield made


def url(program: Program) -> str:
    return str(re.findall(r"serving (http\S+)/", program.log())[-1])


def done(program: Program) -> int:
    [(count,)] = program.query("SELECT n FROM tally WHERE status = 'done'")
    return int(count)


def idle(program: Program) -> bool:
    counts = dict(program.query("SELECT status, n FROM tally"))
    return bool(counts["queued"] == counts["processing"] == 0)


def test_the_curl_examples(program: Program, tmp_path: Path) -> None:
    for number in range(1234, 1240):
        (tmp_path / f"IMG_{number}.jpg").write_bytes(jpeg((300, 200), seed=number))
    # The others may have come first: tests are shared out among processes as those are free.
    before = done(program)
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 2\n")
    here = environment(CURL_HOME=str(tmp_path), DARKROOM_TOKEN="any")
    for command in "".join(texts("sh", "REST")).splitlines():
        assert command.startswith("curl "), command
        run = subprocess.run(
            ["sh", "-c", command.replace(ADDRESS, url(program))],
            cwd=tmp_path,
            env=here,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == (TIMED_OUT if "/api/events" in command else 0), (command, run.stdout, run.stderr)
        wait_until(lambda: idle(program), what="the end of the work")
    assert done(program) == before + 6
    assert (tmp_path / "medium.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    assert url(program).startswith("http://127.0.0.1:")


def test_the_sharex_uploader(program: Program) -> None:
    [text] = texts("json", "From other machines")
    settings = json.loads(text.replace(ADDRESS, url(program)))
    assert settings["Body"] == "MultipartFormData"
    answer = httpx2.request(
        settings["RequestMethod"],
        settings["RequestURL"],
        headers=settings["Headers"] | {"User-Agent": "ShareX/15.0.0"},
        files={settings["FileFormName"]: ("2024-05-01_12-34-56.jpg", jpeg(seed=77), "image/jpeg")},
    )
    assert answer.status_code == 202
    wait_until(lambda: idle(program), what="the end of the work")
    for key in ("URL", "ThumbnailURL"):
        address = settings[key].replace("{json:data.image_id}", str(answer.json()["data"]["image_id"]))
        shown = httpx2.get(address)
        assert (shown.status_code, shown.headers.get("content-disposition")) == (200, None), "it is looked at"
    refused = httpx2.post(settings["RequestURL"], files={settings["FileFormName"]: ("a.txt", b"text")})
    assert refused.json()["error"]["message"]


def test_the_shortcut_of_an_iphone(program: Program) -> None:
    [row] = re.findall(r"^\| URL \| (.+) \|$", README, re.MULTILINE)
    said = {"*Name*": "IMG_0815", "a dot": ".", "*File Extension*": "JPG"}
    name = "".join(said[word] for word in re.findall("|".join(map(re.escape, said)), row))
    answer = httpx2.post(
        f"{url(program)}/api/images?name={name}",
        content=jpeg(seed=88),
        headers={"Content-Type": "image/jpeg", "User-Agent": "BackgroundShortcutRunner/1 CFNetwork/1 Darwin/23"},
    )
    assert answer.status_code == 202
    there = httpx2.get(f"{url(program)}/api/images/{answer.json()['data']['image_id']}")
    assert there.json()["data"]["original_name"] == "IMG_0815.JPG"
