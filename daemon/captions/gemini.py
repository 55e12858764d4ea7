"""Speaks to Gemini; the only importer of google-genai, and only once a caption is made (it costs 0.5 s and 56 MB).

Every failure leaves here as one of the outcomes below, which say what it means and not how the SDK puts it.
"""

import logging
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from daemon.phrases import system_words

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# By the Gemini API's additional terms of service, under "Unpaid services"; no answer tells what kind a key is.
FREE_KEY = "what is sent with a free key Google may use to improve its products"
_REQUEST_SECONDS = 45.0
# The SDK's time limit is for each read; a server that sends a byte now and then needs a limit on the whole.
_WHOLE_SECONDS = 60.0
_TOKENS = 2048
_BLOCKED = {
    *("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION"),
    *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
}
_SCHEMA: dict[str, Any] = {
    "type": "OBJECT",
    "properties": {
        "caption": {"type": "STRING"},
        "keywords": {"type": "ARRAY", "items": {"type": "STRING"}},
        "visible_text": {"type": "STRING"},
    },
    "required": ["caption", "keywords", "visible_text"],
    "property_ordering": ["caption", "keywords", "visible_text"],
}


class CaptionError(Exception):
    """Base of what can go wrong with one request; the message is for people."""


class Blocked(CaptionError):
    """Raised when the model may not or will not describe this image."""


class CutOff(CaptionError):
    """Raised when the answer was empty or ends early: this image, another time."""


class BadRequest(CaptionError):
    """Raised when the service takes the request for wrong: this image, or all of them."""


class Limited(CaptionError):
    """Raised on 429.

    `seconds` is the wait that the service asks for, None where it doesn't say; `per_day` says which quota is used up.
    """

    def __init__(self, message: str, seconds: float | None, *, per_day: bool) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.per_day = per_day


class Unavailable(CaptionError):
    """Raised when the service is there but fails: 5xx, a time limit."""


class Unreachable(CaptionError):
    """Raised when the service can't be reached, or something else answers in its place."""


class Misconfigured(CaptionError):
    """Raised when no request can go well before the configuration changes: the key."""


class NoModel(Misconfigured):
    """Raised when there is no such model, or not any more."""


class Stopped(CaptionError):
    """Raised when the request was given up because the program ends."""


@dataclass(frozen=True)
class Reply:
    """A model's text, not checked yet, and what it cost."""

    text: str
    tokens_in: int | None
    tokens_out: int | None


class Client:
    """One key's connection. `stopping` ends a request that is under way."""

    def __init__(
        self, key: str, base_url: str | None, stopping: threading.Event, seconds: float = _REQUEST_SECONDS
    ) -> None:
        from google import genai
        from google.genai import types

        options = types.HttpOptions(
            # The aliases such as gemini-flash-lite-latest exist on v1beta alone; the time limit is in milliseconds.
            api_version="v1beta",
            base_url=base_url,
            timeout=round(seconds * 1000),
        )
        # Explicitly no Vertex AI: GOOGLE_GENAI_USE_VERTEXAI may be set for other programs.
        try:
            self._client = genai.Client(vertexai=False, api_key=key, http_options=options)
        except (ValueError, ImportError) as error:  # proxies of the environment that httpx can't use
            raise Misconfigured(f"no connection can be made: {error}") from error
        self._stopping = stopping
        self._whole = max(seconds, _WHOLE_SECONDS * seconds / _REQUEST_SECONDS)

    def ask(self, model: str, image: bytes, prompt: str, *, tokens: int = _TOKENS) -> Reply:
        """Ask for one JPEG's caption, with at most `tokens` of answer. Raises the errors above."""
        from google.genai import types

        config = types.GenerateContentConfig(
            response_mime_type="application/json",
            response_schema=_SCHEMA,
            max_output_tokens=tokens,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        contents: Any = [types.Part.from_bytes(data=image, mime_type="image/jpeg"), prompt]

        def call() -> types.GenerateContentResponse:
            return self._client.models.generate_content(model=model, contents=contents, config=config)

        return _reply(self._translated(call, model))

    def check(self, model: str) -> None:
        """Ask whether key and model are good, which costs no tokens. Raises the errors above."""
        self._translated(lambda: self._client.models.get(model=model), model)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _translated(self, call: Callable[[], _T], model: str) -> _T:
        import httpx2
        from google.genai import errors

        try:
            return _abandonable(call, self._stopping, self._whole)
        except errors.APIError as error:
            raise _meaning(error, model) from error
        except (httpx2.TimeoutException, TimeoutError) as error:
            raise Unavailable("Gemini did not answer in time") from error
        except (httpx2.TransportError, httpx2.InvalidURL, OSError) as error:
            raise Unreachable(f"Gemini can't be reached: {system_words(error)}") from error
        except UnicodeEncodeError as error:
            raise Misconfigured("the Gemini key holds letters that no key has") from error
        except RecursionError as error:
            # Lists in lists, thousands deep, which no JSON parser here takes: the next image's answer is another one.
            raise CutOff("Gemini's answer was nested too deep to be read") from error
        except (ValueError, TypeError, AttributeError, httpx2.DecodingError) as error:
            # JSONDecodeError, pydantic's ValidationError and the SDK's own for what it can't read are ValueErrors.
            raise Unreachable("something other than Gemini answers (a proxy, or a network's sign-in page)") from error


def _abandonable(call: Callable[[], _T], stopping: threading.Event, seconds: float) -> _T:
    """Run a call that can hang, for at most `seconds` and until `stopping`; its thread is left to itself then."""
    results: list[_T] = []
    faults: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            # The SDK warns of every value that is newer than it is.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results.append(call())
        except BaseException as error:
            faults.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="caption request", daemon=True).start()
    waited = 0.0
    while not ended.wait(0.1):
        waited += 0.1
        if stopping.is_set():
            raise Stopped("the program ends")
        if waited > seconds:
            raise TimeoutError
    if faults:
        raise faults[0]
    return results[0]


def _reply(response: Any) -> Reply:
    feedback = response.prompt_feedback
    if feedback is not None and feedback.block_reason:
        raise Blocked(f"Gemini blocked the image: {_name(feedback.block_reason)}")
    if not response.candidates:
        raise CutOff("Gemini's answer was empty")
    candidate = response.candidates[0]
    reason = _name(candidate.finish_reason) if candidate.finish_reason else "STOP"
    if reason in _BLOCKED:
        raise Blocked(f"Gemini blocked the answer: {reason}")
    if reason == "MAX_TOKENS":
        raise CutOff("Gemini's answer was cut off")
    parts = (candidate.content.parts if candidate.content else None) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    if not text.strip():
        raise CutOff(f"Gemini's answer was empty ({reason})")
    usage = response.usage_metadata
    tokens_in = usage.prompt_token_count if usage else None
    spent = [usage.candidates_token_count, usage.thoughts_token_count] if usage else []
    return Reply(text, tokens_in, sum(n for n in spent if n) if any(n is not None for n in spent) else None)


def _name(value: Any) -> str:
    return str(getattr(value, "value", value))


def _meaning(error: Any, model: str) -> CaptionError:
    """Return what an error of the service means."""
    body = error.details if isinstance(error.details, dict) else {}
    inner = body.get("error")
    listed = inner.get("details") if isinstance(inner, dict) else None
    details = [detail for detail in listed or [] if isinstance(detail, dict)]
    said = " ".join(str(error.message or error.status or "no reason given").split())[:300]
    reasons = {detail.get("reason") for detail in details}
    if error.code == 429:
        return _limit(said, details)
    if error.code == 404:
        return NoModel(f"there is no model {model} (any more); name another in config.toml ({said})")
    if error.code in {401, 403} or "API_KEY_INVALID" in reasons:
        return Misconfigured(f"Gemini refuses the key: {said}")
    if error.code == 400 and error.status == "FAILED_PRECONDITION":
        return Misconfigured(f"Gemini refuses all requests: {said}")
    if error.code in {408, 499} or error.code is None or error.code >= 500:
        return Unavailable(f"Gemini has a fault of its own ({error.code}): {said}")
    return BadRequest(f"Gemini refused the request ({error.code}): {said}")


def _limit(said: str, details: list[dict[str, Any]]) -> Limited:
    """Read RetryInfo and QuotaFailure (google/rpc/error_details.proto) out of a 429."""
    seconds, per_day = None, False
    for detail in details:
        kind = str(detail.get("@type", ""))
        if kind.endswith("RetryInfo"):
            delay = re.fullmatch(r"(\d{1,7}(?:\.\d+)?)s", str(detail.get("retryDelay", "")))
            seconds = float(delay[1]) if delay else None
        elif kind.endswith("QuotaFailure"):
            violations = detail.get("violations")
            ids = [str(v.get("quotaId", "")) for v in violations or [] if isinstance(v, dict)]
            per_day = per_day or any("PerDay" in quota for quota in ids)
    return Limited(said, seconds, per_day=per_day)
