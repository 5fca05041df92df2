"""Zones come from addresses, and what readers of URLs disagree about is refused."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from pipelines.core.errors import Refused
from pipelines.governance.zones import Origin, look_up, origin_of, zone_of, zone_of_all


@pytest.mark.parametrize(
    ("address", "zone"),
    [
        ("127.0.0.1", "local"),
        ("127.8.9.10", "local"),
        ("::1", "local"),
        ("::ffff:127.0.0.1", "local"),
        ("10.0.0.5", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("::ffff:10.0.0.5", "private"),
        ("fd12:3456::1", "private"),
        ("8.8.8.8", "external"),
        ("172.32.0.1", "external"),
        ("2606:4700:4700::1111", "external"),
        ("::ffff:8.8.8.8", "external"),
        ("64:ff9b::808:808", "external"),
        ("64:ff9b::a00:5", "private"),
        ("169.254.169.254", None),
        ("::ffff:169.254.169.254", None),
        ("64:ff9b::a9fe:a9fe", None),
        ("169.254.1.1", None),
        ("fe80::1", None),
        ("fe80::1%eth0", None),
        ("fd00:ec2::254", None),
        ("fd20:ce::254", None),
        ("168.63.129.16", None),
        ("100.100.100.200", None),
        ("192.0.0.192", None),
        ("100.64.0.1", None),
        ("0.0.0.0", None),
        ("::", None),
        ("224.0.0.1", None),
        ("ff02::1", None),
        ("255.255.255.255", None),
        ("192.0.2.1", None),
        ("2001:db8::1", None),
        ("2002:7f00:1::", None),
        ("fec0::1", None),
        ("::127.0.0.1", None),
    ],
)
def test_each_address_has_one_zone_or_none(address: str, zone: str | None) -> None:
    assert zone_of(address) == zone


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000@evil.test/",
        "http://user:secret-7@127.0.0.1/",
        "http://user:secret-7@127.0.0.1:99999/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:8000/",
        "ftp://user@127.0.0.1/",
        "http://0x7f.1:8000/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.0.1\\@evil.test/",
        "http://127.0.0.1 .evil.test/",
        "http://127.0.0.1/\r\nHost: evil.test",
        "http://evil.test#@127.0.0.1/",
        "http:///v1",
        "http://[::1",
        "https://evil.test:0x50/",
        "127.0.0.1:8000",
        "",
    ],
)
def test_an_endpoint_that_can_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(Refused) as caught:
        origin_of(url)
    assert "secret-7" not in str(caught.value)


def test_the_origin_is_scheme_host_and_port() -> None:
    assert origin_of("HTTPS://API.Example.test/v1?a=b") == Origin("https", "api.example.test", 443)
    assert origin_of("http://[::1]:8000/v1") == Origin("http", "::1", 8000)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0:8000/",
        "http://[::]:8000/",
        "http://224.0.0.1/",
    ],
)
def test_metadata_and_its_kin_are_never_spoken_to(url: str) -> None:
    with pytest.raises(Refused, match="nothing is ever sent"):
        look_up(origin_of(url))


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_all_addresses_of_a_name_count(monkeypatch: pytest.MonkeyPatch) -> None:
    origin = origin_of("https://api.example.test")
    resolving(monkeypatch, "8.8.8.8", "8.8.4.4")
    assert look_up(origin) == "external"
    resolving(monkeypatch, "10.0.0.5")
    assert look_up(origin) == "private"
    resolving(monkeypatch, "127.0.0.1", "8.8.8.8")
    with pytest.raises(Refused, match=r"several zones: 127\.0\.0\.1 \(local\), 8\.8\.8\.8"):
        look_up(origin)
    resolving(monkeypatch, "8.8.8.8", "169.254.169.254")
    with pytest.raises(Refused, match=r"169\.254\.169\.254, to which nothing"):
        look_up(origin)
    monkeypatch.undo()
    with pytest.raises(Refused, match="cannot be the name"):
        look_up(origin_of(f"https://{'x' * 64}.test"))
    with pytest.raises(Refused):
        zone_of_all("nobody.test", [])
