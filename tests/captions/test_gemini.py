"""Each way in which Gemini, or what stands in its place, can answer; through the real SDK and a real socket."""

import json
import threading
import time

import pytest

from daemon.captions import gemini, prompt
from tests.captions.gemini_server import (
    BLOCKED,
    BROKEN,
    CUT_OFF,
    DEAD_KEY,
    DROP,
    EMPTY,
    HANG,
    LEAKED_KEY,
    ODD_IMAGE,
    PER_DAY,
    PER_MINUTE,
    RETIRED,
    SIGN_IN,
    UNSAFE,
    Answer,
    Gemini,
    error,
    limited,
    says,
)

JPEG = b"\xff\xd8 a thumbnail"
DEEP = b"[" * 10_000 + b"]" * 10_000


def ask(answer: Answer | None = None, seconds: float = 5.0) -> tuple[gemini.Reply, Gemini]:
    with Gemini([answer] if answer else []) as server:
        client = gemini.Client("a key", server.url, threading.Event(), seconds)
        try:
            return client.ask("gemini-flash-lite-latest", JPEG, "What is it?"), server
        finally:
            client.close()


def test_what_goes_over_the_wire_and_what_comes_back() -> None:
    reply, server = ask()
    [asked] = server.asked
    assert (asked.model, asked.key, asked.image, asked.text) == (
        "gemini-flash-lite-latest",
        "a key",
        JPEG,
        "What is it?",
    )
    schema = asked.body["generationConfig"]["responseSchema"]
    assert set(schema["required"]) == {"caption", "keywords", "visible_text"}
    assert (reply.tokens_in, reply.tokens_out) == (1290, 50)
    assert prompt.check(reply.text).caption == "A grey cat sleeps on a red sofa."


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (BROKEN, gemini.Unavailable, "fault of its own (503): The model is overloaded"),
        (Answer(b"<html>Bad Gateway</html>", 502, "text/html"), gemini.Unavailable, "(502)"),
        (DROP, gemini.Unreachable, "can't be reached"),
        (SIGN_IN, gemini.Unreachable, "something other than Gemini answers"),
        (Answer(b"[]"), gemini.CutOff, "empty"),
        (Answer(b'"words"'), gemini.CutOff, "empty"),
        (Answer(b'{"candidates": "none"}'), gemini.CutOff, "empty"),
        (Answer(b'{"candidates": [{"content": 3}]}'), gemini.Unreachable, "something other"),
        (Answer(b'{"error": "no"}', 418), gemini.BadRequest, "(418)"),
        (Answer(b'{"error": {"details": "x"}}', 429), gemini.Limited, "no reason given"),
        (Answer(b""), gemini.CutOff, "empty"),
        (Answer(b"\xff\xfe\xff"), gemini.Unreachable, "something other"),
        (DEAD_KEY, gemini.Misconfigured, "refuses the key: API key not valid"),
        (LEAKED_KEY, gemini.Misconfigured, "refuses the key: Your API key was reported as leaked"),
        (error(401, "UNAUTHENTICATED", "Who?"), gemini.Misconfigured, "refuses the key: Who?"),
        (error(400, "FAILED_PRECONDITION", "Not in your country."), gemini.Misconfigured, "Not in your country"),
        (RETIRED, gemini.NoModel, "no model gemini-flash-lite-latest (any more)"),
        (ODD_IMAGE, gemini.BadRequest, "Unable to process input image"),
        (BLOCKED, gemini.Blocked, "PROHIBITED_CONTENT"),
        (UNSAFE, gemini.Blocked, "SAFETY"),
        (EMPTY, gemini.CutOff, "empty"),
        (says("", "A_REASON_OF_NEXT_YEAR"), gemini.CutOff, "A_REASON_OF_NEXT_YEAR"),
        (CUT_OFF, gemini.CutOff, "cut off"),
        (Answer(b'{"candidates": ' + DEEP + b"}"), gemini.CutOff, "nested too deep"),
        (Answer(b'{"error": ' + DEEP + b"}", 400), gemini.CutOff, "nested too deep"),
    ],
)
def test_what_each_answer_means(answer: Answer, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as raised:
        ask(answer)
    assert type(raised.value) is kind
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "seconds", "per_day"),
    [(PER_MINUTE, 34.5, False), (PER_DAY, 34.5, True), (limited("PerMinute", None), None, False)],
)
def test_a_limit_says_how_long_and_which(answer: Answer, seconds: float | None, per_day: bool) -> None:
    with pytest.raises(gemini.Limited) as raised:
        ask(answer)
    assert (raised.value.seconds, raised.value.per_day) == (seconds, per_day)


def test_odd_details_of_a_limit_are_no_news() -> None:
    odd = {"@type": "google.rpc.RetryInfo", "retryDelay": "soon"}, {"@type": "google.rpc.QuotaFailure"}, "words"
    with pytest.raises(gemini.Limited) as raised:
        ask(error(429, "RESOURCE_EXHAUSTED", "No.", *odd))  # type: ignore[arg-type]
    assert (raised.value.seconds, raised.value.per_day) == (None, False)


def test_a_hang_ends_at_the_time_limit() -> None:
    began = time.monotonic()
    with pytest.raises(gemini.Unavailable, match="did not answer in time"):
        ask(HANG, seconds=0.5)
    assert time.monotonic() - began < 5


def test_a_hang_ends_when_the_program_does() -> None:
    stopping = threading.Event()
    with Gemini([HANG]) as server:
        client = gemini.Client("k", server.url, stopping)
        threading.Timer(0.3, stopping.set).start()
        began = time.monotonic()
        with pytest.raises(gemini.Stopped):
            client.ask("m", JPEG, "?")
        assert time.monotonic() - began < 3
        client.close()


@pytest.mark.parametrize(("key", "url"), [("schlüssel", None), ("k", "nonsense"), ("k", "http://127.0.0.1:1")])
def test_odd_keys_and_addresses(key: str, url: str | None) -> None:
    with Gemini() as server:
        client = gemini.Client(key, url or server.url, threading.Event())
        with pytest.raises((gemini.Misconfigured, gemini.Unreachable)):
            client.ask("m", JPEG, "?")
        client.close()


def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:1")
    with pytest.raises(gemini.CaptionError):
        gemini.Client("k", "http://127.0.0.1:1", threading.Event()).ask("m", JPEG, "?")


def test_nobody_there() -> None:
    with Gemini() as server:
        url = server.url
    client = gemini.Client("k", url, threading.Event())
    with pytest.raises(gemini.Unreachable):
        client.ask("m", JPEG, "?")
    client.close()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("A dog.", "A dog."),
        ("Here is a caption for the photo: A dog.", "A dog."),
        ("Here's the description: a dog runs.", "A dog runs."),
        ("Sure! Here is your caption: A dog.", "A dog."),
        ("Here is a dog on a beach.", "A dog on a beach."),
        ("Hier ist die Beschreibung: Ein Hund.", "Ein Hund."),
        ('Caption: "A dog."', "A dog."),
        ("This is Paris.", "This is Paris."),
        ("Great Danes: two of them, sleeping.", "Great Danes: two of them, sleeping."),
        ("A sign: do not enter.", "A sign: do not enter."),
        ("  A\n dog \u0000 . ", "A dog ."),
    ],
)
def test_openings_are_not_kept(said: str, kept: str) -> None:
    assert prompt.check(json.dumps({"caption": said})).caption == kept


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("A \u202egpj.exe", "A gpj.exe"),
        ("\u202aA\u202b \u202cdog\u202d.\u2066\u2067\u2068\u2069", "A dog."),
        ("\u05d7\u05ea\u05d5\u05dc\u200f!", "\u05d7\u05ea\u05d5\u05dc\u200f!"),
        ("C++\u200e by \u0639\u0644\u064a\u061c.", "C++\u200e by \u0639\u0644\u064a\u061c."),
    ],
)
def test_what_turns_the_direction_of_other_text_is_not_kept_and_marks_are(said: str, kept: str) -> None:
    answer = prompt.check(json.dumps({"caption": said, "keywords": [said], "visible_text": said}))
    assert (answer.caption, answer.visible_text) == (kept, kept)
    assert answer.keywords == (kept.strip("."),)


@pytest.mark.parametrize("depth", [500, 900, 10_000, 100_000])
def test_an_answer_that_is_nested_deep_is_an_answer_without_a_caption(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    with pytest.raises(prompt.Unusable):
        prompt.check(f'{{"caption": {deep}}}')
    if depth < 900:
        assert prompt.check(f'{{"caption": "A.", "keywords": {{"a": {deep}}}}}').keywords == ()


@pytest.mark.parametrize("text", ["", "A dog.", "[1]", "{", '{"caption": ""}', '{"caption": null}', '{"caption": 1}'])
def test_answers_without_a_caption(text: str) -> None:
    with pytest.raises(prompt.Unusable):
        prompt.check(text)


def test_a_refusal_in_words_is_one() -> None:
    with pytest.raises(prompt.Declined):
        prompt.check('{"caption": "I\'m sorry, I can\'t help with that."}')


def test_a_fence_keywords_and_visible_text() -> None:
    keywords = ["#Cat", "cat", " dog ", "", 3, "x" * 99, *map(str, range(20))]
    table = json.dumps({"caption": "A.", "keywords": keywords, "visible_text": " STOP\n\u0007now "})
    answer = prompt.check(f"```json\n{table}\n```")
    assert answer.keywords == ("Cat", "dog", *map(str, range(10)))
    assert answer.visible_text == "STOP\nnow"
    assert prompt.check('{"caption": "A.", "keywords": "a, b", "visible_text": ""}') == prompt.Answer(
        "A.", ("a", "b"), None
    )


def test_the_prompt_names_language_and_facts() -> None:
    text = prompt.compose("", "Suomi", ("taken on 2024-05-01",))
    assert "Suomi" in text
    assert "taken on 2024-05-01" in text
    assert prompt.compose("Only colours.", "English").startswith("Only colours.")
    assert prompt.version("", "English") != prompt.version("", "Suomi")
