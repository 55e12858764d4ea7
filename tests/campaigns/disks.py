"""Troubles of disks while darkroom runs: full, read-only, gone, not permitted; each must pause, say why, and pass."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.campaigns import program
from tests.campaigns.acts import photo
from tests.campaigns.stage import SHM, Stage
from tests.campaigns.watching import Skipped, judge, log_of, mounted, remount, wait_paused, wait_settled, wait_waiting


def disk_full(stage: Stage) -> None:
    """A library of 3 MB fills up, and is enlarged."""
    stage.configure(limits={"min_free_mb": 0})
    with mounted(stage.base / "library", "-t", "tmpfs", "-o", "size=3m", "none"), program.serving(stage.base):
        for number in range(6):
            stage.put(f"IMG_{number}.jpg", photo(number, (1400, 1000)))
        # Smaller ones might still find room.
        wait_waiting(stage, "no room")
        remount(stage.base / "library", "size=64m")
        wait_settled(stage)
        judge(stage)


def nearly_full(stage: Stage) -> None:
    """Less than `min_free_mb` is left in the library, then more."""
    with mounted(stage.base / "library", "-t", "tmpfs", "-o", "size=1900k", "none"):
        stage.configure(limits={"min_free_mb": 2})
        with program.serving(stage.base):
            stage.put("IMG_1.jpg", photo(1))
            wait_paused(stage, "is full")
            remount(stage.base / "library", "size=64m")
            wait_settled(stage)
            judge(stage)


def read_only(stage: Stage) -> None:
    """The library becomes read-only, and writable again."""
    with mounted(stage.base / "library", "-t", "tmpfs", "none"), program.serving(stage.base):
        stage.put("IMG_1.jpg", photo(1))
        wait_settled(stage)
        remount(stage.base / "library", "ro")
        stage.put("IMG_2.jpg", photo(2))
        wait_paused(stage, "library")
        remount(stage.base / "library", "rw")
        wait_settled(stage)
        judge(stage)


def unmounted(stage: Stage) -> None:
    """The library's disk goes, leaving an empty folder, and comes back."""
    _goes_and_comes_back(stage, "library")


def inbox_unmounted(stage: Stage) -> None:
    """The inbox's disk goes with a file in it, and comes back."""
    _goes_and_comes_back(stage, "inbox")


def _goes_and_comes_back(stage: Stage, name: str) -> None:
    with tempfile.TemporaryDirectory(dir=SHM) as disk:
        folder = stage.base / name
        with mounted(folder, "--bind", disk), program.serving(stage.base):
            stage.put("IMG_1.jpg", photo(1))
            wait_settled(stage)
            if name == "inbox":
                Path(disk, "IMG_2.jpg").write_bytes(photo(2))
                stage.expect(photo(2))
                # Busy while a file is open: as a person does, again.
                away = ["umount", str(folder)]
                program.wait(lambda: not subprocess.run(away, check=False, capture_output=True).returncode, 10, "busy")
                program.wait(
                    lambda: "another folder" in log_of(stage) or "is gone" in log_of(stage), 30, lambda: log_of(stage)
                )
            else:
                subprocess.run(["umount", str(folder)], check=True)
                stage.put("IMG_2.jpg", photo(2))
                wait_paused(stage, "not mounted")
                assert not list(folder.iterdir()), "filed into the folder below the mount point"
            subprocess.run(["mount", "--bind", disk, str(folder)], check=True)
            stage.put("IMG_3.jpg", photo(3))
            wait_settled(stage)
            judge(stage)


def permission_withdrawn(stage: Stage) -> None:
    """The library may not be written any more, then it may."""
    # Even root is refused once it has no capabilities.
    humble = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    if (
        shutil.which("setpriv") is None
        or subprocess.run([*humble, "true"], capture_output=True, check=False).returncode
    ):
        raise Skipped("capabilities can't be dropped here")
    with program.serving(stage.base, under=humble):
        stage.put("IMG_1.jpg", photo(1))
        wait_settled(stage)
        for number, (folder, wait) in enumerate((("library", wait_paused), ("library/2000", wait_waiting)), 2):
            (stage.base / folder).chmod(0o555)
            stage.put(f"IMG_{number}.jpg", photo(number))
            wait(stage, "library")
            (stage.base / folder).chmod(0o755)
            wait_settled(stage)
        judge(stage)
