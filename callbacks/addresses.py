"""Which network forbids an IP address, the v4 address inside a v6 one included. Pure: no Django, no I/O."""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Loopback, this machine, link-local (which holds most clouds' metadata), multicast, Alibaba Cloud's metadata.
DEFAULT_BLOCKED = (
    "127.0.0.0/8,::1/128,0.0.0.0/8,::/128,169.254.0.0/16,fe80::/10,224.0.0.0/4,ff00::/8,100.100.100.200/32"
)

# Where a v4 address fills the last 32 bits: v4-compatible, v4-mapped, v4-translated (RFC 4291, 2765), NAT64 (RFC 6052).
_ENDS_IN_V4 = [ip_network(text) for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")]
# NAT64 of one's own (RFC 8215), whose v4 address stands where the prefix that was chosen of it ends.
_LOCAL_NAT64 = ip_network("64:ff9b:1::/48")
_ISATAP = (0x00005EFE, 0x02005EFE)


def networks(text: str) -> list[Network]:
    """Return comma-separated CIDRs or addresses as networks; ValueError where one is neither."""
    return [ip_network(part.strip(), strict=False) for part in text.split(",")]


def forbidding(address: str, blocked: Sequence[Network]) -> Network | None:
    """Return the first of the networks that holds an address, or the v4 address that it leads to; None: no one."""
    judged = ip_address(address)
    return next((network for each in _meant(judged) for network in blocked if each in network), None)


def _meant(address: Address) -> Iterator[Address]:
    """Return an address and each v4 address that a gateway or this machine may take it for."""
    yield address
    if not isinstance(address, IPv6Address):
        return
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    number = int(address)
    if any(address in network for network in _ENDS_IN_V4) or number >> 32 & 0xFFFFFFFF in _ISATAP:
        yield IPv4Address(number & 0xFFFFFFFF)
    if address in _LOCAL_NAT64:
        yield from _each_prefix(number)


def _each_prefix(number: int) -> Iterable[IPv4Address]:
    """Return the v4 addresses of prefixes of 48, 56, 64 and 96 bits; bits 64 to 71 are left out (RFC 6052, 2.2)."""
    without = number >> 64 << 56 | number & (1 << 56) - 1
    return [IPv4Address(without >> shift & 0xFFFFFFFF) for shift in (40, 32, 24)] + [IPv4Address(number & 0xFFFFFFFF)]
