"""The web against what no client should send: it answers, in its own form, and leaves nothing behind."""

import json
import random
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import Room
from tests.web.serving import Served, picture

pytestmark = pytest.mark.slow

PARAMETERS = ["status", "q", "camera", "from", "to", "has_gps", "limit", "cursor", "name", "\x00", "size"]
VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["-1", "0", "9" * 30, "1e9", "2026-11-23", "0000-00-00", "true", "done", '"', "NEAR(", "a*b OR", "%00"]
    ),
)
PATHS = [
    "/api/images",
    "/api/images/{}",
    "/api/images/{}/thumbnails/small",
    "/api/images/1/thumbnails/{}",
    "/api/images/{}/original",
    "/api/stats",
    "/healthz",
    "/metrics",
    "/{}",
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    room = Room(tmp_path_factory.mktemp("fuzz") / "room")
    with Served(room) as made:
        made.upload("a.jpg", picture("JPEG", 1))
        room.drain()
        yield made
    room.close()


def quiet(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


@quiet(150)
@given(path=st.sampled_from(PATHS), word=VALUES, query=st.dictionaries(st.sampled_from(PARAMETERS), VALUES, max_size=4))
def test_any_query_is_answered(served: Served, path: str, word: str, query: dict[str, str]) -> None:
    try:
        where = path.format(quote(word, safe=""))
    except UnicodeEncodeError:
        return
    answer = served.http.get(where, params={key: value for key, value in query.items() if value.isprintable()})
    assert answer.status_code < 500, answer.text
    if where.startswith("/api/") and answer.status_code >= 400:
        assert json.loads(answer.text)["status"] in {"success", "error"}


def _form(rng: random.Random, content: bytes) -> bytes:
    name = rng.choice(
        ["a.jpg", "../../etc/passwd", "", "x" * 300, 'q"uote.jpg', "\N{SNOWMAN}.jpg", ".hidden.jpg", "a\\b.jpg"]
    )
    field = rng.choice(["file", "file", "other", ""])
    head = f'Content-Disposition: form-data; name="{field}"; filename="{name}"\r\nContent-Type: image/jpeg\r\n\r\n'
    return b"--b\r\n" + head.encode() + content + b"\r\n--b--\r\n"


def _harm(rng: random.Random, body: bytes) -> bytes:
    kind = rng.randrange(6)
    at = rng.randrange(len(body))
    if kind == 0:
        return body[:at]
    if kind == 1:
        return body[:at] + rng.randbytes(rng.randrange(1, 50)) + body[at:]
    if kind == 2:
        return body[:at] + body[at + rng.randrange(1, 50) :]
    if kind == 3:
        return body.replace(b"\r\n", rng.choice([b"\n", b"\r", b"\r\n\r\n"]), rng.randrange(1, 5))
    if kind == 4:
        return body * rng.randrange(1, 4)
    return body.replace(b"--b", rng.choice([b"--c", b"-b", b"--b--", b""]), rng.randrange(1, 3))


@quiet(150)
@given(seed=st.integers(0, 2**32))
def test_any_form_is_answered_and_nothing_stays_of_a_refused_one(served: Served, seed: int) -> None:
    rng = random.Random(seed)
    content = rng.choice([picture("JPEG", seed % 10**6), picture("PNG", seed % 10**6), b"", rng.randbytes(300)])
    body = _form(rng, content)
    if rng.random() < 0.8:
        body = _harm(rng, body)
    kinds = [
        "multipart/form-data; boundary=b",
        "multipart/form-data",
        'multipart/form-data; boundary=""',
        "multipart/x;b",
    ]
    kind = rng.choice([kinds[0]] * 6 + kinds)
    before = served.left_behind()
    answer = served.http.post("/api/images", content=body, headers={"Content-Type": kind})
    assert answer.status_code < 500, answer.text
    assert json.loads(answer.text)["status"] in {"success", "error"}
    after = served.left_behind()
    assert not [name for name in after if name.startswith(".")]
    if answer.status_code >= 400:
        assert after == before
