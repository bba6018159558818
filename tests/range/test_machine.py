"""The same attempts inside a virtual machine, where root has a kernel of its own and may send what it likes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.range import test_addresses, test_lookups, test_names, test_protocols
from tests.range.attempt import Attempt, contained
from tests.range.field import POLICY

if TYPE_CHECKING:
    from tests.range.field import Field

MACHINE: Final = "machine"
ATTEMPTS: Final = test_names.ATTEMPTS | test_lookups.ATTEMPTS | test_addresses.ATTEMPTS | test_protocols.ATTEMPTS
SPOILS_ITS_NETWORK: Final = ("I01", "I03")  # root takes down what is its own: nothing arrives at ours any more

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def machine(field: Field) -> Field:
    """Start a virtual machine on the range, under the policy of the sandbox `shut`."""
    words = ("create", "--isolation", "microvm", "--memory", "1g", "--name", MACHINE, "shell", str(field.project))
    made = field.sbx(*words)
    if made.status != 0 and "not installed" in made.err:
        pytest.skip(made.err)
    assert made.status == 0, made.err
    for effect, resource, sandbox in POLICY:
        if sandbox == "shut":
            field.sbx.ok("policy", effect, "network", resource, "--sandbox", MACHINE)
    field.sbx.ok("run", "-d", MACHINE)
    return field


@pytest.mark.parametrize("name", sorted(ATTEMPTS, key=lambda name: str(name).startswith(SPOILS_ITS_NETWORK)))
def test_a_machine_holds_it_too(machine: Field, name: str) -> None:
    """No packet of an attempt leaves a machine either, and what arrives at our sockets is on record."""
    attempt: Attempt = ATTEMPTS[name]
    is_on_record = attempt.record is not None and not name.startswith(SPOILS_ITS_NETWORK)
    contained(machine, attempt, MACHINE, is_on_record=is_on_record)
