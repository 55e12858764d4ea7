"""The servers by which real clients bring photos in: Debian's own, on loopback, each with a configuration made here."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns import program
from tests.campaigns.accounts import NEIGHBOUR
from tests.campaigns.stage import Stage

_SYSTEM = "/usr/sbin:/sbin"
# Who anonymous clients of FTP are: an account that every Debian has, and whose home folder is there.
_FTP_ACCOUNT = "daemon"


def find(name: str) -> str | None:
    """Return where a program is, in the folders of the system's own, too."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM}")


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _serving(name: str, *words: object, port: int | None, under: Sequence[str] = ()) -> Iterator[None]:
    """Keep a server going for a block, and wait until it answers."""
    where = find(name)
    assert where is not None, f"there is no {name}"
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [*under, where, *(str(word) for word in words)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )

        def log() -> str:
            said.seek(0)
            return f"{name} does not serve: {said.read()[-2000:]}"

        try:
            if port is not None:
                program.wait(lambda: _answers(port), 20, log)
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@dataclass(frozen=True)
class Ssh:
    """How a client of sshd comes in: by which account, and with which options."""

    account: str
    options: Sequence[str]


@contextmanager
def sshd(stage: Stage) -> Iterator[Ssh]:
    """Run Debian's sshd as an ordinary user: this one, or where this is root one of whom only sshd knows."""
    port, is_root = _port(), os.geteuid() == 0
    with tempfile.TemporaryDirectory(dir=stage.base) as made:
        folder = Path(made)
        account, under = os.environ.get("USER", "photographer"), list[str]()
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        if is_root:
            account, number = "photographer", NEIGHBOUR
            (folder / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\n{account}:x:{number}:{number}::/:/bin/sh\n")
            (folder / "shadow").write_text(f"{account}:*:19000::::::\n")
            folder.chmod(0o755)
            os.chown(folder / "host", number, number)
            mounts = "".join(f"mount --bind {folder / name} /etc/{name}; " for name in ("passwd", "shadow"))
            drop = f"exec setpriv --reuid={number} --regid={number} --clear-groups"
            under = ["unshare", "-m", "sh", "-ec", f'{mounts}{drop} "$@"', "sh"]
        (folder / "config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
            f"AuthorizedKeysFile {folder / 'key.pub'}\nStrictModes no\nUsePAM no\nPidFile none\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\n"
        )
        options = ["-i", str(folder / "key"), "-P", str(port)]
        for setting in ("LogLevel=ERROR", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"):
            options += ["-o", setting]
        with _serving("sshd", "-D", "-e", "-f", folder / "config", port=port, under=under):
            yield Ssh(account, options)


@contextmanager
def vsftpd(stage: Stage) -> Iterator[str]:
    """Run vsftpd with the inbox for anonymous clients; return its URL. It needs root for its own confinement."""
    port = _port()
    settings = {
        "listen": "YES",
        "listen_address": "127.0.0.1",
        "listen_port": port,
        "background": "NO",
        "anonymous_enable": "YES",
        "no_anon_password": "YES",
        "local_enable": "NO",
        "write_enable": "YES",
        "anon_upload_enable": "YES",
        # To resume an upload is to change a file that is there.
        "anon_other_write_enable": "YES",
        "anon_world_readable_only": "NO",
        "anon_umask": "022",
        "anon_root": stage.base,
        "ftp_username": _FTP_ACCOUNT,
        "secure_chroot_dir": stage.base,
        "connect_from_port_20": "NO",
        # Its sandbox is for older kernels than those of containers.
        "seccomp_sandbox": "NO",
        "isolate": "NO",
        "isolate_network": "NO",
    }
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write("".join(f"{key}={value}\n" for key, value in settings.items()))
        config.flush()
        with _serving("vsftpd", config.name, port=port):
            yield f"ftp://127.0.0.1:{port}/inbox/"


@contextmanager
def smbd(stage: Stage) -> Iterator[Sequence[str]]:
    """Run Samba with the inbox as a share for guests; return the words that start its client."""
    port = _port()
    with tempfile.TemporaryDirectory(dir=stage.base) as folder:
        own = ("pid directory", "lock directory", "state directory", "cache directory", "private dir")
        lines = [
            "[global]",
            f"smb ports = {port}",
            "interfaces = lo",
            "bind interfaces only = yes",
            "server role = standalone",
            "map to guest = Bad User",
            "load printers = no",
            "disable spoolss = yes",
            f"log file = {folder}/log",
            f"ncalrpc dir = {folder}/rpc",
            *(f"{key} = {folder}" for key in own),
            "[inbox]",
            f"path = {stage.inbox}",
            "guest ok = yes",
            "read only = no",
        ]
        (Path(folder) / "smb.conf").write_text("\n".join(lines) + "\n")
        with _serving("smbd", "-F", "--no-process-group", "-s", Path(folder) / "smb.conf", port=port):
            yield ("smbclient", "//127.0.0.1/inbox", "-p", str(port), "-N")


@contextmanager
def rclone(protocol: str, folder: Path) -> Iterator[str]:
    """Run rclone as a server of a folder, by WebDAV or HTTP; return its URL."""
    port = _port()
    with _serving("rclone", "serve", protocol, folder, "--copy-links", "--addr", f"127.0.0.1:{port}", port=port):
        yield f"http://127.0.0.1:{port}/"


def write_download_page(file: Path, names: Sequence[str]) -> None:
    """Write a page that clicks on a link to each of some files, one after the other.

    Not faster: a click ends that one before it which has not been answered yet.
    """
    script = """
        NAMES.forEach((name, number) => setTimeout(() => {
            const link = document.createElement("a")
            link.href = link.download = name
            document.body.append(link)
            link.click()
        }, 300 * number))
    """
    file.write_text(f"<body><script>{script.replace('NAMES', json.dumps(list(names)))}</script>")


@contextmanager
def chromium(url: str, downloads: Path, profile: Path) -> Iterator[None]:
    """Keep Chromium going at a page, with a folder that it downloads into without asking."""
    (profile / "Default").mkdir(parents=True)
    preferences = {
        "download": {"default_directory": str(downloads), "prompt_for_download": False},
        "profile": {"default_content_setting_values": {"automatic_downloads": 1}},
    }
    (profile / "Default" / "Preferences").write_text(json.dumps(preferences))
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}")
    with _serving("chromium", *options, url, port=None):
        yield
