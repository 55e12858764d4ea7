"""What is interrupted: the situations in which a photo is filed, each with the folders it begins with."""

import io
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.campaigns import program
from tests.campaigns.stage import Stage, digest, filesystems, temporary_stage

XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>
"""
TEXT = b"this is no image, whatever its name says\n" * 20


def photo(seed: int, size: tuple[int, int] = (96, 64)) -> bytes:
    """Make a JPEG whose bytes depend on `seed` alone, taken in one of 312 months."""
    width, height = size
    # A coarse pattern, enlarged: quick to make, and of a photo's size when coded.
    coarse = (max(1, width // 4), max(1, height // 4))
    image = Image.frombytes("RGB", coarse, random.Random(seed).randbytes(coarse[0] * coarse[1] * 3)).resize(size)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = f"{2000 + seed // 12 % 26}:{seed % 12 + 1:02d}:01 12:34:56"
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90, exif=exif, comment=f"photo {seed}".encode())
    return out.getvalue()


@dataclass(frozen=True)
class Act:
    """`before` has been filed already, `prepare` puts in what is filed now, `words` is what is interrupted."""

    name: str
    prepare: Callable[[Stage], None]
    before: Callable[[Stage], None] | None = None
    across: bool = False
    words: tuple[str, ...] = ("run", "--once")
    filing: tuple[tuple[str, str], ...] = ()
    # By what the program draws its hidden names: a restart draws others.
    names: str = "first"
    # What is done again after it was interrupted, before all that there is to do.
    again: tuple[str, ...] = ()

    @contextmanager
    def template(self) -> Iterator[Stage]:
        """Return the folders as they are before the act, for `stage` to copy."""
        with temporary_stage(across=self.across, quick=True) as stage:
            stage.configure(filing=dict(self.filing))
            if self.before is not None:
                self.before(stage)
                program.run(stage.base, "run", "--once")
            self.prepare(stage)
            yield stage

    @contextmanager
    def stage(self, template: Stage) -> Iterator[Stage]:
        """Return a copy of the template to play on."""
        here, there = filesystems()
        base = Path(tempfile.mkdtemp(prefix="campaign-", dir=here))
        away = Path(tempfile.mkdtemp(prefix="campaign-", dir=there)) if template.away is not None else None
        try:
            stage = template.copy(base, away)
            stage.configure(filing=dict(self.filing))
            yield stage
        finally:
            shutil.rmtree(base)
            if away is not None:
                shutil.rmtree(away)


def _one(stage: Stage) -> None:
    stage.put("IMG_1.jpg", photo(1))


def _other(stage: Stage) -> None:
    stage.put("IMG_2.jpg", photo(2))


def _twin(stage: Stage) -> None:
    stage.put("again/IMG_1.jpg", photo(1))


def _text(stage: Stage) -> None:
    stage.put("IMG_3.jpg", TEXT, bad=True)


def _folder(stage: Stage) -> None:
    stage.put("card/DCIM/IMG_4.jpg", photo(4))
    stage.put("card/DCIM/IMG_5.jpg", TEXT, bad=True)
    stage.put("card/IMG_4.jpg", photo(40))
    stage.put("twin of IMG_4.jpg", photo(4))


def _companions(stage: Stage) -> None:
    stage.put("IMG_6.jpg", photo(6))
    stage.put("IMG_6.jpg.xmp", XMP)
    stage.put("IMG_6.AAE", b"<plist>an edit</plist>")


def _rejected(stage: Stage) -> None:
    _companions(stage)
    program.run(stage.base, "run", "--once")
    program.run(stage.base, "reject", *_ALL)


def _owner(stage: Stage) -> None:
    """Edit one filed photo, move another with its sidecar, one without, one without its companion; delete one."""
    stage.put("IMG_54.AAE", b"<plist>an edit of 54</plist>")
    for seed in range(50, 58):
        stage.put(f"IMG_{seed}.jpg", photo(seed))
    program.run(stage.base, "run", "--once")
    library = stage.folder("library")
    edited, moved, alone, deleted, beside = (next(library.rglob(f"IMG_{seed}.jpg")) for seed in range(50, 55))
    edited.write_bytes(photo(500))
    del stage.must[digest(photo(50))]
    stage.expect(photo(500))
    (library / "album").mkdir()
    for path in (moved, moved.with_name(moved.name + ".xmp"), alone, beside):
        path.rename(library / "album" / path.name)
    deleted.unlink()
    deleted.with_name(deleted.name + ".xmp").unlink()
    del stage.must[digest(photo(53))]


def _to_refile(stage: Stage) -> None:
    """Photos of one name, a pair of files and a companion, which another template brings together."""
    _companions(stage)
    for seed in (70, 71, 72):
        stage.put(f"{seed}/IMG_7.jpg", photo(seed))


def _never_filed(stage: Stage) -> None:
    for seed in (60, 61):
        path = stage.folder("library") / f"old/IMG_{seed}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(seed))
        stage.expect(photo(seed))


_REFILE = ("refile", "--template", "{taken:%Y}/{name}")
_ALL = ("1", "2", "3", "4", "5")
_DELETE = (("duplicates", "delete"),)
ACTS = {
    act.name: act
    for act in (
        Act("the first photo of all", _one),
        Act("a photo", _other, before=_one),
        Act("a duplicate", _twin, before=_one),
        Act("a duplicate, deleted", _twin, before=_one, filing=_DELETE),
        Act("no image", _text, before=_one),
        Act("a folder of four", _folder, before=_one),
        Act("a photo with its companions", _companions, before=_one),
        Act("taking a photo back", lambda _: None, _companions, words=("undo", "--since", "1h", "--to", "undone")),
        Act("asking to try again", lambda _: None, before=_text, words=("retry", "--failed")),
        Act("a photo to another filesystem", _other, before=_one, across=True),
        Act("a duplicate to another filesystem", _twin, before=_one, across=True),
        Act("no image to another filesystem", _text, before=_one, across=True),
        Act("asking to try again, from another filesystem", lambda _: None, _text, True, ("retry", "--failed")),
    )
}
# What an owner does with a library, and has done with it.
OWNERS = {
    act.name: act
    for act in (
        Act("throwing away", lambda _: None, _companions, words=("reject", *_ALL)),
        Act("throwing away, to another filesystem", lambda _: None, _one, True, ("reject", *_ALL)),
        Act("restoring", _rejected, words=("restore", *_ALL)),
        Act("following the owner", _owner, before=_one, words=("sync",), again=("sync",)),
        Act("refiling", lambda _: None, before=_to_refile, words=_REFILE, again=_REFILE),
        Act("adopting", _never_filed, before=_one, words=("sync", "--adopt"), again=("sync", "--adopt")),
    )
}
