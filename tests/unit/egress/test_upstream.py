"""Which of the addresses behind an allowed name may be dialled."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from sandhold.egress.upstream import look_up, vet
from sandhold.model.decision import Reason
from sandhold.model.destination import Destination, DomainName, Source
from tests.simulators import policy

NAME = Destination(DomainName("good.test"), 443, Source.DNS)

CASES = {
    "public addresses are kept in their order": (
        ["203.0.113.7", "203.0.113.6"],
        ["allow good.test"],
        Reason.RULE,
        ["203.0.113.7", "203.0.113.6"],
    ),
    "one address in the floor refuses all": (
        ["203.0.113.7", "127.0.0.1"],
        ["allow good.test"],
        Reason.ADDRESS_FLOOR,
        [],
    ),
    "the metadata service refuses all, whatever is allowed": (
        ["169.254.169.254"],
        ["allow good.test", "allow 169.254.0.0/16"],
        Reason.METADATA_ADDRESS,
        [],
    ),
    "a denied address is left out": (
        ["203.0.113.7", "203.0.113.6"],
        ["allow good.test", "deny 203.0.113.7"],
        Reason.RULE,
        ["203.0.113.6"],
    ),
    "when every address is denied, the rule has denied": (
        ["203.0.113.7"],
        ["allow good.test", "deny 203.0.113.0/24"],
        Reason.RULE,
        [],
    ),
    "a rule on the address opens the floor": (
        ["10.0.0.7"],
        ["allow good.test", "allow 10.0.0.7:443"],
        Reason.RULE,
        ["10.0.0.7"],
    ),
}


@pytest.mark.parametrize(("answers", "rules", "reason", "kept"), CASES.values(), ids=CASES.keys())
def test_answers_are_vetted(answers: list[str], rules: list[str], reason: Reason, kept: list[str]) -> None:
    """Only vetted addresses are left, and the decision says so."""
    decision, addresses = vet(policy(*rules), NAME, [ip_address(answer) for answer in answers], now=0.0)
    assert [str(address) for address in addresses] == kept
    assert decision.is_allowed is bool(kept)
    assert decision.reason is reason


def test_the_hosts_own_names_are_known() -> None:
    """The host's resolver answers with addresses, each once."""
    found = look_up("localhost")
    assert found
    assert all(address.is_loopback for address in found)
    assert len(set(found)) == len(found)
