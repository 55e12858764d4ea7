"""The document is true to the routes, and the answers are true to the document."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import jpeg
from tests.web.serving import Served
from web.models import EventMessage
from web.openapi import build

_ROOT = Path(__file__).parent.parent.parent


def plain(path: str) -> str:
    return re.sub(r"{[^}]*}", "{}", path)


def test_document_and_routes_name_the_same_calls(served: Served) -> None:
    routed = {(plain(path), method.lower()) for path, methods in served.app.table.items() for method in methods}
    described = {(plain(path), method) for path, methods in build()["paths"].items() for method in methods}
    assert routed == described


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    text = str(build())
    used = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert used == set(build()["components"]["schemas"])
    assert "$defs" not in text


def test_the_messages_of_the_event_stream_are_described() -> None:
    stream = build()["paths"]["/api/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    described = {}
    for message in stream["schema"]["oneOf"]:
        kind, data = message["properties"]["event"]["const"], message["properties"]["data"]
        described[kind] = data["contentSchema"]["$ref"].rpartition("/")[2]
    assert described == {"image": "EventMessage", "stats": "StatsAnswer"}
    assert build()["components"]["schemas"]["EventMessage"]["properties"].keys() == EventMessage.model_fields.keys()


def test_the_document_is_served(served: Served) -> None:
    answer = served.http.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["openapi"].startswith("3.1")


def test_the_page_of_the_documentation_needs_nothing_from_elsewhere(served: Served) -> None:
    page = served.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert assets
    for asset in assets:
        if asset.startswith("#"):
            continue
        assert asset.startswith("/")
        assert served.http.get(asset).status_code == 200
    script = served.http.get("/static/docs.js").text
    assert not re.search(r"https?://|innerHTML|eval\(", script + page.text)


def test_browsers_find_an_icon(served: Served) -> None:
    icon = served.http.get("/favicon.ico")
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")
    assert icon.content == (_ROOT / "web/static/favicon.svg").read_bytes()
    for page in ("/docs", "/", "/failed"):
        assert 'rel="icon"' in served.http.get(page).text


@pytest.mark.slow
def test_fuzzing_finds_no_answer_that_the_document_does_not_promise(served: Served, tmp_path: Path) -> None:
    for number in range(3):
        served.room.put(f"IMG_{number}.jpg", jpeg(seed=number))
    served.room.drain()
    served.http.patch("/api/images/1", json={"caption": "A caption", "keywords": ["one"]}).raise_for_status()
    options: list[Any] = [
        f"--url={served.url}",
        "--max-examples=12",
        "--seed=1",
        "--phases=examples,coverage,fuzzing",
        "--workers=2",
        "--request-timeout=10",
        # An endless stream is no answer that could be compared.
        "--exclude-path=/api/events",
        # The signature decides what an image is: bytes that a schema makes up are refused, rightly.
        "--exclude-checks=positive_data_acceptance",
        "--no-color",
        "--suppress-health-check=all",
    ]
    run = subprocess.run(
        [str(Path(sys.executable).with_name("schemathesis")), "run", f"{served.url}/openapi.json", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
