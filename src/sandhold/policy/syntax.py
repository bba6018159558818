"""Rules as people write them: one resource becomes a pattern and its ports, or is refused with the reason.

    resource = host [":" ports]            ports = "*" / port / port "-" port
    host     = name / address / network / "[" IPv6 address or network "]" / "localhost" / "**"

Rules:

1. A host is brought to the same canonical form as a destination (`model/destination.py`): case, trailing dot, brackets,
   IPv4 in IPv6, every spelling of the user's machine. What that form refuses is refused here.
2. `*` (any run of characters) and `?` (one character) may stand in any label of a name but the last; `**` only as the
   whole first label, for one label or more, or alone, for everything.
3. Without ports, an allow rule means 80 and 443, a deny rule every port; bare `**` means every port.
4. An allow rule that nothing would honour, or only in part, is refused: addresses that are never opened, a network that
   mixes public addresses with a range of the address floor, a wildcard over a whole top-level domain.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Final

from sandhold.model.decision import Reason
from sandhold.model.destination import (
    NAME_BYTES_MAX,
    DomainName,
    HostService,
    MalformedError,
    canonical_address,
    parse_host,
    parse_port,
)
from sandhold.model.rule import (
    EVERY_PORT,
    WEB_PORTS,
    AddressPattern,
    Effect,
    EverythingPattern,
    HostServicePattern,
    NamePattern,
    Pattern,
    PortRange,
)
from sandhold.policy.addresses import floor_range_within, floor_reason, is_clear_of_floor, never_opened_range

if TYPE_CHECKING:
    from sandhold.policy.addresses import Network

RESOURCE_CHARS_MAX: Final = NAME_BYTES_MAX + 13  # the longest name, its trailing dot, a colon and a range of ports
RESOURCES_MAX: Final = 1000  # in one comma list: more than anybody types, far less than would stall the store

_REFUSED: Final = (
    (re.compile(r"[^\x00-\x7f]"), "only ASCII names a host", "write an international name as its A-label, `xn--...`"),
    (re.compile(r"[\x00-\x20\x7f]"), "no host has spaces or control characters", "separate resources with commas"),
    (re.compile(r"://"), "a rule has no scheme", "name the host and the port: `example.com:443`"),
    (re.compile(r"@"), "a rule has no user", "name the host alone: `example.com`"),
    (re.compile(r"%"), "a host is not percent-decoded and an address has no zone", "name the host as it is"),
    (re.compile(r","), "one resource has no comma", "write each resource of the list by itself"),
    (re.compile(r"[^A-Za-z0-9_.:*?\[\]/-]"), "it has a character that stands in no host, port or network", None),
)
_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
_ONLY_WILDCARDS = re.compile(r"[*?]+")


class RuleSyntaxError(ValueError):
    """A resource that is no rule; `str()` says why and never repeats the text, `hint` says what to write instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def split_resources(text: str) -> tuple[str, ...]:
    """Split a comma list of resources; blanks round a comma are dropped.

    Raises:
        RuleSyntaxError: when an item is empty, or there are more than `RESOURCES_MAX`.
    """
    items = tuple(item.strip(" ") for item in text.split(",", RESOURCES_MAX))
    if len(items) > RESOURCES_MAX:
        raise RuleSyntaxError(f"more than {RESOURCES_MAX} resources in one list")
    if not all(items):
        raise RuleSyntaxError("an empty resource", "write `example.com,example.org:443`")
    return items


def parse_resource(text: str, effect: Effect) -> tuple[Pattern, tuple[PortRange, ...]]:
    """Read one resource by rules 1 to 4.

    Raises:
        RuleSyntaxError: when it cannot be enforced exactly as written.
    """
    if len(text) > RESOURCE_CHARS_MAX:
        raise RuleSyntaxError(f"longer than {RESOURCE_CHARS_MAX} characters")
    for characters, message, hint in _REFUSED:
        if characters.search(text):
            raise RuleSyntaxError(message, hint)
    host, ports_text = _split_ports(text.lower())
    pattern = _pattern(host)
    if effect is Effect.ALLOW:
        _refuse_unenforceable(pattern)
    return pattern, _default_ports(pattern, effect) if ports_text is None else _ports(ports_text)


def _split_ports(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or rest[:1] not in ("", ":"):
            raise RuleSyntaxError("mismatched brackets", "write `[2001:db8::1]:443` or `[2001:db8::/32]:443`")
        if ":" not in host:
            raise RuleSyntaxError("brackets hold an IPv6 address or network and nothing else")
        return host, rest[1:] if rest else None
    colons = text.count(":")
    if colons > 1:
        if ":" in text.partition("/")[2]:
            raise RuleSyntaxError("an IPv6 network needs brackets before its ports", "write `[2001:db8::/32]:443`")
        return text, None
    host, colon, ports = text.partition(":")
    return host, ports if colon else None


def _pattern(host: str) -> Pattern:
    if not host:
        raise RuleSyntaxError("no host", "write `example.com:443`, or `**:443` for every host")
    if host == "**":
        return EverythingPattern()
    if "/" in host:
        return _network_pattern(host)
    if "*" in host or "?" in host:
        return _wildcard_pattern(host)
    try:
        canonical = parse_host(host)
    except MalformedError as error:
        hint = "each resource of a list names its host: `example.com:443`" if host.isdigit() else None
        raise RuleSyntaxError(str(error), hint) from None
    match canonical:
        case DomainName():
            return NamePattern(canonical.labels)
        case HostService():
            return HostServicePattern()
        case IPv4Address():
            return AddressPattern(IPv4Network(canonical))
        case IPv6Address():
            return AddressPattern(IPv6Network(canonical))


def _wildcard_pattern(host: str) -> Pattern:
    labels = tuple(host.removesuffix(".").split("."))
    if labels == ("*",):
        raise RuleSyntaxError("`*` is one label, and a single label names no host", "write `**` for everything")
    if "*" in labels[-1] or "?" in labels[-1]:
        hint = "write a network: `10.0.0.0/8`" if labels[0].isdigit() else "write `**` for everything"
        raise RuleSyntaxError("the last label of a name has no wildcard", hint)
    if any("**" in label for label in labels[1:]) or ("**" in labels[0] and labels[0] != "**"):
        raise RuleSyntaxError("`**` stands only as the whole first label", "write `**.example.com`")
    try:
        parse_host(host.replace("**", "*").replace("*", "a").replace("?", "a"))
    except MalformedError as error:
        raise RuleSyntaxError(str(error)) from None
    return NamePattern(labels)


def _network_pattern(host: str) -> Pattern:
    address_text, _, length_text = host.partition("/")
    address = _network_address(address_text)
    if not _PREFIX_LENGTH.fullmatch(length_text) or int(length_text) > address.max_prefixlen:
        raise RuleSyntaxError("not a prefix length", f"write `/{address.max_prefixlen}` or less, in decimal digits")
    network = _network(address, int(length_text))
    if network.prefixlen == network.max_prefixlen and isinstance(
        canonical_address(network.network_address), HostService
    ):
        return HostServicePattern()
    return AddressPattern(network)


def _network_address(text: str) -> IPv4Address | IPv6Address:
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError:
        if ":" in text or text.replace(".", "").isdigit():
            raise RuleSyntaxError("not an address before the prefix length") from None
        raise RuleSyntaxError("a rule has no path", "name the host alone: `example.com`") from None


def _network(address: IPv4Address | IPv6Address, length: int) -> Network:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None and length >= 96:
        address, length = address.ipv4_mapped, length - 96
    network: Network
    if isinstance(address, IPv4Address):
        network = IPv4Network((address, length), strict=False)
    else:
        network = IPv6Network((address, length), strict=False)
    if network.network_address != address:
        raise RuleSyntaxError("the address has bits set after the prefix length", f"write `{network}`")
    return network


def _ports(text: str) -> tuple[PortRange, ...]:
    if text == "*":
        return EVERY_PORT
    first_text, dash, last_text = text.partition("-")
    try:
        first = parse_port(first_text)
        last = parse_port(last_text) if dash else first
    except MalformedError:
        raise RuleSyntaxError("not a port", "write `:443`, `:8000-8999` or `:*`; ports go from 1 to 65535") from None
    if first > last:
        raise RuleSyntaxError("a range of ports ends before it starts", f"write `:{last}-{first}`")
    return (PortRange(first, last),)


def _default_ports(pattern: Pattern, effect: Effect) -> tuple[PortRange, ...]:
    return EVERY_PORT if effect is Effect.DENY or isinstance(pattern, EverythingPattern) else WEB_PORTS


def _refuse_unenforceable(pattern: Pattern) -> None:
    match pattern:
        case NamePattern(labels):
            if all(_ONLY_WILDCARDS.fullmatch(label) for label in labels[:-1]):
                raise RuleSyntaxError(
                    "a wildcard over a whole top-level domain allows names that anybody can register",
                    f"name the domain (`*.example.{labels[-1]}`), or write `**` for everything",
                )
        case AddressPattern(network):
            _refuse_unenforceable_network(network)
        case HostServicePattern() | EverythingPattern():
            pass


def _refuse_unenforceable_network(network: Network) -> None:
    if is_clear_of_floor(network):
        return
    never = never_opened_range(network)
    if never is not None:
        hint = (
            "a service on your own machine is `localhost:PORT`" if never.kind in ("loopback", "unspecified") else None
        )
        raise RuleSyntaxError(f"nothing opens {never.kind} addresses", hint)
    if network.prefixlen == network.max_prefixlen and floor_reason(network.network_address) is Reason.METADATA_ADDRESS:
        raise RuleSyntaxError("nothing opens the address of a cloud metadata service")
    mixed = floor_range_within(network)
    if mixed is not None:
        raise RuleSyntaxError(
            f"the network mixes public addresses with {mixed.kind} ones ({mixed.network})",
            f"write `**` for everything public, and name the network itself: `{mixed.network}`",
        )
