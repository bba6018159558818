"""Rules as people write them."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from sandhold.policy.syntax import RESOURCES_MAX, RuleSyntaxError, parse_resource, split_resources


def name(text: str) -> NamePattern:
    """Make a name pattern from its text."""
    return NamePattern(tuple(text.split(".")))


def network(text: str) -> AddressPattern:
    """Make an address pattern from its text."""
    return AddressPattern(ip_network(text))


ACCEPTED = {
    "a name": ("example.com", name("example.com"), None),
    "a name in capitals is the same name": ("EXAMPLE.com", name("example.com"), None),
    "a trailing dot is the same name": ("example.com.", name("example.com"), None),
    "an underscore": ("_dmarc.example.com", name("_dmarc.example.com"), None),
    "an A-label": ("xn--bcher-kva.example", name("xn--bcher-kva.example"), None),
    "a port": ("example.com:22", name("example.com"), (PortRange(22, 22),)),
    "every port": ("example.com:*", name("example.com"), EVERY_PORT),
    "a range of ports": ("example.com:8000-8999", name("example.com"), (PortRange(8000, 8999),)),
    "a range of one port": ("example.com:80-80", name("example.com"), (PortRange(80, 80),)),
    "one label below": ("*.example.com", name("*.example.com"), None),
    "any depth below": ("**.example.com", name("**.example.com"), None),
    "one character": ("api-?.example.com", name("api-?.example.com"), None),
    "a glob inside a label": ("crl*.example.com", name("crl*.example.com"), None),
    "a glob before a hyphen": ("a*-b.example.com", name("a*-b.example.com"), None),
    "a glob in a middle label": ("api.*.example.com:443", name("api.*.example.com"), (PortRange(443, 443),)),
    "any depth, then a glob": ("**.a*.example.com", name("**.a*.example.com"), None),
    "wildcards in capitals and with a trailing dot": ("*.EXAMPLE.com.", name("*.example.com"), None),
    "an address": ("93.184.216.34", network("93.184.216.34/32"), None),
    "an address and a port": ("10.1.2.3:22", network("10.1.2.3/32"), (PortRange(22, 22),)),
    "a network": ("10.0.0.0/8", network("10.0.0.0/8"), None),
    "a network and a port": ("10.0.0.0/8:22", network("10.0.0.0/8"), (PortRange(22, 22),)),
    "an IPv6 address": ("2606:4700::1", network("2606:4700::1/128"), None),
    "an IPv6 address in brackets": ("[2606:4700::1]", network("2606:4700::1/128"), None),
    "an IPv6 address in another spelling": ("[2606:4700:0:0:0::1]", network("2606:4700::1/128"), None),
    "an IPv6 address and a port": ("[2001:db8::1]:443", network("2001:db8::1/128"), (PortRange(443, 443),)),
    "an IPv6 network": ("2001:db8::/32", network("2001:db8::/32"), None),
    "an IPv6 network and a port": ("[2001:db8::/32]:443", network("2001:db8::/32"), (PortRange(443, 443),)),
    "a mapped address is the IPv4 address": ("::ffff:10.0.0.1", network("10.0.0.1/32"), None),
    "a mapped network is the IPv4 network": ("::ffff:10.0.0.0/104", network("10.0.0.0/8"), None),
    "the user's machine": ("localhost:11434", HostServicePattern(), (PortRange(11434, 11434),)),
    "the user's machine by address": ("127.0.0.1:11434", HostServicePattern(), (PortRange(11434, 11434),)),
    "the user's machine as a network of one": ("127.0.0.1/32", HostServicePattern(), None),
    "the user's machine in IPv6": ("[::1]:11434", HostServicePattern(), (PortRange(11434, 11434),)),
    "the user's machine by alias": ("host.docker.internal", HostServicePattern(), None),
    "the user's machine by its other alias": ("HOST.sbx.internal.", HostServicePattern(), None),
    "everything on one port": ("**:443", EverythingPattern(), (PortRange(443, 443),)),
}


@pytest.mark.parametrize(("text", "pattern", "ports"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_resource_is_read(text: str, pattern: Pattern, ports: tuple[PortRange, ...] | None) -> None:
    """A resource has the canonical form of a destination; without ports an allow is 80 and 443, a deny every port."""
    assert parse_resource(text, Effect.ALLOW) == (pattern, ports or WEB_PORTS)
    assert parse_resource(text, Effect.DENY) == (pattern, ports or EVERY_PORT)


def test_everything_alone_means_every_port() -> None:
    """Bare `**` covers every port, for allow and for deny."""
    for effect in Effect:
        assert parse_resource("**", effect) == (EverythingPattern(), EVERY_PORT)


REFUSED = {
    "nothing": "",
    "a port alone": ":443",
    "a single label": "example",
    "a number, as a second port would be": "443",
    "a leading dot": ".example.com",
    "an empty label": "a..example.com",
    "two trailing dots": "example.com..",
    "a hyphen at the start of a label": "-a.example.com",
    "a hyphen at the end of a label": "a-.example.com",
    "a glob that only a refused label matches": "-*.example.com",
    "a label of 64 characters": "a" * 64 + ".example.com",
    "a name of 254 characters": ("a" * 49 + ".") * 5 + "comx",
    "300 kB": "a" * 300_000,
    "a legacy address of two numbers": "127.1",
    "a legacy address in hexadecimal": "0x7f.1",
    "a legacy address as one number": "2130706433",
    "an octet with a leading zero": "10.0.0.01",
    "a scheme": "https://example.com",
    "a path": "example.com/path",
    "a path after a port": "example.com:443/path",
    "a user": "user@example.com",
    "a space": "example.com :443",
    "a newline": "example.com\n",
    "a NUL": "example.com\x00",
    "a fragment": "example.com#x",
    "a semicolon": "example.com;example.org",
    "a quote": "'example.com'",
    "a backslash": "example.com\\x",
    "a percent sign": "example%2ecom",
    "a comma": "example.com,example.org",
    "a character of a store's format": "{example.com}",
    "an international name": "b\u00fccher.example",
    "fullwidth letters": "\uff45xample.com",
    "an ideographic dot": "example\u3002com",
    "Unicode digits for a port": "example.com:\uff14\uff14\uff13",
    "a Kelvin sign, which folds to k": "\u212aexample.com",
    "no port": "example.com:",
    "port 0": "example.com:0",
    "port 65536": "example.com:65536",
    "a port with a leading zero": "example.com:0443",
    "a port with a sign": "example.com:+443",
    "a port with an underscore": "example.com:4_4_3",
    "a port by name": "example.com:https",
    "a range that ends before it starts": "example.com:90-80",
    "a range without an end": "example.com:80-",
    "two ports": "example.com:80:443",
    "a name in brackets": "[example.com]:443",
    "an IPv4 address in brackets": "[10.0.0.1]:22",
    "an IPv6 address without its second bracket": "[::1",
    "an IPv6 address without its first bracket": "::1]",
    "two pairs of brackets": "[[2001:db8::1]]",
    "text after the brackets": "[2001:db8::1]443",
    "a prefix length after the brackets": "[2001:db8::]/32",
    "an IPv6 network with ports but without brackets": "2001:db8::/32:443",
    "a zone": "[fe80::1%25eth0]",
    "a prefix length of 33": "10.0.0.0/33",
    "a prefix length with a leading zero": "10.0.0.0/08",
    "no prefix length": "10.0.0.0/",
    "a netmask": "10.0.0.0/255.0.0.0",
    "bits after the prefix": "10.0.0.1/8",
    "bits after the prefix in IPv6": "2001:db8::1/32",
    "one star": "*",
    "stars alone": "*.*",
    "a wildcard in the last label": "example.*",
    "a wildcard for numbers": "10.0.*",
    "a wildcard before a number": "*.0.0.1",
    "two stars inside a label": "a**.example.com",
    "three stars": "***.example.com",
    "two stars in a later label": "a.**.example.com",
    "two stars twice": "**.**.example.com",
}


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_resource_is_refused(text: str, effect: Effect) -> None:
    """A resource that is not exactly of the grammar is refused, for allow and for deny, without repeating it."""
    with pytest.raises(RuleSyntaxError) as refusal:
        parse_resource(text, effect)

    assert str(refusal.value).isprintable()
    assert str(refusal.value).isascii()


UNENFORCEABLE = {
    "a whole top-level domain": ("*.com", "example"),
    "a whole top-level domain, any depth": ("**.com", "example"),
    "a whole top-level domain, in two labels": ("**.*.com", "example"),
    "a whole top-level domain, by question marks": ("??*.com", "example"),
    "loopback": ("127.0.0.0/8", "localhost:PORT"),
    "another loopback address": ("127.0.0.2:80", "localhost:PORT"),
    "unspecified": ("0.0.0.0", "localhost:PORT"),
    "unspecified in IPv6": ("[::]:80", "localhost:PORT"),
    "multicast": ("224.0.0.0/4", None),
    "multicast in IPv6": ("ff02::1", None),
    "broadcast": ("255.255.255.255", None),
    "a metadata address": ("169.254.169.254:80", None),
    "a metadata address in public space": ("168.63.129.16", None),
    "a metadata address, mapped": ("::ffff:169.254.169.254", None),
    "a metadata address through NAT64": ("64:ff9b::a9fe:a9fe", None),
    "a metadata address in IPv6": ("[fd00:ec2::254]:80", None),
    "loopback through NAT64": ("64:ff9b::7f00:1", "localhost:PORT"),
    "every IPv4 address": ("0.0.0.0/0", "`**`"),
    "every IPv6 address": ("::/0", "`**`"),
    "every mapped address": ("::ffff:0:0/96", "`**`"),
    "a private network and more": ("10.0.0.0/7", "10.0.0.0/8"),
    "global unicast, with its tunnels": ("2000::/3", "2001::/23"),
}


@pytest.mark.parametrize(("text", "hint"), UNENFORCEABLE.values(), ids=UNENFORCEABLE.keys())
def test_an_allow_rule_that_would_not_hold_is_refused(text: str, hint: str | None) -> None:
    """What nothing would open, or only in part, is refused as an allow rule and accepted as a deny rule."""
    with pytest.raises(RuleSyntaxError) as refusal:
        parse_resource(text, Effect.ALLOW)

    assert hint is None or hint in (refusal.value.hint or "")
    parse_resource(text, Effect.DENY)


HINTS = {
    "an international name is told its form": ("b\u00fccher.example", "xn--"),
    "host bits are told their network": ("10.0.0.1/8", "10.0.0.0/8"),
    "IPv6 host bits are told their network": ("2001:db8::1/32", "2001:db8::/32"),
    "a star is told of two": ("*", "**"),
    "a range is turned round": ("example.com:90-80", ":80-90"),
    "a port alone is told to name its host": ("443", "example.com:443"),
    "numbers with a wildcard are told of networks": ("10.0.*", "10.0.0.0/8"),
    "ports on an IPv6 network are told of brackets": ("2001:db8::/32:443", "[2001:db8::/32]:443"),
}


@pytest.mark.parametrize(("text", "hint"), HINTS.values(), ids=HINTS.keys())
def test_a_refusal_says_what_to_write(text: str, hint: str) -> None:
    """Where we know what was meant, the hint says so."""
    with pytest.raises(RuleSyntaxError) as refusal:
        parse_resource(text, Effect.ALLOW)

    assert hint in (refusal.value.hint or "")


def test_a_comma_list_is_split() -> None:
    """A comma list is split at its commas; blanks round them are dropped."""
    assert split_resources("example.com, *.example.org:443 ,10.0.0.0/8") == (
        "example.com",
        "*.example.org:443",
        "10.0.0.0/8",
    )


@pytest.mark.parametrize(
    "text", ["", " ", "a.test,", ",a.test", "a.test,,b.test", "a.test," * RESOURCES_MAX + "b.test"]
)
def test_a_broken_list_is_refused(text: str) -> None:
    """A list with an empty item, or with too many, is refused as a whole."""
    with pytest.raises(RuleSyntaxError):
        split_resources(text)


@given(st.text(alphabet="ab01.:*?[]/-xF%@,# \n\u0661\u3002", max_size=24), st.sampled_from(Effect))
def test_any_text_is_read_or_refused(text: str, effect: Effect) -> None:
    """No text raises anything but `RuleSyntaxError`, and what is read survives being written and read again."""
    try:
        pattern, ports = parse_resource(text, effect)
    except RuleSyntaxError:
        return

    written = f"[{pattern}]" if ":" in str(pattern) else str(pattern)
    for each in ports:
        assert parse_resource(f"{written}:{each.first}-{each.last}", effect) == (pattern, (each,))
