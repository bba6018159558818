"""The policy and its slow twin (`reference.py`) never differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandhold.model.destination import Destination, Source
from sandhold.policy import addresses
from sandhold.policy.decide import decide, decide_address, decide_any_port, decide_claims
from sandhold.policy.index import PolicyIndex
from tests.unit.policy import reference
from tests.unit.policy.strategies import NOW, SANDBOXES, destinations, names, policies, ports, raw_addresses

if TYPE_CHECKING:
    from sandhold.model.decision import Decision
    from sandhold.model.rule import Policy

sandboxes = st.sampled_from(SANDBOXES)
thorough = settings(max_examples=300, deadline=None)


@given(policies, sandboxes, st.lists(destinations, min_size=1, max_size=8))
@thorough
def test_a_destination_gets_the_same_decision(policy: Policy, sandbox: str | None, targets: list[Destination]) -> None:
    """Rules 1 to 7 hold whichever way the rules are looked up."""
    index = PolicyIndex(policy, sandbox)
    for target in targets:
        assert decide(index, target, NOW) == reference.decide(policy, sandbox, target, NOW), str(target)


@given(policies, sandboxes, names, ports, st.lists(raw_addresses, min_size=1, max_size=8))
@thorough
def test_an_address_of_a_name_gets_the_same_decision(
    policy: Policy, sandbox: str | None, name: object, port: int, resolved: list[addresses.Address]
) -> None:
    """Rule 8 holds whichever way the rules are looked up."""
    index = PolicyIndex(policy, sandbox)
    target = Destination(name, port, Source.DNS)  # type: ignore[arg-type]  # the strategy's type is not inferred
    for address in resolved:
        expected = reference.decide_address(policy, sandbox, target, address, NOW)
        assert decide_address(index, target, address, NOW) == expected, str(address)


@given(policies, sandboxes, destinations, st.data())
@thorough
def test_claims_get_the_same_decision(
    policy: Policy, sandbox: str | None, first: Destination, data: st.DataObject
) -> None:
    """Rule 9 holds whether claims are compared all at once or pair by pair."""
    similar = st.one_of(
        st.builds(Destination, st.just(first.host), ports, st.sampled_from(Source)),
        st.builds(Destination, st.just(first.host), st.just(first.port), st.sampled_from(Source)),
        destinations,
    )
    claims = [first, *data.draw(st.lists(similar, max_size=3))]
    expected = reference.decide_claims(policy, sandbox, claims, NOW)
    assert decide_claims(PolicyIndex(policy, sandbox), claims, NOW) == expected


@given(policies, sandboxes, destinations)
@thorough
def test_a_host_without_a_port_is_allowed_where_one_port_is(
    policy: Policy, sandbox: str | None, target: Destination
) -> None:
    """Rule 10 holds as if a port on each side of every rule's ends had been tried: between those nothing changes."""
    expected = reference.decide_any_port(policy, sandbox, target.host, NOW)
    assert decide_any_port(PolicyIndex(policy, sandbox), target.host, NOW) == expected


@given(raw_addresses)
@thorough
def test_an_address_stands_in_the_same_place(address: addresses.Address) -> None:
    """Masks, and `ipaddress` asked range by range, agree on the floor and on what an address carries."""
    assert set(addresses.embedded_ipv4(address)) == set(reference.carried(address))
    assert (addresses.floor_reason(address) is not None) == (
        reference.is_floor(address) or reference.is_metadata(address)
    )
    expected = reference.is_metadata(address) or reference.is_never(address)
    assert addresses.is_never_opened(address) == expected


@given(st.lists(policies, min_size=2, max_size=2), destinations)
@thorough
def test_one_more_deny_rule_never_allows_more(pair: list[Policy], target: Destination) -> None:
    """Adding deny rules to a policy turns no denial into permission."""
    base, more = pair
    denying = tuple(rule for rule in more.rules if rule.effect == "deny")
    before: Decision = decide(PolicyIndex(base, "mine"), target, NOW)
    widened = type(base)(base.generation, base.posture, (*base.rules, *denying))
    after = decide(PolicyIndex(widened, "mine"), target, NOW)
    assert before.is_allowed or not after.is_allowed


@pytest.mark.parametrize("text", sorted(reference.METADATA))
def test_the_reference_knows_every_metadata_address(text: str) -> None:
    """The two tables of metadata addresses are the same."""
    assert text in {str(each) for each in addresses.METADATA}
    assert len(reference.METADATA) == len(addresses.METADATA)
