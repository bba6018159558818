"""The canonical form of a destination: what is the same host, and what is no host at all."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandhold.model.destination import (
    HOST_SERVICE_NAMES,
    Destination,
    DomainName,
    Host,
    HostService,
    MalformedError,
    Source,
    canonical_address,
    parse_authority,
    parse_host,
    parse_port,
)

GOOD = DomainName("good.test")

SAME = {
    "a name": ("good.test", GOOD),
    "capitals": ("GoOd.TEST", GOOD),
    "one trailing dot": ("good.test.", GOOD),
    "an underscore at the start": ("_dmarc.good.test", DomainName("_dmarc.good.test")),
    "an A-label, never decoded": ("xn--BCHER-kva.good.test", DomainName("xn--bcher-kva.good.test")),
    "a fake A-label is opaque": ("xn--good-a.x.test", DomainName("xn--good-a.x.test")),
    "a label of 63 characters": ("a" * 63 + ".test", DomainName("a" * 63 + ".test")),
    "digits in every label but the last": ("1.2.3.test", DomainName("1.2.3.test")),
    "a reserved name is only a name": ("metadata.google.internal", DomainName("metadata.google.internal")),
    "a subdomain of localhost is only a name": ("localhost.localdomain", DomainName("localhost.localdomain")),
    "an IPv4 address": ("93.184.216.34", IPv4Address("93.184.216.34")),
    "another loopback address is not the machine": ("127.1.2.3", IPv4Address("127.1.2.3")),
    "an IPv6 address": ("2606:4700::1", IPv6Address("2606:4700::1")),
    "an IPv6 address in brackets": ("[2606:4700::1]", IPv6Address("2606:4700::1")),
    "an IPv6 address in full": ("2606:4700:0000:0:0:0:0:0001", IPv6Address("2606:4700::1")),
    "an IPv6 address in capitals": ("[FD00::A]", IPv6Address("fd00::a")),
    "a mapped address": ("::ffff:10.0.0.1", IPv4Address("10.0.0.1")),
    "a mapped address in hexadecimal": ("[::ffff:a00:1]", IPv4Address("10.0.0.1")),
    "a compatible address stays what it is": ("::10.0.0.1", IPv6Address("::a00:1")),
    "localhost": ("localhost", HostService()),
    "localhost in capitals with a dot": ("LocalHost.", HostService()),
    "loopback": ("127.0.0.1", HostService()),
    "loopback in IPv6": ("[::1]", HostService()),
    "loopback in IPv6, in full": ("0:0:0:0:0:0:0:1", HostService()),
    "mapped loopback": ("::ffff:127.0.0.1", HostService()),
    "the container alias": ("host.docker.internal", HostService()),
    "the gateway alias": ("gateway.docker.internal", HostService()),
    "our own alias": ("Host.SBX.internal", HostService()),
}


@pytest.mark.parametrize(("text", "host"), SAME.values(), ids=SAME.keys())
def test_every_spelling_of_a_host_is_one_host(text: str, host: Host) -> None:
    """Text and bytes that mean one host give one value."""
    assert parse_host(text) == host
    assert parse_host(text.encode()) == host


NO_HOST = {
    # traps of the standard library: each of these connects or compares as another host somewhere
    "trap 1: NUL after an address": "127.0.0.1\x00.good.test",
    "trap 1: NUL after a name": "evil.test\x00.good.test",
    "trap 2: two numbers": "127.1",
    "trap 2: hexadecimal": "0x7f.1",
    "trap 2: one hexadecimal number": "0x7f000001",
    "trap 2: octal": "0177.0.0.1",
    "trap 2: one number": "2130706433",
    "trap 2: zero": "0",
    "trap 2: a leading zero": "1.2.3.04",
    "trap 2: a number with a trailing dot": "127.1.",
    "trap 2: an address with a trailing dot": "127.0.0.1.",
    "trap 2: an octet over 255": "1.2.3.256",
    "trap 2: five octets": "1.2.3.4.5",
    "trap 2: a name that ends in a number": "good.test.1",
    "trap 2: a name that ends in hexadecimal": "good.0x1f",
    "trap 2: a name that ends in empty hexadecimal": "good.0x",
    "trap 3: circled digits": "\u2460\u2461\u2466.0.0.1",
    "trap 3: fullwidth digits": "\uff11\uff12\uff17.0.0.1",
    "trap 3: Arabic digits": "\u0661\u0662\u0667.0.0.1",
    "trap 4: a zero-width space after an address": "127.0.0.1\u200b",
    "trap 4: a zero-width space after a name": "localhost\u200b",
    "trap 4: a soft hyphen": "local\u00adhost",
    "trap 5: an ideographic full stop": "good\u3002test",
    "trap 5: a fullwidth full stop": "good\uff0etest",
    "trap 5: a halfwidth full stop": "good\uff61test",
    "trap 5: a one-dot leader": "good.test\u2024x",
    "trap 6: a Kelvin sign, which lower-cases to k": "\u212aeycloak.test",
    "trap 6: a ligature": "\ufb01le.test",
    "trap 6: a sharp s": "fa\u00df.test",
    "trap 6: a dotted capital I": "\u0130.test",
    "trap 6: a long s": "\u017fafe.test",
    "trap 8: a newline at the end": "good.test\n",
    "trap 8: a newline after an address": "10.0.0.1\n",
    "trap 8: a newline after an IPv6 address": "2606:4700::1\n",
    "trap 9: a slash before a suffix": "evil.test/.good.test",
    "trap 10: a line separator": "good.test\u2028",
    "trap 10: a next-line character": "good.test\x85",
    "trap 10: a file separator": "good.test\x1c",
    "trap 11: a tab inside": "good.test\t.evil.test",
    "trap 11: a backslash": "evil.test\\@good.test",
    "trap 14: a zone": "fe80::1%eth0",
    "trap 14: a zone in brackets": "[fe80::1%25eth0]",
    "trap 14: a zone with NUL": "fe80::1%eth0\x00",
    "trap 14: a zone on loopback": "[::1%lo]",
    # names that are none
    "nothing": "",
    "the root": ".",
    "a single label": "intranet",
    "a leading dot": ".good.test",
    "an empty label": "good..test",
    "two trailing dots": "good.test..",
    "localhost with two dots": "localhost..",
    "a hyphen at the start": "-good.test",
    "a hyphen at the end": "good-.test",
    "an empty A-label": "xn--.test",
    "a label of 64 characters": "a" * 64 + ".test",
    "a name of 254 characters": ("a" * 49 + ".") * 5 + "test",
    "300 kB": "a." * 150_000 + "test",
    "a user": "good.test@evil.test",
    "a fragment": "evil.test#@good.test",
    "a query": "evil.test?.good.test",
    "percent-encoding": "good%2etest",
    "percent-encoded NUL": "evil.test%00.good.test",
    "a space at the start": " good.test",
    "a space at the end": "good.test ",
    "a space inside": "good .test",
    "a no-break space": "good.test\u00a0",
    "an ideographic space": "good.test\u3000",
    "a carriage return": "good.test\r",
    "a delete character": "good.test\x7f",
    "a wildcard": "*.good.test",
    "a comma": "good.test,evil.test",
    # brackets and addresses
    "a name in brackets": "[evil.test]",
    "an IPv4 address in brackets": "[10.0.0.1]",
    "two pairs of brackets": "[[::2]]",
    "brackets round brackets and a name": "[[evil.test]]",
    "no closing bracket": "[::2",
    "no opening bracket": "::2]",
    "empty brackets": "[]",
    "a future address form": "[v1.fe80::a]",
    "a host and a port": "good.test:443",
    "an IPv6 address of nine groups": "1:2:3:4:5:6:7:8:9",
    "an IPv6 address with two gaps": "1::2::3",
    "an IPv6 address with a group of five digits": "::12345",
    "an IPv6 address that ends in legacy IPv4": "::ffff:127.1",
    "an IPv6 address that ends in octal": "::ffff:0177.0.0.1",
    "a network": "10.0.0.0/8",
}


@pytest.mark.parametrize("text", NO_HOST.values(), ids=NO_HOST.keys())
def test_what_some_program_reads_otherwise_is_no_host(text: str) -> None:
    """Text that a resolver, a parser or a person would take for another host is refused, as text and as bytes."""
    with pytest.raises(MalformedError) as refusal:
        parse_host(text)
    with pytest.raises(MalformedError):
        parse_host(text.encode())

    assert not text or text not in str(refusal.value)


PORTS = {"the lowest": ("1", 1), "the usual": ("443", 443), "the highest": ("65535", 65535)}
NO_PORT = {
    "nothing": "",
    "zero": "0",
    "a leading zero": "0443",
    "one too high": "65536",
    "six digits": "100000",
    "a sign": "+443",
    "a minus": "-1",
    "trap 7: an underscore": "4_4_3",
    "trap 7: a space": " 443",
    "trap 7: a newline": "443\n",
    "trap 7: fullwidth digits": "\uff14\uff14\uff13",
    "trap 7: Arabic digits": "\u0664\u0664\u0663",
    "trap 7: a superscript": "44\u00b3",
    "a name": "https",
    "hexadecimal": "0x1bb",
    "a fraction": "443.0",
    "an exponent": "4e2",
}


@pytest.mark.parametrize(("text", "port"), PORTS.values(), ids=PORTS.keys())
def test_a_port_is_plain_digits(text: str, port: int) -> None:
    """One to five ASCII digits without a leading zero are a port."""
    assert parse_port(text) == parse_port(text.encode()) == port


@pytest.mark.parametrize("text", NO_PORT.values(), ids=NO_PORT.keys())
def test_no_other_number_is_a_port(text: str) -> None:
    """What `int` and `\\d` take for a number is refused."""
    with pytest.raises(MalformedError):
        parse_port(text)
    with pytest.raises(MalformedError):
        parse_authority(f"good.test:{text}")


AUTHORITIES = {
    "a name and a port": ("GOOD.test.:443", GOOD, 443),
    "an address and a port": ("93.184.216.34:22", IPv4Address("93.184.216.34"), 22),
    "an IPv6 address and a port": ("[2606:4700::1]:443", IPv6Address("2606:4700::1"), 443),
    "the machine and a port": ("[::1]:11434", HostService(), 11434),
}
NO_AUTHORITY = {
    "nothing": "",
    "no port": "good.test",
    "an empty port": "good.test:",
    "no host": ":443",
    "a bare IPv6 address": "2606:4700::1:443",
    "an IPv6 address without a port": "[2606:4700::1]",
    "a name in brackets": "[evil.test]:443",
    "mismatched brackets": "[::1:443",
    "text between bracket and port": "[::2]x:443",
    "two ports": "good.test:443:80",
    "a user": "good.test@evil.test:443",
    "a scheme": "http://good.test:443",
    "a path": "good.test:443/",
    "an address before a name in the port's place": "good.test:443@evil.test:80",
    "300 kB of colons": ":" * 300_000,
}


@pytest.mark.parametrize(("text", "host", "port"), AUTHORITIES.values(), ids=AUTHORITIES.keys())
def test_an_authority_is_a_host_and_a_port(text: str, host: Host, port: int) -> None:
    """`host:port` is read into its two parts, whatever the default."""
    assert parse_authority(text) == (host, port)
    assert parse_authority(text.encode(), default_port=1) == (host, port)


@pytest.mark.parametrize("text", NO_AUTHORITY.values(), ids=NO_AUTHORITY.keys())
def test_what_is_no_authority_is_refused(text: str) -> None:
    """Without a default port, nothing but `host:port` is an authority."""
    with pytest.raises(MalformedError):
        parse_authority(text)


def test_a_default_port_stands_in_for_a_missing_one_only() -> None:
    """A bare host takes the default port; an empty or a wrong port, or a bare IPv6 address, does not."""
    for text in ("good.test:", "good.test:0", "2606:4700::1", "::1", "[::1]443", "[::1]:"):
        with pytest.raises(MalformedError):
            parse_authority(text, default_port=80)

    assert parse_authority("good.test", default_port=80) == (GOOD, 80)
    assert parse_authority("[2606:4700::1]", default_port=80) == (IPv6Address("2606:4700::1"), 80)


def test_a_domain_name_is_neither_an_address_nor_the_machine() -> None:
    """`DomainName.parse` refuses what `parse_host` reads as something else."""
    for text in (*HOST_SERVICE_NAMES, "93.184.216.34", "[::2]", "127.0.0.1"):
        with pytest.raises(MalformedError):
            DomainName.parse(text)

    assert DomainName.parse("Files.Good.Test.").labels == ("files", "good", "test")


def test_an_address_from_the_kernel_takes_the_same_form() -> None:
    """An address that was never text is canonical by the same rules."""
    assert canonical_address(IPv6Address("::ffff:127.0.0.1")) == HostService()
    assert canonical_address(IPv6Address("::ffff:10.0.0.1")) == IPv4Address("10.0.0.1")
    assert canonical_address(IPv4Address("127.0.0.2")) == IPv4Address("127.0.0.2")


def test_a_destination_is_written_as_it_is_read() -> None:
    """What is shown of a destination reads back as that destination."""
    for text in ("good.test:443", "93.184.216.34:22", "[2606:4700::1]:443", "host.docker.internal:11434"):
        host, port = parse_authority(text)
        assert str(Destination(host, port, Source.CONNECT)) == text


hostile = st.text(alphabet="aA0.-_:[]%x1f\x00\n \u3002\uff11", max_size=20)


@given(st.one_of(hostile, st.text(), st.binary(), hostile.map(str.encode)))
def test_any_input_is_a_host_or_malformed(text: str | bytes) -> None:
    """No input raises anything but `MalformedError`, and a host is canonical: reading it again changes nothing."""
    try:
        host = parse_host(text)
    except MalformedError:
        return

    assert parse_host(str(host)) == host


@given(hostile, st.integers(1, 65535))
def test_an_authority_is_its_host_and_its_port(text: str, port: int) -> None:
    """What `parse_authority` takes for the host, `parse_host` takes for the same host."""
    try:
        host, read = parse_authority(f"{text}:{port}")
    except MalformedError:
        return

    assert read == port
    assert parse_host(text) == host
