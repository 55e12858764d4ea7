"""Who the client is, by the connection and by what a chain of proxies says."""

from typing import Any

import pytest

from web.clients import Proxies, neighbourhood, plain_address

TRUSTED = ("127.0.0.1", "10.0.0.0/8", "fd00::/8")


def scope(peer: str, *headers: tuple[str, str], scheme: str = "http") -> dict[str, Any]:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "client": (peer, 4711), "headers": raw, "scheme": scheme}


@pytest.mark.parametrize(
    ("peer", "said", "client"),
    [
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.2,10.0.0.3", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.7", "10.0.0.7"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("fd00::1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("fd00::1", "2001:DB8:0::1", "2001:db8::1"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "," * 5000 + "x" * 5000, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1" + ",10.0.0.2" * 5000, "10.0.0.2"),
        ("", "198.51.100.1", ""),
    ],
)
def test_the_first_that_is_no_proxy_of_ours_is_the_client(peer: str, said: str, client: str) -> None:
    proxies = Proxies(TRUSTED)
    assert proxies.client(scope(peer, ("x-forwarded-for", said))) == client
    one_by_one = [("x-forwarded-for", part) for part in said.split(",")]
    assert proxies.client(scope(peer, *one_by_one)) == client


def test_without_proxies_nothing_that_is_said_counts() -> None:
    headers = ("x-forwarded-for", "198.51.100.1"), ("x-forwarded-proto", "https")
    assert Proxies().client(scope("127.0.0.1", *headers)) == "127.0.0.1"
    assert not Proxies().is_tls(scope("127.0.0.1", *headers))
    assert Proxies().is_tls(scope("127.0.0.1", scheme="https"))
    assert Proxies().client({"type": "http", "client": None, "headers": []}) == ""


def test_tls_is_what_the_proxy_that_called_says() -> None:
    for said, tls in {"https": True, "HTTPS": True, "http": False, "https, http": False, "http,https": True}.items():
        assert Proxies(TRUSTED).is_tls(scope("10.0.0.1", ("x-forwarded-proto", said))) is tls, said
        assert not Proxies(TRUSTED).is_tls(scope("192.0.2.1", ("x-forwarded-proto", said)))


def test_what_of_an_address_stays_the_same() -> None:
    assert plain_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain_address("x") == "x"
    assert {neighbourhood(one) for one in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")} == {"loopback"}
    assert neighbourhood("192.0.2.1") != neighbourhood("192.0.2.2")
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff:1") != neighbourhood("2001:db8:0:1::1")
    assert neighbourhood("fe80::1") != neighbourhood("fe80::2"), "all of the wire are under one prefix"
