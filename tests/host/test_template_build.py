"""A template built for real, from the host's own package sources."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sandhold.cell import templates, tree
from sandhold.cell.identity import identity_for
from sandhold.linux.process import find_program

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_program("mmdebstrap") is None, reason="`mmdebstrap` is not installed"),
    pytest.mark.skipif(identity_for(0).is_single, reason="needs root or subordinate ids"),
]


def test_a_built_template_is_a_machine_for_an_agent(tmp_path: Path) -> None:
    """The tree has the agent's user, the tools, a managed Python, no devices and nothing of the host's identity."""
    stages: list[str] = []
    built = templates.build_template(tmp_path, "debian", now=7.0, progress=lambda stage, _: stages.append(stage))
    try:
        root = templates.find_template(tmp_path, "debian").root
        assert list((root / "dev").iterdir()) == []
        assert [(root / "etc" / name).read_text() for name in ("machine-id", "resolv.conf", "hostname")] == [""] * 3
        assert "agent:x:1000:1000:" in (root / "etc/passwd").read_text()
        assert (root / "etc/sudoers.d/agent").stat().st_mode & 0o777 == 0o440
        assert list(root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"))
        for program in ("python3", "pip3", "git", "curl", "node", "npm", "ssh", "sudo"):
            assert os.path.lexists(root / "usr/bin" / program)
        assert built in templates.list_templates(tmp_path)
        assert "building" in stages
    finally:
        tree.delete_tree(tmp_path / "debian")
