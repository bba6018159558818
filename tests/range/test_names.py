"""Families A and B: names spelled so that two readers might read two hosts, and ports likewise."""

# ruff: noqa: E501  # an attempt is a line of its table

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.range.attempt import Attempt, make
from tests.range.world import EVIL, GOOD

if TYPE_CHECKING:
    from tests.range.field import Field

TO_EVIL: Final = f"tcp {EVIL}:443"
D403: Final = ("403",)
MALFORMED: Final = ("400", "403", "reset", "closed")


def tunnel(
    authority: str, record: str = "malformed", answers: tuple[str, ...] = MALFORMED, goal: str = TO_EVIL
) -> Attempt:
    """An attempt to get a tunnel by a spelling of a host."""
    return Attempt(f"connect({authority!r}, 'evil.test')", goal, answers, record)


ATTEMPTS: Final = {
    "A01 capitals in a tunnel": tunnel("EVIL.Test:443", "evil.test", D403),
    "A01 capitals in a server name": Attempt("tls('EVIL.TEST', 443, 'eViL.tEsT')", TO_EVIL, D403, "evil.test"),
    "A01 capitals in plain HTTP": Attempt("http('EVIL.TEST', 80)", f"tcp {EVIL}:80", D403, "evil.test"),
    "A02 a dot at the end": tunnel("evil.test.:443", "evil.test", D403),
    "A04 a dot at the start": tunnel(".evil.test:443"),
    "A06 brackets round a name": tunnel("[evil.test]:443"),
    "A07 brackets twice": tunnel("[[evil.test]]:443"),
    "A08 an allowed name at the end": Attempt("tls('evilgood.test', 443, 'evilgood.test')", TO_EVIL, D403, "evilgood.test", is_wide=False),
    "A09 an allowed name at the start": Attempt("tls('good.test.evil.com', 443, 'good.test.evil.com')", TO_EVIL, D403, "good.test.evil.com", is_wide=False),
    "A10 two labels for a wildcard of one": Attempt("tls('b.a.files.test', 443, 'b.a.files.test')", TO_EVIL, D403, "b.a.files.test", is_wide=False),
    "A10 no label for a wildcard of one": Attempt("tls('files.test', 443, 'files.test')", TO_EVIL, D403, "files.test", is_wide=False),
    "A12 a zero byte in a tunnel": tunnel("evil.test\x00.good.test:443"),
    "A13 an escaped dot": tunnel("evil%2etest:443"),
    "A13 an escaped zero byte": tunnel("evil.test%00.good.test:443"),
    "A14 a tab inside": tunnel("\tevil.test:443"),
    "A15 a space of another kind": tunnel("evil.test\u00a0:443"),
    "A15 a wide space": tunnel("\u3000evil.test:443"),
    "A16 a user before the host": tunnel("good.test@evil.test:443"),
    "A16 a user in an address": Attempt("get('http://good.test@evil.test/')", f"tcp {EVIL}:80", MALFORMED, "malformed"),
    "A17 a backslash": Attempt("get('http://evil.test\\\\@good.test/')", f"tcp {EVIL}:80", MALFORMED, "malformed"),
    "A18 a fragment": Attempt("get('http://evil.test#@good.test/')", f"tcp {EVIL}:80", MALFORMED, "malformed"),
    "A18 a query": Attempt("get('http://evil.test?.good.test/')", f"tcp {EVIL}:80", MALFORMED, None),
    "A19 a slash inside": tunnel("evil.test/.good.test:443"),
    "A21 wide letters": tunnel("\uff45\uff56\uff49\uff4c.test:443"),
    "A21 a wide dot": tunnel("evil\u3002test:443"),
    "A23 a letter that folds": tunnel("ev\u0131l.test:443".replace("\u0131", "\u2170")),
    "A30 digits of another alphabet": tunnel("\u2460\u2468\u2467.51.100.66:443"),
    "A30 an address as one number": tunnel("3325256770:443", goal=TO_EVIL),
    "A30 an address in hexadecimal": tunnel("0xc6336442:443"),
    "A31 an address where only names are allowed": Attempt(f"connect('{EVIL}:443', 'evil.test')", TO_EVIL, D403, EVIL),
    "A35 a zone": tunnel("[::ffff:198.51.100.66%251]:443", goal="tcp"),
    "A38 a name of the cloud's": Attempt("http('metadata.google.internal', 80)", f"tcp {EVIL}:80", D403, "metadata.google.internal", is_wide=False),
    "B01 another port of an allowed host": Attempt("tcp('good.test', 22)", f"tcp {GOOD}:22", ("reset", "refused", "closed"), "good.test", is_wide=False),
    "B01 another port of a wildcard": Attempt("tls('a.files.test', 8443, 'a.files.test')", "tcp 198.51.100.20:8443", D403, "a.files.test", is_wide=False),
    "B04 a port with a sign": tunnel("evil.test:+443"),
    "B04 a port with a zero": tunnel("evil.test:0443"),
    "B04 a port with an underscore": tunnel("evil.test:4_43"),
    "B04 a port in wide digits": tunnel("evil.test:\uff14\uff14\uff13"),
    "B04 a port with a space": tunnel("evil.test: 443"),
    "B08 DNS over TLS to an allowed host": Attempt("tls('good.test', 853, 'good.test')", f"tcp {GOOD}:853", ("403", "reset"), "good.test", is_wide=False),
}  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_a_spelling_opens_nothing(field: Field, attempt: Attempt) -> None:
    """A denied host stays denied in every spelling, and what is no plain host at all is refused as malformed."""
    make(field, attempt)
