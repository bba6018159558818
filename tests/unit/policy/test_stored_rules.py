"""Rules that are kept as their rows mean exactly what the same rules mean as objects."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandhold.model.destination import Destination, DomainName, Source, parse_host
from sandhold.model.rule import (
    EVERY_PORT,
    WEB_PORTS,
    Effect,
    Generation,
    NamePattern,
    Origin,
    Policy,
    PortRange,
    Posture,
    Rule,
    RuleId,
)
from sandhold.policy.decide import decide
from sandhold.policy.index import PolicyIndex
from sandhold.policy.stored_rules import StoredRuleError, StoredRules, is_plain
from sandhold.policy.syntax import parse_resource
from tests.unit.policy.strategies import NOW, SANDBOXES, destinations

PLAIN = ("example.com", "a.b.example.com:8443", "x_1.test", "xn--4ca.test:1", "0x7f.test", "1.2.3.a")
NOT_PLAIN = {
    "upper case": "Example.com",
    "a trailing dot": "example.com.",
    "one label": "localhost",
    "a name of the user's machine": "host.docker.internal",
    "a name of the user's machine with a port": "gateway.docker.internal:80",
    "an address": "192.0.2.1",
    "a last label that is a number": "example.0x1f",
    "a wildcard": "*.example.com",
    "a range of ports": "example.com:1-2",
    "every port": "example.com:*",
    "port 0": "example.com:0",
    "a port with a leading zero": "example.com:080",
    "no port behind the colon": "example.com:",
    "a newline behind it": "example.com\n",
    "a byte of zero": "example.com\0",
    "a label that starts with a hyphen": "-a.test",
    "a label that ends in a hyphen": "a-.test",
    "a label that is too long": f"{'a' * 64}.test",
    "a name that is too long": ".".join(["a" * 62] * 4) + ".test",
    "digits of another script": "example\u0661.com",
    "nothing": "",
}

_characters = st.sampled_from([*"ab0x1-_.:*?[]/8 A\n\u0661", ".test", ".com", ":443", "localhost", "::1", "**."])
resources = st.one_of(
    st.lists(_characters, max_size=10).map("".join),
    st.sampled_from([*PLAIN, *NOT_PLAIN.values()]),
    st.from_regex(r"\A[a-z0-9_-]{1,3}(\.[a-z0-9x-]{1,3}){1,3}(:[0-9]{1,6})?\Z"),
)


@pytest.mark.parametrize("resource", PLAIN)
def test_a_plain_name_is_seen_as_one(resource: str) -> None:
    """A canonical name, with one port or none, needs no more reading."""
    assert is_plain(resource)


@pytest.mark.parametrize("resource", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_anything_else_is_read_whole(resource: str) -> None:
    """Whatever could mean something else than its own text, or nothing, is no plain name."""
    assert not is_plain(resource)


@given(resources, st.sampled_from(Effect))
@settings(max_examples=1000, deadline=None)
def test_a_plain_name_means_its_own_text(resource: str, effect: Effect) -> None:
    """What is called plain is what the syntax reads as that very name, on that port or the default ones."""
    if not is_plain(resource):
        return
    name, _, port = resource.partition(":")
    pattern, ports = parse_resource(resource, effect)
    assert pattern == NamePattern(tuple(name.split(".")))
    assert parse_host(name) == DomainName(name)
    default = WEB_PORTS if effect is Effect.ALLOW else EVERY_PORT
    assert ports == ((PortRange(int(port), int(port)),) if port else default)


_RESOURCES = (
    *("a.test", "b.test", "a.b.test", "ab.com:443", "a.test:22", "A.test.", "b.com:*", "a.test:8000-8001"),
    *("**.b.test", "*.b.test", "a*.b.com", "93.184.216.34", "10.0.0.0/8", "localhost:8000", "2606:4700::1", "**"),
)
_rows = st.lists(
    st.tuples(
        st.sampled_from(Effect),
        st.sampled_from(_RESOURCES),
        st.sampled_from(SANDBOXES),
        st.sampled_from([None, NOW - 1, NOW + 1]),
    ),
    max_size=8,
)
_names = st.sampled_from(["a.test", "b.test", "a.b.test", "ab.com", "b.com"])
_ports = st.sampled_from([22, 80, 443, 8000])
_targets = st.one_of(st.builds(Destination, _names.map(DomainName), _ports, st.just(Source.SNI)), destinations)


@given(_rows, st.sampled_from(Posture), st.sampled_from(SANDBOXES), st.lists(_targets, min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_rows_decide_as_rules_do(
    given_rows: list[tuple[Effect, str, str | None, float | None]],
    posture: Posture,
    sandbox: str | None,
    targets: list[Destination],
) -> None:
    """The decision, and the rule it names, do not depend on how the rules are kept."""
    brought = Rule(
        *(RuleId("default"), "default", Effect.ALLOW, NamePattern(("a", "test")), EVERY_PORT, "a.test:*"),
        origin=Origin.PRESET,
    )
    rows = [(f"local:{at}", each[0].value, *each[1:]) for at, each in enumerate(given_rows)]
    objects = (brought, *(_rule(*row) for row in rows))
    stored = StoredRules((brought,), rows)
    assert tuple(stored) == objects
    one = PolicyIndex(Policy(Generation(1), posture, stored), sandbox)
    other = PolicyIndex(Policy(Generation(1), posture, objects), sandbox)
    for target in targets:
        assert decide(one, target, NOW) == decide(other, target, NOW), str(target)
    assert sorted(one.expiries) == sorted(other.expiries)


@pytest.mark.parametrize(
    ("effect", "resource"),
    [
        ("ask", "a.test"),
        ("ALLOW", "a.test"),
        ("allow", ""),
        ("allow", "a.test\0"),
        ("allow", "*.com"),
        ("deny", "1.2.3"),
    ],
)
def test_one_bad_row_makes_no_rules(effect: str, resource: str) -> None:
    """A row that cannot be enforced exactly as written is refused with its id, however many good ones there are."""
    with pytest.raises(StoredRuleError, match="local:bad"):
        StoredRules((), [("local:good", "allow", "a.test", None, None), ("local:bad", effect, resource, None, None)])


def test_it_is_a_sequence() -> None:
    """Positions count from either end, slices are tuples, and what lies beyond is an error."""
    rows = [(f"local:{number}", "allow", f"h{number}.test", None, None) for number in range(4)]
    stored = StoredRules((), rows)
    assert [rule.resource for rule in stored[1:3]] == ["h1.test", "h2.test"]
    assert (stored[-1].id, stored[0].id, len(stored)) == ("local:3", "local:0", 4)
    for beyond in (4, -5):
        with pytest.raises(IndexError):
            stored[beyond]
    assert stored == StoredRules((), rows)
    assert stored != StoredRules((), rows[:-1])


def test_found_rules_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many hosts are asked for, few rules are held as objects, and each is found all the same."""
    monkeypatch.setattr("sandhold.policy.index.READ_MAX", 3)
    rows = [(f"local:{number}", "allow", f"h{number}.test", None, None) for number in range(10)]
    index = PolicyIndex(Policy(Generation(1), Posture.BALANCED, StoredRules((), rows)), None)
    for number in (*range(10), *range(10)):
        rules = index.rules_on_name(Effect.ALLOW, f"h{number}.test")
        assert [rule.id for rule in rules] == [f"local:{number}"]


def _rule(identifier: str, effect: str, resource: str, sandbox: str | None, expires_at: float | None) -> Rule:
    pattern, ports = parse_resource(resource, Effect(effect))
    found = (RuleId(identifier), identifier, Effect(effect), pattern, ports, resource)
    return Rule(*found, sandbox, Origin.LOCAL, expires_at)
