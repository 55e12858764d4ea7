"""`darkroom list`: a table with a head, pages, two orders, and a place for every file."""

import json
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from rich.cells import cell_len

from daemon.__main__ import _arguments
from daemon.catalogue.captions import CaptionOrigin, Words
from daemon.catalogue.schema import ImageRow
from daemon.commands import list as list_command
from daemon.decoding import DateTexts, Decoded, Exif
from daemon.errors import Rejected
from tests.program import on_terminal
from tests.support import Room, jpeg


@pytest.fixture
def filed(room: Room) -> Room:
    """Return a room with five photos, the first of them taken last, a duplicate, and a file that is no image."""

    def decode(path: Path) -> Decoded:
        decoded = room.decoder.decode(path)
        day = f"2024-05-0{9 - room.decoder.seen[-1].encode()[0] % 48}"
        dates = DateTexts(original=f"{day.replace('-', ':')} 12:34:56")
        return replace(decoded, exif=Exif(datetime_original=f"{day}T12:34:56", dates=dates))

    room.decode_with(decode)
    room.decoder.errors["9.jpg"] = [Rejected("not an image: it looks like a text file")]
    photos = [jpeg(seed=number) for number in range(5)]
    for number, photo in enumerate(photos):
        room.put(f"{number}.jpg", photo)
        room.drain()
    room.put("0-again.jpg", photos[0])
    room.drain()
    room.put("9.jpg", b"no photo")
    room.drain()
    return room


def listed(room: Room, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[str], str]:
    assert list_command.main(room.config, _arguments(["list", *words])) == 0
    told = capsys.readouterr()
    return told.out.splitlines(), told.err


def test_there_is_a_head_and_a_line_for_each(filed: Room, capsys: pytest.CaptureFixture[str]) -> None:
    filed.captions.ask_again(5, time.time())
    words = Words("A lighthouse\n at dusk", ("sea",))
    assert filed.captions.store(5, words, CaptionOrigin("m", "p"), "x", time.time())
    (head, *lines), _ = listed(filed, capsys)
    today = datetime.now().astimezone().date()
    assert head == "     ID  STATUS      ARRIVED     TAKEN       FILE                    CAPTION"
    reason = "(not an image: it looks like a text file)"
    assert lines[0] == f"      7  failed      {today}              failed/9.jpg            {reason}"
    assert lines[1] == f"      6  duplicate   {today}  2024-05-09  duplicates/0-again.jpg"
    assert lines[2] == f"      5  done        {today}  2024-05-05  library/2024/05/4.jpg   A lighthouse at dusk"
    assert len(lines) == 7


def test_pages_or_all(filed: Room, capsys: pytest.CaptureFixture[str]) -> None:
    def ids(*words: str) -> tuple[list[int], str]:
        lines, said = listed(filed, capsys, *words)
        return [int(line.split()[0]) for line in lines[1:]], said

    assert ids() == ([7, 6, 5, 4, 3, 2, 1], "")
    assert ids("--limit", "3") == ([7, 6, 5], "there are more: --page 2, or --all\n")
    assert ids("--limit", "3", "--page", "2") == ([4, 3, 2], "there are more: --page 3, or --all\n")
    assert ids("--limit", "3", "--page", "3") == ([1], "")
    assert ids("--limit", "7") == ([7, 6, 5, 4, 3, 2, 1], "")
    assert ids("--limit", "3", "--page", "4") == ([], "there is no page 4\n")
    assert ids("--limit", str(2**63 - 1), "--page", str(2**63 - 1))[0] == []
    assert ids("--limit", "2", "--all") == ([7, 6, 5, 4, 3, 2, 1], "")
    assert ids("--by", "taken", "--status", "done", "--limit", "2") == ([1, 2], "there are more: --page 2, or --all\n")
    assert ids("--by", "taken", "--status", "done", "--limit", "2", "--page", "3") == ([5], "")
    assert ids("nowhere") == ([], "no images match\n")


@pytest.mark.parametrize("batch", [2, 500])
def test_one_json_document_however_many_there_are(
    filed: Room, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(list_command, "_BATCH", batch)
    for words, wanted in ((("--all",), 7), (("--limit", "3"), 3), (("nowhere",), 0)):
        lines, said = listed(filed, capsys, "--json", *words)
        found = json.loads("\n".join(lines))
        assert (len(found), said) == (wanted, "")
        assert "\n".join(lines) == json.dumps(found, indent=2), "as one call would write it"


def test_a_line_is_cut_to_the_width_of_a_terminal(room: Room) -> None:
    room.put("x" * 120 + "-end.jpg", jpeg())
    room.decoder.errors["9.jpg"] = [Rejected("not an image: it looks like a text file")]
    room.put("9.jpg", b"no photo")
    room.drain()
    head, *lines = on_terminal(room.config.base, "list", columns=80).splitlines()
    assert all(cell_len(line) <= 80 for line in (head, *lines))
    long, refused = sorted(lines, key=lambda line: "failed" in line)
    assert "…" in long
    assert long.endswith("-end.jpg"), "a name's end tells more than its middle"
    assert refused.endswith("…"), "of a reason the beginning"


@pytest.mark.parametrize(
    ("row", "where"),
    [
        (ImageRow(place="library", destination="2024/a.jpg"), "library/2024/a.jpg"),
        (ImageRow(path="a\n.jpg"), "inbox/a\\n.jpg"),
        (ImageRow(status="deleted", removed_from="library/2024/a.jpg"), "library/2024/a.jpg"),
        (ImageRow(status="duplicate", duplicate_of=7), "the bytes of image 7"),
        (ImageRow(status="deleted", original_name="a.jpg"), "a.jpg"),
    ],
)
def test_every_image_is_somewhere_or_was(row: ImageRow, where: str) -> None:
    assert list_command._where(row) == where
