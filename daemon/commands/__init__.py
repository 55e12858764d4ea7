"""The commands: a module each, loaded only when it is called, whose `main(config, args)` returns the exit code."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.config import Config
    from web.context import AccessRules

# SQLite's integers end here.
LARGEST = 2**63 - 1


def whole_number(text: str) -> int | None:
    """Return the number from 1 to LARGEST that somebody has typed, such as an image's id; None where it is none."""
    # Digits alone, and not too many: int() takes " 7 ", "1_000" and those of other scripts, and no more than 4,300.
    if not re.fullmatch("[0-9]{1,19}", text):
        return None
    return int(text) if 1 <= int(text) <= LARGEST else None


def access_rules(config: "Config") -> "AccessRules":
    """Return who may call the web server of a configuration."""
    from web.context import AccessRules

    web, token = config.web, config.token.get_secret_value() if config.token else None
    return AccessRules(web.host, web.allowed_hosts, web.cors_origins, token, web.trusted_proxies)
