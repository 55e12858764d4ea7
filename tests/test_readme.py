"""Holds the README to the program: what it shows is there, parses, and works when it is typed in from top to bottom."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from daemon.__main__ import _arguments
from daemon.config import load
from tests.program import Program, environment
from tests.readme import README, ROOT, blocks, commands


def known() -> set[str]:
    helped = subprocess.run(
        [sys.executable, "-m", "daemon", "--help"], env=environment(), capture_output=True, text=True, check=True
    )
    return set(re.findall(r"^    (\w+)", helped.stdout, re.MULTILINE))


def test_every_command_is_in_the_readme_and_every_command_there_exists() -> None:
    section = README.split("## Commands\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `darkroom (\w+)", section, re.MULTILINE)) == known()


def test_every_command_that_it_shows_is_understood() -> None:
    shown, names = list(commands()), known()
    assert len(shown) > 40
    for words in shown:
        if len(words) == 1 and words[0] in names:
            continue  # in a sentence, by its name alone
        try:
            assert _arguments(words).command == words[0] or words[0].startswith("-"), words
        except SystemExit:
            pytest.fail(f"darkroom {shlex.join(words)}")


def test_every_option_that_it_names_exists() -> None:
    section = README.split("## Commands\n")[1].split("\n## ")[0]
    for command, line in re.findall(r"^\| `darkroom (\w+)(.*)$", section, re.MULTILINE):
        helped = subprocess.run(
            [sys.executable, "-m", "daemon", command, "--help"],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        for option in re.findall(r"`?(--[\w-]+)", line):
            assert option in helped.stdout, f"darkroom {command} {option}"
        assert f"example: darkroom {command}" in helped.stdout


def test_the_two_commands_are_there_as_promised() -> None:
    assert "\npython3 -m venv .venv && .venv/bin/pip install . && .venv/bin/darkroom run\n" in README
    assert "\npython3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest\n" in README


def test_its_blocks_are_what_they_are_called(tmp_path: Path) -> None:
    fences = re.findall(r"^```(\w*)$", README, re.MULTILINE)
    assert set(fences[::2]) - {""} == set(fences[::2]), "each block says what it is"
    for block in blocks("sh"):
        # In a file of its own each: what one leaves open, another would close.
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), block.text
    for block in blocks("toml"):
        (tmp_path / "config.toml").write_text(block.text)
        load(tmp_path / "config.toml", {})
        assert tomllib.loads(block.text)
    assert len(blocks("toml")) == 4


def test_the_dockerfile_copies_what_is_installed() -> None:
    [block] = blocks("dockerfile")
    copied = re.findall(r"^COPY (.+) /\S+$", block.text, re.MULTILINE)
    names = {name for words in copied for name in words.split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {project["project"]["readme"], *project["project"]["license-files"]}
    wanted |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    # daemon/config.toml is a link to it.
    assert names == wanted | {"pyproject.toml", "config.toml"}
    assert all((ROOT / name).exists() for name in names)
    assert project["project"]["scripts"]["darkroom"]


@pytest.mark.slow
def test_the_image_installs_and_its_health_check_tells(tmp_path: Path) -> None:
    """As far as that can be seen without Docker."""
    [block] = blocks("dockerfile")
    (tmp_path / "src").mkdir()
    for words in re.findall(r"^COPY (.+) /src", block.text, re.MULTILINE):
        for name in words.split():
            there = tmp_path / "src" / name
            # As Docker copies: what is a link in a folder stays one.
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, there, symlinks=True)
            else:
                shutil.copy(ROOT / name, there)
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, tmp_path / "src")
    subprocess.run(pip, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    assert "daemon/config.toml" in zipfile.ZipFile(wheel).namelist()
    check = json.loads(re.findall(r"CMD (\[.*urlopen.*\])", block.text)[0])
    with Program(tmp_path / "room") as program:
        assert program.ask("/healthz")[0] == 200
        port = re.findall(r"serving http://127.0.0.1:(\d+)", program.log())[-1]
        check[-1] = check[-1].replace("8080", port)
        assert subprocess.run([sys.executable, *check[1:]], check=False).returncode == 0
        program.stop()
    assert subprocess.run([sys.executable, *check[1:]], capture_output=True, check=False).returncode == 1


def test_in_docker_photos_are_linked_and_served_to_this_machine_alone() -> None:
    yaml = pytest.importorskip("yaml")
    [service] = yaml.safe_load(blocks("yaml")[0].text)["services"].values()
    [volume] = service["volumes"]
    [workdir] = re.findall(r"^WORKDIR (.+)$", blocks("dockerfile")[0].text, re.MULTILINE)
    assert volume.endswith(f":{workdir}")
    assert service["ports"] == ["127.0.0.1:8080:8080"]
    assert "PUID" in service["user"]
    assert "PGID" in service["user"]


def test_it_names_the_packages_that_the_tests_need() -> None:
    pairs = (ROOT / ".ci/run").read_text().split("for pair in ")[1].split("; do")[0]
    named = README.split("beside Python (Debian's ")[1].split(")")[0]
    assert re.findall(r"`([\w-]+)`", named) == [pair.partition(":")[2] for pair in pairs.replace("\\", "").split()]


def test_its_pictures_are_there_and_small() -> None:
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"|!\[[^\]]+\]\(([^)]+)\)', README)
    named = {one or other for one, other in pictures}
    assert named == {str(path.relative_to(ROOT)) for path in (ROOT / ".readme").iterdir()}
    for picture in named:
        assert 0 < (ROOT / picture).stat().st_size < 100_000, picture


def test_its_tables_have_heads() -> None:
    found = re.findall(r"(?:^\|.*\n)+", README, re.MULTILINE)
    assert len(found) >= 5
    for block in found:
        head, rule, *lines = block.splitlines()
        assert re.fullmatch(r"\|( -+:? \|)+", rule), head
        assert all(cell.strip() for cell in head.strip("|").split("|")), block
        assert {row.replace("\\|", "").count("|") for row in (head, *lines)} == {rule.count("|")}, head


def test_its_links_lead_somewhere() -> None:
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    there = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert len(there) == len(headings)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.startswith("https://") or target.removeprefix("#") in there or (ROOT / target).is_file(), target


def test_what_is_folded_up_is_closed() -> None:
    for tag in ("details", "summary", "b"):
        assert README.count(f"<{tag}>") == README.count(f"</{tag}>")
    # Or it would be shown as it stands.
    assert README.count("</summary>\n\n") == README.count("\n\n</details>\n") == README.count("<details>")


def test_every_module_that_it_names_exists() -> None:
    for module in re.findall(r"python -m (tests[\w.]+)", README):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for file in re.findall(r"`(daemon/[\w/]+\.py)`", README):
        assert (ROOT / file).is_file(), file


def test_the_table_of_speed_is_that_of_the_chart() -> None:
    chart = (ROOT / ".readme/speed.svg").read_text()
    section = README.split("## How fast\n")[1].split("\n## ")[0]
    shown = re.findall(r"\*{0,2}(\d\.\d\d)\*{0,2} \|$", section, re.MULTILINE)
    assert shown == re.findall(r">(\d\.\d\d)</text>", chart)
