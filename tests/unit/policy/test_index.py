"""What a lookup finds, and that it costs the same however many rules there are."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandhold.model.destination import DomainName
from sandhold.model.rule import (
    WEB_PORTS,
    AddressPattern,
    Effect,
    Generation,
    NamePattern,
    Origin,
    Policy,
    Posture,
    Rule,
    RuleId,
)
from sandhold.policy.decide import decide
from sandhold.policy.index import PolicyIndex
from tests.unit.policy import reference
from tests.unit.policy.samples import NOW, destination, index, rule

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from sandhold.model.destination import Destination

    TraceFunction = Callable[[FrameType, str, object], "TraceFunction | None"]

MATCHES = {
    "a name matches itself": ("example.com", "example.com", True),
    "a name does not match below itself": ("example.com", "a.example.com", False),
    "a name does not match a longer word": ("good.test", "evilgood.test", False),
    "a name does not match where it is a prefix": ("good.test", "good.test.evil.com", False),
    "one label below": ("*.example.com", "a.example.com", True),
    "one label below is not the apex": ("*.example.com", "example.com", False),
    "one label below is not two": ("*.example.com", "a.b.example.com", False),
    "one label below ends at a label": ("*.good.test", "evilgood.test", False),
    "any depth below, one": ("**.example.com", "a.example.com", True),
    "any depth below, three": ("**.example.com", "a.b.c.example.com", True),
    "any depth below is not the apex": ("**.example.com", "example.com", False),
    "any depth below ends at a label": ("**.good.test", "a.evilgood.test", False),
    "a question mark is one character": ("api-?.example.com", "api-1.example.com", True),
    "a question mark is not none": ("api-?.example.com", "api-.example.com", False),
    "a question mark is not two": ("api-?.example.com", "api-12.example.com", False),
    "a star in a label is any run": ("crl*.example.com", "crl4.example.com", True),
    "a star in a label is also none": ("crl*.example.com", "crl.example.com", True),
    "a star crosses no dot": ("crl*.example.com", "crl.a.example.com", False),
    "a star backtracks": ("*ab*b.example.com", "xabxxabyb.example.com", True),
    "a star in the middle": ("api.*.example.com", "api.eu.example.com", True),
    "a star in the middle is one label": ("api.*.example.com", "api.a.b.example.com", False),
    "any depth, then a glob": ("**.a*.example.com", "x.y.ab.example.com", True),
    "any depth is at least one label": ("**.a*.example.com", "ab.example.com", False),
    "two labels": ("*.*.example.com", "a.b.example.com", True),
}


@pytest.mark.parametrize(("pattern", "name", "matches"), MATCHES.values(), ids=MATCHES.keys())
def test_a_pattern_matches_label_by_label(pattern: str, name: str, matches: object) -> None:
    """Wildcards mean what the grammar says, and never cross a label."""
    found = index(f"deny {pattern}").rules_on_name(Effect.DENY, name)

    assert bool(found) is matches


def test_rules_are_found_in_the_order_of_preference() -> None:
    """A local rule comes before an agent's, that before a default group's, then the first written."""
    preset = rule("allow *.example.com", origin=Origin.PRESET)
    agent = rule("allow **.example.com", origin=Origin.AGENT)
    second, third = rule("allow a.example.com"), rule("allow ?.example.com")

    found = index(preset, agent, second, third).rules_on_name(Effect.ALLOW, "a.example.com")

    assert found == [second, third, agent, preset]


def test_rules_of_another_sandbox_do_not_count() -> None:
    """A rule for one sandbox is in no other sandbox's index, nor in that for none by name."""
    scoped = rule("allow example.com", sandbox="mine")

    assert index(scoped, sandbox="other").rules_on_name(Effect.ALLOW, "example.com") == []
    assert index(scoped, sandbox=None).rules_on_name(Effect.ALLOW, "example.com") == []
    assert index(scoped, sandbox="mine").rules_on_name(Effect.ALLOW, "example.com") == [scoped]


def test_under_deny_all_only_local_rules_allow() -> None:
    """The posture `deny-all` makes the allow rules of groups and agents inert, and no deny rule."""
    rules = [rule("allow example.com", origin=origin) for origin in Origin]
    denying = [rule("deny example.com", origin=origin) for origin in Origin]

    strict = index(*rules, *denying, posture=Posture.DENY_ALL)

    assert [each.origin for each in strict.rules_on_name(Effect.ALLOW, "example.com")] == [Origin.LOCAL]
    assert len(strict.rules_on_name(Effect.DENY, "example.com")) == 3


def test_networks_of_every_length_are_found() -> None:
    """A network is found by any address in it, whatever its length, and by none outside."""
    built = index(*(f"deny 10.0.0.0/{length}" for length in range(8, 33)))

    assert built.rules_on_address(Effect.DENY, ip_address("11.0.0.0")) == []
    assert len(built.rules_on_address(Effect.DENY, ip_address("10.0.0.0"))) == 25
    assert len(built.rules_on_address(Effect.DENY, ip_address("10.0.0.255"))) == 17
    assert built.rules_on_address(Effect.DENY, ip_address("::a00:0")) != []


glob_text = st.text(alphabet="ab*?", max_size=8)


@given(glob_text, st.text(alphabet="ab", min_size=1, max_size=10))
def test_a_glob_matches_as_its_recursive_twin(glob: str, label: str) -> None:
    """Matching a label without backtracking over earlier stars loses no match."""
    pattern = NamePattern((f"a{glob}", "example", "com"))
    built = PolicyIndex(Policy(Generation(1), Posture.BALANCED, (written("a", pattern),)), None)

    found = built.rules_on_name(Effect.ALLOW, f"{label}.example.com")

    assert bool(found) is reference.label_matches(f"a{glob}", label)


def test_many_stars_cost_no_more_than_the_characters_allow() -> None:
    """The worst glob over the longest label takes a bounded number of steps, where a regular expression explodes."""
    worst = index("deny " + "*a" * 30 + ".example.com")
    target = destination("a" * 62 + "b.example.com:443")

    assert not decide(worst, target, NOW).is_allowed
    assert steps(worst, target) < 10_000


def written(text: str, pattern: NamePattern | AddressPattern) -> Rule:
    """Make an allow rule without its text being read."""
    return Rule(RuleId(text), text, Effect.ALLOW, pattern, WEB_PORTS, text)


def many(count: int) -> PolicyIndex:
    """Index `count` rules each of exact names, `*.`, `**.` and networks, and the four that the destinations meet."""
    rules = [rule(f"allow {each}") for each in ("good.test", "*.one.test", "**.any.test", "93.184.216.0/24")]
    for number in range(count):
        rules += [
            written(f"exact {number}", NamePattern((f"n{number}", "exact", "test"))),
            written(f"one {number}", NamePattern(("*", f"n{number}", "one", "test"))),
            written(f"any {number}", NamePattern(("**", f"n{number}", "any", "test"))),
        ]
    return PolicyIndex(Policy(Generation(1), Posture.BALANCED, tuple(rules)), None)


def steps(built: PolicyIndex, target: Destination) -> int:
    """Count the lines of our own code that one decision runs."""
    counted = 0

    def count(frame: FrameType, event: str, _argument: object) -> TraceFunction:
        nonlocal counted
        counted += event == "line" and frame.f_globals["__name__"].startswith("sandhold.")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        decide(built, target, NOW)
    finally:
        sys.settrace(before)
    return counted


TARGETS = {
    "an exact name": "good.test:443",
    "one label below": "a.one.test:443",
    "any depth below": "a.b.c.any.test:443",
    "an address in a network": "93.184.216.34:443",
    "a name that no rule matches": "a.b.nowhere.test:443",
    "an address that no rule matches": "203.0.113.1:443",
}


@pytest.mark.parametrize("text", TARGETS.values(), ids=TARGETS.keys())
def test_a_decision_costs_the_same_for_ten_rules_and_for_thousands(text: str) -> None:
    """One decision runs the same number of steps whatever the number of rules."""
    target = destination(text)

    few, lots = steps(many(3), target), steps(many(3000), target)

    assert 10 < few == lots


def test_only_what_is_written_for_a_name_is_examined() -> None:
    """Among thousands of rules, the candidates for a host are those that match its pattern."""
    lots = many(3000)

    assert len(lots.rules_on_name(Effect.ALLOW, "n7.exact.test")) == 1
    assert len(lots.rules_on_name(Effect.ALLOW, "a.n7.any.test")) == 2
    assert lots.rules_on_name(Effect.ALLOW, "nowhere.test") == []
    assert len(lots.rules_on_address(Effect.ALLOW, IPv4Address("93.184.216.1"))) == 1


def test_many_rules_on_one_name_are_indexed_in_linear_time() -> None:
    """Thousands of rules that share one name are kept in one list, in order."""
    rules = tuple(written(str(number), NamePattern(("example", "com"))) for number in range(5000))

    found = PolicyIndex(Policy(Generation(1), Posture.BALANCED, rules), None).rules_on_name(
        Effect.ALLOW, DomainName("example.com").value
    )

    assert tuple(found) == rules
