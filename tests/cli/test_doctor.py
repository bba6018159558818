"""`sbx doctor` as typed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.installation import Installation


def test_doctor_says_what_this_host_can_do(sbx: Installation) -> None:
    """Each line says what was found; what a sandbox cannot do without decides the exit status."""
    done = sbx("doctor")
    checks = json.loads(sbx("doctor", "--json").out)
    assert done.status == (0 if all(check["is_ok"] for check in checks if check["is_needed"]) else 1)
    for check in checks:
        assert f"{check['name']}: {check['found']}" in done.out
        if not check["is_ok"] and check["fix"]:
            assert check["fix"] in done.out
