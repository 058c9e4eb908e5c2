"""Which URLs and hosts may be reached: URLs taken apart, and the networks that nobody reaches through us."""

import re
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, quote, unquote, urlsplit

import msgspec

LONGEST_URL = 4_096
LONGEST_NAME = 255
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9_])?\.?")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")

# What people may open to their own intranets; everything else below is never reached.
_PRIVATE = tuple(
    map(IPv4Network, ["10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"])
)
_PRIVATE_6 = (IPv6Network("::1/128"), IPv6Network("fc00::/7"))
_SPECIAL = tuple(
    map(
        IPv4Network,
        [
            "0.0.0.0/8",
            "100.100.100.200/32",  # credentials in a cloud
            "169.254.0.0/16",  # the link, with credentials in most clouds
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ],
    )
)
# Of IPv6 only this is the public internet, and not all of it.
_GLOBAL_6 = IPv6Network("2000::/3")
_SPECIAL_6 = tuple(map(IPv6Network, ["2001::/23", "2001:db8::/32", "3fff::/20", "fd00:ec2::/32"]))
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")
#: An interface id that holds an IPv4 address (ISATAP).
_ISATAP = (0x00005EFE, 0x02005EFE)


class Target(msgspec.Struct, frozen=True):
    """A URL taken apart: ``host`` in ASCII, without brackets; ``path`` with its query, as it is sent."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """What may be told and logged: a path and a query can be secrets."""
        return f"{self.scheme}://{self.authority}"


def take_apart(url: str) -> Target:
    """Take a URL apart that may be asked for, as far as it alone tells.

    Raises:
      ValueError: it may not; the message goes on after the name of a field, and does not repeat the URL.
    """
    if not 0 < len(url) <= LONGEST_URL:
        raise ValueError(f"must be a URL of at most {LONGEST_URL} characters")
    if _UNSAFE.search(url):
        raise ValueError("holds a space, a backslash or a control character: percent-encode it")
    parts, port = _split(url)
    if parts.scheme not in _PORTS:
        raise ValueError("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or a password")
    if not parts.hostname or port == 0:
        raise ValueError("must name a host, and a port from 1 if any: https://example.com/report.pdf")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]")
    target = Target(
        parts.scheme,
        _host(parts.hostname, bracketed="[" in parts.netloc),
        _PORTS[parts.scheme] if port is None else port,
        f"{path}?{query}" if query else path,
    )
    if len(target.path) > 3 * LONGEST_URL:
        raise ValueError("is too long when it is percent-encoded")
    return target


def name_of(url: str) -> str:
    """The name of the document at a URL: the last part of its path, else its host.

    Raises:
      ValueError: as `take_apart`.
    """
    target = take_apart(url)
    path = unquote(target.path.partition("?")[0])
    last = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    name = "".join(letter for letter in last if letter.isprintable()).strip()[:LONGEST_NAME]
    return name if name.strip(".") else target.host


def literal(host: str) -> str | None:
    """The address that a host is in itself, as ``127.1``, ``0x7f000001`` and ``2130706433`` are too."""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if not re.fullmatch(r"[0-9a-fx.]+", host):
        return None
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except OSError:
        return None


def may_reach(address: str, *, allow_private: bool = False) -> bool:
    """Whether an IP address, as the resolver gives it, is one of the public internet.

    With ``allow_private`` also one of an intranet or of this machine; never one where clouds keep their
    credentials, nor one of the link, nor a multicast, reserved or unspecified one.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if "%" in address:  # of the link
        return False
    if isinstance(found, IPv4Address):
        return _may_reach_4(found, allow_private)
    inner = list(_inside(found))
    if not all(_may_reach_4(one, allow_private) for one in inner):
        return False
    if found in _MAPPED or found in _NAT64 or found in _6TO4:
        return True
    if any(found in network for network in _SPECIAL_6):
        return False
    if any(found in network for network in _PRIVATE_6):
        return allow_private
    return found in _GLOBAL_6


def _may_reach_4(address: IPv4Address, allow_private: bool) -> bool:
    if any(address in network for network in _SPECIAL):
        return False
    return allow_private or not any(address in network for network in _PRIVATE)


def _inside(address: IPv6Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that packets to an IPv6 address may end at."""
    number = int(address)
    if address in _MAPPED or address in _NAT64 or (number >> 32) & 0xFFFFFFFF in _ISATAP:
        yield IPv4Address(number & 0xFFFFFFFF)
    if address in _6TO4:
        yield IPv4Address((number >> 80) & 0xFFFFFFFF)


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        url.encode()
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError:
        raise ValueError("is not a URL that can be read: check its host and port") from None


def _host(host: str, *, bracketed: bool) -> str:
    try:
        if bracketed:
            return _without_zone(IPv6Address(host))
        ascii_host = host.encode("idna").decode().lower()
    except ValueError:
        raise ValueError("names a host that cannot be one") from None
    if not _HOST.fullmatch(ascii_host) or ".." in ascii_host:
        raise ValueError("names a host that cannot be one")
    return ascii_host


def _without_zone(address: IPv6Address) -> str:
    if address.scope_id is not None:
        raise ValueError("an address of the link")
    return str(address)
