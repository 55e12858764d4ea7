"""Makes a folder for a darkroom: config.toml, which documents every key, and `.env` for the secrets.

What is there is never changed.
"""

import argparse
import shlex
from importlib import resources
from pathlib import Path

from daemon.config import inbox_around
from daemon.errors import ConfigError, DarkroomError
from daemon.files import atomic
from daemon.files.atomic import Root
from daemon.files.state_folder import FILE_MODE

_ENV = """\
# The secrets of this darkroom: keep this file to yourself. A variable of the environment goes before a line here.

# A Gemini key makes captions (https://aistudio.google.com/apikey): then each photo's thumbnail goes to Google, but for
# those of [captions] private. What is sent with a free key Google may use to improve its products.
#GEMINI_API_KEY=

# What other machines sign in with, 16 characters or more; without it only this machine is served.
#DARKROOM_TOKEN=
"""


def main(args: argparse.Namespace) -> int:
    """Write the files that are missing, and say what comes next; 0."""
    folder = args.folder.expanduser().absolute()
    if (around := inbox_around(folder.resolve())) is not None:
        raise ConfigError(
            f"{folder} lies in {around[0]}, the inbox of the darkroom in {around[1]}: choose another folder"
        )
    try:
        atomic.make_path(folder)
    except OSError as error:
        raise DarkroomError(f"{folder} can't be made: {error.strerror}") from error
    shipped = (resources.files("daemon") / "config.toml").read_bytes()
    for name, text, mode in (("config.toml", shipped, None), (".env", _ENV.encode(), FILE_MODE)):
        try:
            atomic.atomic_write(Root(folder.resolve()) / "", {name: text}, "init", mode=mode)
        except FileExistsError:
            print(f"{folder / name} is there already, and stays as it is")
        else:
            print(f"made {folder / name}")
    there = "" if folder == Path.cwd() else f"cd {shlex.quote(str(args.folder))} && "
    print(f"next: {there}darkroom run")
    return 0
