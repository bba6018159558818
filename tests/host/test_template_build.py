"""A template built for real, from the host's own package sources."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandhold.cell import tree
from sandhold.cell.identity import identity_for
from sandhold.cell.images import templates
from sandhold.cell.images.rootfs import run_mmdebstrap
from sandhold.errors import SbxError
from sandhold.linux.process import find_program


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's build mounts anything of the host's")
def test_what_a_build_mounts_is_gone_with_it(tmp_path: Path) -> None:
    """A build that is killed leaves no mount of the host's in a folder that somebody will delete."""
    folder, kept = tmp_path / "rootfs", tmp_path / "of-the-host"
    for one in (folder, kept):
        one.mkdir()
    (kept / "file").touch()
    seen: list[str] = []
    lock = os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC)
    script = f"mount --bind {kept} {folder} && ls {folder} && kill -KILL $$"
    with pytest.raises(SbxError, match="failed"):
        run_mmdebstrap(
            ("sh", "-c", f"({script}) | sed 's/^/I: /'; kill -KILL $$"),
            lock,
            lambda _, text: seen.append(text),
            instead="wait",
        )
    os.close(lock)
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    assert seen == ["file"], "it was mounted while the build ran"
    assert list(folder.iterdir()) == []


@pytest.mark.long
@pytest.mark.skipif(find_program("mmdebstrap") is None, reason="`mmdebstrap` is not installed")
@pytest.mark.skipif(identity_for(0).is_single, reason="needs root or subordinate ids")
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
