"""The README's parts: its blocks, and the commands that it shows."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# What a word of the text stands for.
_PLACEHOLDERS = {"ID": "17"}


@dataclass(frozen=True)
class Block:
    """A fenced block, with the paragraph that leads up to it and the heading that it stands under."""

    kind: str
    text: str
    before: str
    heading: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.strip()]


def blocks(*kinds: str, text: str = README) -> list[Block]:
    """Return the fenced blocks of some kinds, in order."""
    found, heading, end = [], "", 0
    for match in re.finditer(r"^#+ (?P<heading>[^\n]+)$|^```(?P<kind>\w+)\n(?P<text>.*?)^```$", text, re.M | re.S):
        if match["heading"]:
            heading = match["heading"]
        elif match["kind"] in kinds:
            before = text[end : match.start()].strip().rpartition("\n\n")[2]
            found.append(Block(match["kind"], match["text"], " ".join(before.split()), heading))
        end = match.end()
    return found


def commands(text: str = README) -> Iterator[list[str]]:
    """Yield the words of each darkroom command that the text shows, in a block or in a line."""
    shown = [line for block in blocks("sh", text=text) for line in block.lines]
    shown += [
        f"darkroom {words}" for words in re.findall(r"`darkroom ([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    ]
    for line in shown:
        for part in _simple_commands(shlex.split(line, comments=True)):
            if Path(part[0]).name == "darkroom" and len(part) > 1:
                yield [_PLACEHOLDERS.get(word, word) for word in part[1:]]


def _simple_commands(words: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in [*words, "&&"]:
        if word in {"&&", "|", ">", ">>", "sudo"}:
            if part:
                yield part
            part = []
        else:
            part.append(word)
