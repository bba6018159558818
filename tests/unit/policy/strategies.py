"""Random policies and destinations that are likely to meet: few labels, few addresses, few ports."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import strategies as st

from sandhold.model.destination import Destination, DomainName, HostService, Source, canonical_address
from sandhold.model.rule import (
    EVERY_PORT,
    WEB_PORTS,
    AddressPattern,
    Effect,
    EverythingPattern,
    Generation,
    HostServicePattern,
    NamePattern,
    Origin,
    Policy,
    PortRange,
    Posture,
    Rule,
    RuleId,
)
from tests.unit.policy import reference

NOW = 1000.0
SANDBOXES = (None, "mine", "other")
PORTS = (1, 22, 80, 443, 8000, 8001, 65535)

LABELS = ("a", "b", "ab", "aab", "api-1", "host", "docker")
ENDS = ("test", "com", "internal")
GLOBS = ("*", "?", "a*", "*b", "a*b", "?b", "api-?", "h*t", "*a*a*b", *LABELS)

ADDRESSES = (
    *("93.184.216.34", "93.184.216.35", "10.0.0.1", "10.0.0.2", "10.200.0.1", "127.0.0.1", "127.0.0.2", "0.0.0.0"),
    *("169.254.169.254", "169.254.0.1", "168.63.129.16", "192.168.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("203.0.113.7", "198.18.0.9", "100.100.100.200", "::", "::1", "::a00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b::5db8:d822", "64:ff9b:1::7f00:1", "64:ff9b:1:a00:0:100::", "2002:a00:1::", "2002:5db8:d822::1"),
    *("2001:0:a00:1::f5ff:fffe", "2606:4700::1", "2606:4700::5efe:a00:1", "2606:4700::200:5efe:7f00:1", "2001:db8::1"),
    *("fd00::1", "fd00:ec2::254", "fe80::1", "fe80::a9fe:a9fe", "ff02::1", "fec0::1", "3fff::1", "5f00::1"),
    *("::ffff:0:a00:1", "2001:20::1"),
)

ports = st.sampled_from(PORTS)
raw_addresses = st.one_of(
    st.sampled_from([ip_address(text) for text in ADDRESSES]),
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.integers(0, 2**128 - 1).map(IPv6Address),
)
names = st.builds(
    lambda labels, end: DomainName(".".join([*labels, end])),
    st.lists(st.sampled_from(LABELS), min_size=1, max_size=4),
    st.sampled_from(ENDS),
).filter(lambda name: name.value not in reference.MACHINE_NAMES)  # a host of one of these is read as the host's service
hosts = st.one_of(names, raw_addresses.map(canonical_address), st.just(HostService()))
destinations = st.builds(Destination, hosts, ports, st.sampled_from(Source))

_ranges = st.one_of(
    st.sampled_from([EVERY_PORT, WEB_PORTS]),
    st.tuples(ports, ports).map(lambda pair: (PortRange(min(pair), max(pair)),)),
)
_name_patterns = st.builds(
    lambda first, labels, end: NamePattern((*first, *labels, end)),
    st.sampled_from([(), ("**",), ("*",)]),
    st.lists(st.sampled_from(GLOBS), max_size=3),
    st.sampled_from(ENDS),
).filter(lambda pattern: len(pattern.labels) > 1)
_networks = st.builds(
    lambda address, length: ip_network((address, min(length, address.max_prefixlen)), strict=False),
    raw_addresses,
    st.sampled_from([0, 1, 3, 7, 8, 9, 10, 15, 16, 23, 24, 31, 32, 96, 104, 128]),
)
_patterns = st.one_of(
    _name_patterns,
    _networks.map(AddressPattern),
    st.sampled_from([HostServicePattern(), EverythingPattern()]),
)
_rules = st.builds(
    Rule,
    id=st.integers(0, 9999).map(lambda number: RuleId(f"local:{number}")),
    name=st.just("a rule"),
    effect=st.sampled_from([Effect.ALLOW, Effect.ALLOW, Effect.DENY]),
    pattern=_patterns,
    ports=_ranges,
    resource=st.just(""),
    sandbox=st.sampled_from(SANDBOXES),
    origin=st.sampled_from(Origin),
    expires_at=st.sampled_from([None, None, NOW - 1, NOW, NOW + 1]),
)
policies = st.builds(
    Policy,
    generation=st.integers(1, 5).map(Generation),
    posture=st.sampled_from(Posture),
    rules=st.lists(_rules, max_size=12).map(tuple),
)
