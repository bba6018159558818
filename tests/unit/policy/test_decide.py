"""The verdict, rule by rule of its module."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from sandhold.model.decision import Reason
from sandhold.model.destination import Destination, HostService, MalformedError, Source
from sandhold.model.rule import Effect, Generation, Origin, Posture
from sandhold.policy.decide import decide, decide_address, decide_any_port, decide_claims, unreadable_policy
from sandhold.policy.index import DECISIONS_MAX
from tests.unit.policy.samples import NOW, destination, index, rule

ALLOW, DENY = Effect.ALLOW, Effect.DENY


def test_an_unreadable_policy_denies_everything() -> None:
    """Where the policy cannot be read, every name, address, service and lookup is denied, and says so."""
    unreadable = unreadable_policy(Generation(3))

    for text in ("example.com:443", "93.184.216.34:443", "10.0.0.1:22", "localhost:11434"):
        decision = decide(unreadable, destination(text), NOW)
        assert not decision.is_allowed
        assert decision.reason is Reason.POLICY_UNREADABLE
        assert decision.generation == 3
        assert not decide_claims(unreadable, [destination(text)], NOW).is_allowed
        assert not decide_address(unreadable, destination(text), ip_address("93.184.216.34"), NOW).is_allowed


# (rules, destination) -> effect and what is named: the line of the rule, or the reason
CASES = {
    "no rule": ((), "example.com:443", DENY, "no-matching-rule"),
    "a rule": (("allow example.com",), "example.com:443", ALLOW, "allow example.com"),
    "another port": (("allow example.com",), "example.com:22", DENY, "no-matching-rule"),
    "DNS over TLS is not implied by a name": (("allow example.com",), "example.com:853", DENY, "no-matching-rule"),
    "a longer word": (("allow good.test",), "evilgood.test:443", DENY, "no-matching-rule"),
    "the name as a prefix": (("allow good.test",), "good.test.evil.com:443", DENY, "no-matching-rule"),
    "capitals": (("deny evil.test", "allow **"), "EVIL.test:443", DENY, "deny evil.test"),
    "a trailing dot": (("deny evil.test", "allow **"), "evil.test.:443", DENY, "deny evil.test"),
    "a deny rule covers every port": (("allow **", "deny evil.test"), "evil.test:8443", DENY, "deny evil.test"),
    "deny beats allow, written first": (("deny a.test", "allow a.test"), "a.test:443", DENY, "deny a.test"),
    "deny beats allow, written last": (("allow a.test", "deny a.test"), "a.test:443", DENY, "deny a.test"),
    "a wide deny beats an exact allow": (("allow a.b.test", "deny **.test"), "a.b.test:443", DENY, "deny **.test"),
    "a deny on another port": (("allow a.test", "deny a.test:22"), "a.test:443", ALLOW, "allow a.test"),
    "deny of everything": (("allow a.test", "deny **"), "a.test:443", DENY, "deny **"),
    "everything, a name": (("allow **",), "a.test:9999", ALLOW, "allow **"),
    "everything, an address": (("allow **",), "93.184.216.34:9999", ALLOW, "allow **"),
    "everything on one port": (("allow **:443",), "a.test:80", DENY, "no-matching-rule"),
    "everything is not the floor": (("allow **",), "10.0.0.1:443", DENY, "address-floor"),
    "everything is not the machine": (("allow **",), "localhost:443", DENY, "no-matching-rule"),
    "everything is not metadata": (("allow **",), "169.254.169.254:80", DENY, "metadata-address"),
    "an address where only names are allowed": (("allow good.test",), "93.184.216.34:443", DENY, "no-matching-rule"),
    "an address": (("allow 93.184.216.34",), "93.184.216.34:443", ALLOW, "allow 93.184.216.34"),
    "an address, mapped": (("allow 10.0.0.1:22",), "[::ffff:10.0.0.1]:22", ALLOW, "allow 10.0.0.1:22"),
    "a bracketed rule, a spelt-out target": (
        ("deny [fdcb::1]:22", "allow fdcb::/16"),
        "[fdcb:0:0::1]:22",
        DENY,
        "deny [fdcb::1]:22",
    ),
    "a private network": (("allow 10.0.0.0/8:22",), "10.1.2.3:22", ALLOW, "allow 10.0.0.0/8:22"),
    "of two rules, the one that opens the floor is named": (
        ("allow **", "allow 10.0.0.0/8:22"),
        "10.1.2.3:22",
        ALLOW,
        "allow 10.0.0.0/8:22",
    ),
    "a private network, another port": (("allow 10.0.0.0/8:22",), "10.1.2.3:443", DENY, "address-floor"),
    "a public network is not the floor beside it": (("allow 11.0.0.0/8",), "10.0.0.1:443", DENY, "address-floor"),
    "metadata in a network that is allowed": (
        ("allow 169.254.0.0/16",),
        "169.254.169.254:80",
        DENY,
        "metadata-address",
    ),
    "carrier metadata in a network that is allowed": (
        ("allow 100.64.0.0/10",),
        "100.100.100.200:80",
        DENY,
        "metadata-address",
    ),
    "metadata in public space": (("allow 168.63.0.0/16",), "168.63.129.16:80", DENY, "metadata-address"),
    "NAT64 metadata in a network that is allowed": (
        ("allow 64:ff9b::/96",),
        "[64:ff9b::a9fe:a9fe]:80",
        DENY,
        "metadata-address",
    ),
    "broadcast in a network that is allowed": (("allow 240.0.0.0/4",), "255.255.255.255:80", DENY, "address-floor"),
    "a denied address inside NAT64": (
        ("allow 64:ff9b::/96", "deny 93.184.216.34"),
        "[64:ff9b::5db8:d822]:443",
        DENY,
        "deny 93.184.216.34",
    ),
    "a denied network beats the address": (
        ("allow 10.0.0.1:22", "deny 10.0.0.0/8"),
        "10.0.0.1:22",
        DENY,
        "deny 10.0.0.0/8",
    ),
    "the machine": (("allow localhost:11434",), "host.docker.internal:11434", ALLOW, "allow localhost:11434"),
    "the machine, another port": (("allow localhost:11434",), "localhost:2375", DENY, "no-matching-rule"),
    "the machine by address": (("allow localhost:11434",), "127.0.0.1:11434", ALLOW, "allow localhost:11434"),
    "the machine, denied in IPv6": (
        ("allow localhost:11434", "deny [::1]:11434"),
        "127.0.0.1:11434",
        DENY,
        "deny [::1]:11434",
    ),
    "the machine, denied as a network": (
        ("allow localhost:11434", "deny 127.0.0.0/8"),
        "localhost:11434",
        DENY,
        "deny 127.0.0.0/8",
    ),
    "the machine, denied as an IPv6 network": (
        ("allow localhost:11434", "deny ::/0"),
        "localhost:11434",
        DENY,
        "deny ::/0",
    ),
    "the machine, denied by everything": (
        ("allow localhost:11434", "deny **"),
        "localhost:11434",
        DENY,
        "deny **",
    ),
    "the machine, denied by a wildcard over an alias": (
        ("allow localhost:11434", "deny *.docker.internal"),
        "localhost:11434",
        DENY,
        "deny *.docker.internal",
    ),
    "the machine is not opened by a wildcard over an alias": (
        ("allow *.docker.internal",),
        "host.docker.internal:443",
        DENY,
        "no-matching-rule",
    ),
    "another loopback address is not the machine": (
        ("allow localhost:11434",),
        "127.0.0.2:11434",
        DENY,
        "address-floor",
    ),
}


@pytest.mark.parametrize(("rules", "text", "effect", "because"), CASES.values(), ids=CASES.keys())
def test_a_destination_is_judged(rules: tuple[str, ...], text: str, effect: Effect, because: str) -> None:
    """One destination gets the effect and the rule or reason that the rules of the module give it."""
    decision = decide(index(*rules), destination(text), NOW)

    assert (decision.effect, decision.because, decision.generation) == (effect, because, 7)
    assert (decision.reason is Reason.RULE) == (decision.rule is not None)


POSTURES = {
    "balanced denies a name": (Posture.BALANCED, "a.test:443", DENY, Reason.NO_RULE),
    "deny-all denies a name": (Posture.DENY_ALL, "a.test:443", DENY, Reason.NO_RULE),
    "allow-all allows a name": (Posture.ALLOW_ALL, "a.test:443", ALLOW, Reason.POSTURE_ALLOWS),
    "allow-all allows a public address": (Posture.ALLOW_ALL, "93.184.216.34:22", ALLOW, Reason.POSTURE_ALLOWS),
    "allow-all allows a documentation address": (Posture.ALLOW_ALL, "203.0.113.1:22", ALLOW, Reason.POSTURE_ALLOWS),
    "allow-all does not open the floor": (Posture.ALLOW_ALL, "10.0.0.1:443", DENY, Reason.ADDRESS_FLOOR),
    "allow-all does not open metadata": (Posture.ALLOW_ALL, "168.63.129.16:80", DENY, Reason.METADATA_ADDRESS),
    "allow-all does not open the machine": (Posture.ALLOW_ALL, "localhost:443", DENY, Reason.NO_RULE),
    "allow-all does not open what is denied": (Posture.ALLOW_ALL, "evil.test:443", DENY, Reason.RULE),
}


@pytest.mark.parametrize(("posture", "text", "effect", "reason"), POSTURES.values(), ids=POSTURES.keys())
def test_what_no_rule_matches_falls_to_the_posture(posture: Posture, text: str, effect: Effect, reason: Reason) -> None:
    """Only `allow-all` allows without a rule, and never the floor or the user's machine."""
    decision = decide(index("deny evil.test", posture=posture), destination(text), NOW)

    assert (decision.effect, decision.reason) == (effect, reason)


SPELLINGS = {
    "capitals": "EVIL.TEST",
    "a trailing dot": "evil.test.",
    "a leading dot": ".evil.test",
    "brackets": "[evil.test]",
    "NUL": "evil.test\x00.good.test",
    "percent-encoding": "evil%2etest",
    "fullwidth": "\uff45vil.test",
    "an ideographic dot": "evil\u3002test",
    "a zero-width space": "evil.test\u200b",
    "a newline": "evil.test\n",
    "a tab inside": "ev\til.test",
    "a backslash": "evil.test\\@good.test",
    "a slash": "evil.test/.good.test",
    "a user": "good.test@evil.test",
    "a fragment": "evil.test#.good.test",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_no_spelling_gets_round_a_deny_rule(spelling: str) -> None:
    """Under `allow-all`, a spelling of a denied name is either that name or no name at all."""
    open_but_one = index("deny evil.test", posture=Posture.ALLOW_ALL)

    try:
        target = destination(f"{spelling}:443")
    except MalformedError:
        return
    assert decide(open_but_one, target, NOW).because == "deny evil.test"


def test_an_expired_rule_no_longer_matches() -> None:
    """A rule ends at the very moment it expires, for allow and for deny."""
    lent = index(rule("allow a.test", expires_at=NOW), rule("deny b.test", expires_at=NOW), "allow b.test")

    assert not decide(lent, destination("a.test:443"), NOW).is_allowed
    assert decide(lent, destination("a.test:443"), NOW - 0.1).is_allowed
    assert not decide(lent, destination("b.test:443"), NOW - 0.1).is_allowed
    assert decide(lent, destination("b.test:443"), NOW).is_allowed


def test_a_remembered_decision_ends_with_its_rule() -> None:
    """What was allowed before is denied from the moment its rule expires, whichever way it is asked and whoever else
    has expired before; a clock that is set back brings it back."""
    lent = index(rule("allow a.test", expires_at=NOW), rule("allow b.test", expires_at=NOW + 9))
    a, b = destination("a.test:443"), destination("b.test:443")
    address = ip_address("93.184.216.34")

    def is_allowed(what: Destination, now: float) -> set[bool]:
        asked = (
            decide(lent, what, now),
            decide_claims(lent, [what], now),
            decide_address(lent, what, address, now),
        )
        return {decision.is_allowed for decision in asked}

    for now, expected in ((NOW - 1, ({True}, {True})), (NOW, ({False}, {True})), (NOW + 9, ({False}, {False}))):
        for _ in range(2):
            assert (is_allowed(a, now), is_allowed(b, now)) == expected
    assert is_allowed(a, NOW - 1) == {True}


def test_more_decisions_than_are_remembered() -> None:
    """However many names are asked for, each gets its own decision."""
    some = index("allow **.good.test")

    for number in range(2 * DECISIONS_MAX):
        good, bad = destination(f"a{number}.good.test:443"), destination(f"a{number}.bad.test:443")
        assert not decide(some, bad, NOW).is_allowed
        assert decide(some, good, NOW).is_allowed
        assert not decide_claims(some, [good, bad], NOW).is_allowed


def test_the_rule_that_is_named_is_the_users_own_where_there_is_one() -> None:
    """Of several rules that allow, the local one is named."""
    both = index(rule("allow *.a.test", origin=Origin.PRESET), "allow b.a.test")

    assert decide(both, destination("b.a.test:443"), NOW).because == "allow b.a.test"


RESOLVED = {
    "a public address": (("allow a.test",), "93.184.216.34", ALLOW, "allow a.test"),
    "a documentation address": (("allow a.test",), "203.0.113.9", ALLOW, "allow a.test"),
    "a private address": (("allow a.test",), "10.0.0.1", DENY, "address-floor"),
    "a private address, under everything": (("allow **",), "10.0.0.1", DENY, "address-floor"),
    "a private address that a rule opens": (("allow a.test", "allow 10.0.0.0/8"), "10.0.0.1", ALLOW, "allow a.test"),
    "a private address opened on another port": (
        ("allow a.test", "allow 10.0.0.0/8:22"),
        "10.0.0.1",
        DENY,
        "address-floor",
    ),
    "an address rule allows no name": (("allow 10.0.0.0/8",), "10.0.0.1", DENY, "no-matching-rule"),
    "loopback": (("allow a.test",), "127.0.0.1", DENY, "address-floor"),
    "loopback, though the machine is allowed": (
        ("allow a.test", "allow localhost:443"),
        "127.0.0.1",
        DENY,
        "address-floor",
    ),
    "loopback in IPv6": (("allow a.test", "allow localhost:443"), "::1", DENY, "address-floor"),
    "mapped loopback": (("allow a.test", "allow localhost:443"), "::ffff:127.0.0.1", DENY, "address-floor"),
    "NAT64 metadata": (("allow a.test",), "64:ff9b::a9fe:a9fe", DENY, "metadata-address"),
    "metadata, though its network is allowed": (
        ("allow a.test", "allow 169.254.0.0/16"),
        "169.254.169.254",
        DENY,
        "metadata-address",
    ),
    "unspecified": (("allow a.test",), "0.0.0.0", DENY, "address-floor"),
    "a denied address": (("allow a.test", "deny 93.184.216.34"), "93.184.216.34", DENY, "deny 93.184.216.34"),
    "a denied network": (("allow a.test", "deny 93.0.0.0/8"), "93.184.216.34", DENY, "deny 93.0.0.0/8"),
    "an address denied on another port": (
        ("allow a.test", "deny 93.0.0.0/8:22"),
        "93.184.216.34",
        ALLOW,
        "allow a.test",
    ),
}


@pytest.mark.parametrize(("rules", "text", "effect", "because"), RESOLVED.values(), ids=RESOLVED.keys())
def test_an_address_of_a_name_is_judged(rules: tuple[str, ...], text: str, effect: Effect, because: str) -> None:
    """The address of an allowed name is refused by the floor and by deny rules; else the name's rule stands."""
    decision = decide_address(index(*rules), destination("a.test:443"), ip_address(text), NOW)

    assert (decision.effect, decision.because) == (effect, because)


def test_an_address_of_a_name_is_judged_under_allow_all() -> None:
    """The posture `allow-all` opens no floor address by way of a name."""
    wide = index(posture=Posture.ALLOW_ALL)

    assert decide_address(wide, destination("a.test:443"), ip_address("10.0.0.1"), NOW).reason is Reason.ADDRESS_FLOOR
    assert decide_address(wide, destination("a.test:443"), ip_address("93.184.216.34"), NOW).is_allowed


def test_the_machine_is_dialled_on_loopback_only() -> None:
    """For the user's machine only 127.0.0.1 and ::1 pass; for an address destination only that address."""
    allowed = index("allow localhost:11434", "allow 10.0.0.1:22")
    service = Destination(HostService(), 11434, Source.DNS)

    assert not decide_address(allowed, service, ip_address("10.0.0.1"), NOW).is_allowed
    assert not decide_address(allowed, destination("10.0.0.1:22"), ip_address("10.0.0.2"), NOW).is_allowed
    assert decide_address(allowed, service, ip_address("127.0.0.1"), NOW).is_allowed
    assert decide_address(allowed, service, ip_address("::1"), NOW).is_allowed
    assert decide_address(allowed, destination("10.0.0.1:22"), ip_address("10.0.0.1"), NOW).is_allowed


CLAIM_RULES = ("allow a.test", "allow b.test", "allow a.test:8080", "allow 93.184.216.34", "allow 93.184.216.35")
CLAIMS = {
    "one": ((("a.test:443", Source.SNI),), ALLOW, "allow a.test"),
    "the same name thrice": (
        (("a.test:443", Source.DNS), ("A.test.:443", Source.SNI), ("a.test:443", Source.HTTP_HOST)),
        ALLOW,
        "allow a.test",
    ),
    "two names, both allowed": ((("a.test:443", Source.DNS), ("b.test:443", Source.SNI)), DENY, "name-mismatch"),
    "fronting: the name inside differs": (
        (("a.test:443", Source.SNI), ("b.test:443", Source.HTTP_HOST)),
        DENY,
        "name-mismatch",
    ),
    "the name inside is denied": (
        (("a.test:443", Source.SNI), ("evil.test:443", Source.HTTP_HOST)),
        DENY,
        "no-matching-rule",
    ),
    "an address and a name, both allowed": (
        (("93.184.216.34:443", Source.ADDRESS), ("a.test:443", Source.SNI)),
        ALLOW,
        "allow 93.184.216.34",
    ),
    "an address that is not allowed, and a name that is": (
        (("203.0.113.1:443", Source.ADDRESS), ("a.test:443", Source.SNI)),
        DENY,
        "no-matching-rule",
    ),
    "an address that is allowed, and a name that is not": (
        (("93.184.216.34:443", Source.ADDRESS), ("evil.test:443", Source.SNI)),
        DENY,
        "no-matching-rule",
    ),
    "an address, and the same address inside": (
        (("93.184.216.34:80", Source.ADDRESS), ("93.184.216.34:80", Source.HTTP_HOST)),
        ALLOW,
        "allow 93.184.216.34",
    ),
    "an address, and another address inside": (
        (("93.184.216.34:80", Source.ADDRESS), ("93.184.216.35:80", Source.HTTP_HOST)),
        DENY,
        "name-mismatch",
    ),
    "an address that CONNECT names, and a name inside": (
        (("93.184.216.34:443", Source.CONNECT), ("a.test:443", Source.SNI)),
        DENY,
        "name-mismatch",
    ),
    "another port in the Host header, allowed": (
        (("a.test:443", Source.DNS), ("a.test:8080", Source.HTTP_HOST)),
        ALLOW,
        "allow a.test",
    ),
    "another port in the Host header, not allowed": (
        (("a.test:443", Source.DNS), ("a.test:22", Source.HTTP_HOST)),
        DENY,
        "no-matching-rule",
    ),
    "another port anywhere else": ((("a.test:443", Source.DNS), ("a.test:80", Source.CONNECT)), DENY, "name-mismatch"),
    "the first denial is the one that is named": (
        (("a.test:443", Source.DNS), ("10.0.0.1:443", Source.SNI), ("evil.test:443", Source.HTTP_HOST)),
        DENY,
        "address-floor",
    ),
    "nothing": ((), DENY, "internal-error"),
}


@pytest.mark.parametrize(("claims", "effect", "because"), CLAIMS.values(), ids=CLAIMS.keys())
def test_everything_claimed_is_judged(claims: tuple[tuple[str, Source], ...], effect: Effect, because: str) -> None:
    """Each claim must be allowed, and together they must agree on one host and one port."""
    made = [destination(text, source) for text, source in claims]

    decision = decide_claims(index(*CLAIM_RULES), made, NOW)

    assert (decision.effect, decision.because) == (effect, because)


# (rules, host) -> effect and what is named
ANY_PORT_CASES = {
    "a rule on another port than the web's": (("allow a.test:22",), "a.test", ALLOW, "allow a.test:22"),
    "the web's ports are named first": (("allow a.test:22", "allow a.test:80"), "a.test", ALLOW, "allow a.test:80"),
    "a service of the user's machine": (("allow localhost:11434",), "localhost", ALLOW, "allow localhost:11434"),
    "a deny on the one port": (("allow a.test:22", "deny a.test:22"), "a.test", DENY, "no-matching-rule"),
    "a deny on the lower part": (("allow a.test:1-99", "deny a.test:1-98"), "a.test", ALLOW, "allow a.test:1-99"),
    "a deny on every port": (("allow a.test:*", "deny a.test"), "a.test", DENY, "deny a.test"),
    "a deny up to the last port": (("allow a.test:9-99", "deny a.test:9-65535"), "a.test", DENY, "deny a.test:9-65535"),
}


@pytest.mark.parametrize(("rules", "host", "effect", "named"), ANY_PORT_CASES.values(), ids=ANY_PORT_CASES)
def test_a_question_without_a_port_is_judged_by_every_port(
    rules: tuple[str, ...], host: str, effect: Effect, named: str
) -> None:
    """A host is allowed where a rule opens one of its ports that no rule closes."""
    decision = decide_any_port(index(*rules), destination(f"{host}:1").host, NOW)
    assert decision.effect is effect
    assert (decision.rule.id if decision.rule else decision.reason.value) == named
