"""Where an endpoint is: derived from the addresses it has, never from what it is called."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from pipelines.core.errors import Refused

Zone = Literal["local", "private", "external"]
ZONES: tuple[Zone, ...] = get_args(Zone)
PRIVATE = tuple(IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
UNIQUE_LOCAL = IPv6Network("fc00::/7")
NAT64 = IPv6Network("64:ff9b::/96")
METADATA = frozenset(
    ipaddress.ip_address(each)
    for each in (
        "169.254.169.254", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16",
        "192.0.0.192",
    )
)  # fmt: skip
"""Where clouds hand out a machine's credentials; some look like anybody's address."""
PORTS = {"http": 80, "https": 443}
FORM = "https://HOST/PATH"


class Origin(NamedTuple):
    """What a client may speak to, and nothing beside it."""

    scheme: str
    host: str
    """Lower case, without brackets."""
    port: int


def origin_of(url: str) -> Origin:
    """Scheme, host and port of an http address.

    The messages never repeat the address: there may be a secret in it.

    Raises:
        Refused: another scheme, a user name in it, or a host that readers disagree about.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused(f"{error}; write the endpoint as {FORM}") from None
    if parts.username is not None or parts.password is not None:
        raise Refused(f"a user name or a password is in the endpoint; write it as {FORM}")
    strange = [c for c in url if c.isspace() or not c.isprintable() or c == "\\"]
    if parts.scheme not in PORTS or not host or strange or parts.fragment:
        raise Refused(f"that is no endpoint; write it as {FORM}")
    if not _is_address(host) and _looks_like_a_number(host):
        raise Refused(f"the host {host!r} is a number; write it as four decimal ones")
    return Origin(parts.scheme, host, PORTS[parts.scheme] if port is None else port)


def zone_of(address: str) -> Zone | None:
    """Zone of one IP address; None where nothing may ever be sent."""
    ip = _plain(ipaddress.ip_address(address.partition("%")[0]))
    if ip in METADATA or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return None
    if ip.is_loopback:
        return "local"
    if isinstance(ip, IPv6Address) and (ip.sixtofour or ip.teredo or ip.is_site_local):
        return None  # tunnels lead to an address that we do not see
    networks = PRIVATE if isinstance(ip, IPv4Address) else (UNIQUE_LOCAL,)
    if any(ip in network for network in networks):
        return "private"
    return "external" if ip.is_global and not ip.is_reserved else None


def zone_of_all(host: str, addresses: Iterable[str]) -> Zone:
    """The zone that all addresses of a host share.

    Raises:
        Refused: one of them is never spoken to, or they lie in several zones.
    """
    found = {address: zone_of(address) for address in addresses}
    for address, zone in found.items():
        if zone is None:
            raise Refused(
                f"{host} has the address {address}, to which nothing is ever sent (link-local, "
                "cloud metadata, multicast or reserved); name another endpoint"
            )
    listed = ", ".join(f"{address} ({zone})" for address, zone in found.items())
    for zone in ZONES:
        if set(found.values()) == {zone}:
            return zone
    raise Refused(f"{host} has addresses in several zones: {listed}; name one of them")


def look_up(origin: Origin) -> Zone:
    """Zone of the host's addresses.

    Raises:
        Refused: as `zone_of_all`.
        OSError: the name has no address.
    """
    if _is_address(origin.host):
        return zone_of_all(origin.host, [origin.host])
    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise Refused(f"{origin.host[:100]!r} cannot be the name of a host") from None
    return zone_of_all(origin.host, [str(each[4][0]) for each in found])


async def look_up_async(origin: Origin) -> Zone:
    """`look_up`, while others go on."""
    return await asyncio.get_running_loop().run_in_executor(None, look_up, origin)


def _plain(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside an IPv6 one, where that is what is reached."""
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip in NAT64:
            return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _looks_like_a_number(host: str) -> bool:
    """`0x7f.1`, `2130706433`: the system's resolver reads them as IPv4, others as names."""
    last = host.rstrip(".").rpartition(".")[2]
    return last.isdigit() or last.startswith("0x")
