"""What a session and its helpers are made of."""

from __future__ import annotations

import subprocess
import sys

from tests.installation import SOURCE

PROGRAM = """
import sys
sys.path.append(%r)
from sandhold.session import session_program
session_program.leave_out_unused()
import sandhold.session.children.egress_program
import dns.message
assert dns.message.from_wire(dns.message.make_query("good.test", "A").to_wire()).question
print(*sys.modules)
"""
HEAVY = {"csv", "difflib", "email", "importlib.resources", "shutil", "ssl", "tempfile", "zipfile"}


def test_egress_is_without_what_it_does_not_use() -> None:
    """Egress reads DNS without the parts of dnspython that look for other packages, and loads nothing heavy at rest."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM % str(SOURCE)], capture_output=True, text=True, timeout=60, check=True
    )
    assert HEAVY & set(done.stdout.split()) == set()
