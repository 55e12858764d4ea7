"""nginx and Caddy before the real program, set up as the README says."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.newcomer import free_port
from tests.program import Program
from tests.readme import blocks
from tests.support import jpeg, wait_until

TOKEN = "0123456789abcdef"
HOST = "photos.example.org"
# Debian's is in no user's PATH.
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
CADDY = shutil.which("caddy")

_NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    {server}
}}
"""


def nginx(folder: Path, port: int, upstream: str, shown: str) -> list[str]:
    """Return the command that starts nginx with what the README shows."""
    assert NGINX is not None
    server = shown.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;").replace("127.0.0.1:8080", upstream)
    server = re.sub(r"/etc/letsencrypt/live/\S+?/(\w+)\.pem", rf"{folder}/\1.pem", server)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, server=server))
    return [NGINX, "-e", "stderr", "-c", f"{folder}/nginx.conf"]


def caddy(folder: Path, port: int, upstream: str, shown: str) -> list[str]:
    """Return the command that starts Caddy with what the README shows."""
    assert CADDY is not None
    site = shown.replace("127.0.0.1:8080", upstream)
    # A certificate of our own, since nobody hands one out for this name; and no other port is opened.
    site = site.replace(
        f"{HOST} {{", f"{HOST}:{port} {{\n    bind 127.0.0.1\n    tls {folder}/fullchain.pem {folder}/privkey.pem"
    )
    (folder / "Caddyfile").write_text(f"{{\n    admin off\n    auto_https disable_redirects\n}}\n{site}")
    return [CADDY, "run", "--adapter", "caddyfile", "--config", f"{folder}/Caddyfile"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    [settings] = [block.text for block in blocks("toml") if "trusted_proxies" in block.text]
    base = tmp_path_factory.mktemp("proxied")
    (base / "config.toml").write_text(settings + "port = 0\n")
    with Program(base, DARKROOM_TOKEN=TOKEN) as made:
        wait_until(lambda: "serving http" in made.log(), what="the web server")
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "command"),
    [
        pytest.param("nginx", nginx, marks=pytest.mark.skipif(NGINX is None, reason="needs nginx")),
        pytest.param("caddyfile", caddy, marks=pytest.mark.skipif(CADDY is None, reason="needs caddy")),
    ],
)
def test_a_proxy_as_the_readme_has_it(
    program: Program, tmp_path: Path, kind: str, command: Callable[[Path, int, str, str], list[str]]
) -> None:
    [shown] = [block.text for block in blocks(kind)]
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "privkey.pem", "-out", tmp_path / "fullchain.pem")
    names = ("-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}")
    subprocess.run(["openssl", "req", "-x509", *key, *names], check=True, capture_output=True)
    port = free_port()
    upstream = re.findall(r"serving http://(\S+)/", program.log())[-1]
    proxy = subprocess.Popen(command(tmp_path, port, upstream, shown), env={"HOME": str(tmp_path)}, cwd=tmp_path)
    ask = Client(tmp_path, port)
    try:
        wait_until(lambda: ask("/healthz") == 200, what="the proxy")
        assert ask("/api/stats") == 401
        # A browser: it is told to send its cookie by TLS alone, and where it is from, with each write.
        browser = ("--cookie", "jar", "--cookie-jar", "jar", "--header", f"Origin: {ask.origin}")
        assert ask("/sign-in", *browser, "--data", f"token={TOKEN}") == 303
        assert f"#HttpOnly_{HOST}\tFALSE\t/\tTRUE\t" in (tmp_path / "jar").read_text()
        assert ask("/", *browser) == 200
        # A program. The photo is larger than what a proxy keeps in memory.
        token = ("--header", f"Authorization: Bearer {TOKEN}")
        (tmp_path / "a.jpg").write_bytes(jpeg(seed=len(kind)) + bytes(3_000_000))
        with ask.listening("/api/events", *token) as heard:
            wait_until(lambda: "event:" in heard(), what="the counts")
            assert ask(f"/api/images?name={kind}.jpg", *token, "--data-binary", "@a.jpg") == 202
            wait_until(lambda: f"{kind}.jpg" in heard(), what="the event, at once")
        # Who guesses is told apart from the proxy.
        guesser = f"127.0.0.{2 + len(kind)}"
        assert ask("/api/stats", "--interface", guesser, "--header", "Authorization: Bearer wrong") == 401
        wait_until(lambda: f"wrong token from {guesser}\n" in program.log(), what="the line for fail2ban")
    finally:
        proxy.terminate()
        proxy.wait(20)


class Client:
    """curl, for which the proxy is what it is called in the README."""

    def __init__(self, folder: Path, port: int) -> None:
        self.origin = f"https://{HOST}:{port}"
        self._folder = folder
        self._curl = [
            "curl",
            "--silent",
            "--resolve",
            f"{HOST}:{port}:127.0.0.1",
            "--cacert",
            str(folder / "fullchain.pem"),
        ]

    def __call__(self, path: str, *options: str) -> int:
        """Ask; return the status, 0 where nobody answers."""
        words = [*self._curl, "--output", "/dev/null", "--write-out", "%{http_code}", *options, self.origin + path]
        asked = subprocess.run(words, cwd=self._folder, capture_output=True, text=True, timeout=60, check=False)
        return int(asked.stdout)

    @contextmanager
    def listening(self, path: str, *options: str) -> Iterator[Callable[[], str]]:
        """Listen to a stream; the value returns what has come so far."""
        words = [*self._curl, "--no-buffer", *options, self.origin + path]
        log = self._folder / "heard"
        with log.open("wb") as out:
            process = subprocess.Popen(words, stdout=out)
        try:
            yield log.read_text
        finally:
            process.kill()
            process.wait()
