"""Asks Gemini whether key and model are good, by a request that costs nothing."""

import threading

from daemon.captions.client import CaptionError, Client, Limited, Misconfigured
from daemon.config import Config
from daemon.doctor import Finding

_SECONDS = 15.0


def captions(config: Config) -> Finding:
    """Ask for the model's description."""
    if config.gemini_key is None:
        return Finding("captions", "off: there is no GEMINI_API_KEY")
    model = config.captions.model
    client = Client(config.gemini_key.get_secret_value(), config.gemini_base_url, threading.Event(), _SECONDS)
    try:
        client.check(model)
    except Limited as error:
        return Finding("captions", f"key and model are good; the quota is used up for now: {error}")
    except Misconfigured as error:
        return Finding("captions", str(error), "see https://aistudio.google.com/apikey, and [captions] in config.toml")
    except CaptionError as error:
        return Finding("captions", str(error), "look whether this machine reaches the internet; filing goes on without")
    finally:
        client.close()
    return Finding("captions", f"key and model {model} are good")
