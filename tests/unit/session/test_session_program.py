"""What a session and its helpers are made of."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.installation import SOURCE

PROGRAM = """
import sys
sys.path.append(%r)
from sandhold.session.left_out import leave_out
leave_out()
import %s
%s
print(*sys.modules)
print(open("/proc/self/maps").read(), file=sys.stderr)
"""
HEAVY = {"ast", "csv", "difflib", "email", "importlib.resources", "shutil", "ssl", "tempfile", "zipfile"}
PLAIN_QUESTION = """
from ipaddress import IPv4Address
from sandhold.wire.dns_message import build_answer, read_query
question = read_query(bytes(2) + b"\\1\\0\\0\\1" + bytes(6) + b"\\4good\\4test\\0\\0\\1\\0\\1")
assert IPv4Address("192.0.2.1").packed in build_answer(question, [IPv4Address("192.0.2.1")], 60)
"""
OTHER_QUESTION = """
import dns.message
from sandhold.wire.dns_message import build_empty, read_query
question = read_query(dns.message.make_query("good.test", "HTTPS").to_wire())
assert dns.message.from_wire(build_empty(question)).question
import inspect, msgspec, subprocess
assert inspect.signature(inspect.getdoc).parameters
assert msgspec.json.schema(int) == {"type": "integer"}
assert msgspec.inspect.type_info(str) == msgspec.inspect.StrType()
assert subprocess.run(["true"]).returncode == 0
"""

UNREADABLE = """
import subprocess
sys.path.clear()
for _ in range(2):
    try:
        subprocess.run
    except ImportError as error:
        assert "subprocess" in str(error)
    else:
        raise SystemExit(1)
"""


def _run(module: str, then: str = "") -> subprocess.CompletedProcess[str]:
    program = PROGRAM % (str(SOURCE), module, then)
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.parametrize(
    "module", ["sandhold.session.run", "sandhold.session.children.egress_program", "sandhold.cell.launch"]
)
def test_a_session_and_its_helpers_are_without_what_they_do_not_use(module: str) -> None:
    """Nothing heavy is loaded at rest, nor by the questions for addresses that egress answers there."""
    done = _run(module, PLAIN_QUESTION)
    assert (HEAVY | {"dns"}) & set(done.stdout.split()) == set()
    assert "libcrypto" not in done.stderr


def test_what_was_left_out_is_there_when_it_is_needed() -> None:
    """Egress reads and answers other questions with dnspython, which never finds the packages it looks for."""
    done = _run("sandhold.session.children.egress_program", OTHER_QUESTION)
    assert {"dns.message", "inspect"} <= set(done.stdout.split())
    assert "importlib.resources" not in done.stdout.split()


def test_what_was_left_out_and_cannot_be_read_says_so() -> None:
    """A module that cannot be loaded when it is needed is an import that failed, each time it is asked for."""
    _run("sandhold.linux.process", UNREADABLE)
