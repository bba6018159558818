"""How a template lies on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.images.template_files import KIND_OF_ROOT, stands_alone
from sandhold.cell.images.templates import find_template
from sandhold.cell.spec import TemplateKind

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = {"version": 1, "kind": "directory", "built_at": 1.0, "suite": "trixie", "size": 1, "packages": ["bash"]}
OTHERS = {
    "a layer over another": json.dumps({**WHOLE, "kind": "layer", "base": "debian", "base_built_at": 1.0}),
    "of a newer version": json.dumps({**WHOLE, "version": 2}),
    "no object": "[]",
    "no JSON": "{",
    "without a kind": "{}",
}


def test_one_that_stands_alone(tmp_path: Path) -> None:
    """A whole root file system of its own, and the host's, need no other template."""
    assert TemplateKind(KIND_OF_ROOT) is TemplateKind.DIRECTORY
    assert stands_alone(str(tmp_path), "host")
    assert not stands_alone(str(tmp_path), "debian")
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian" / "template.json").write_text(json.dumps(WHOLE))
    assert not stands_alone(str(tmp_path), "debian")  # its files are not there
    (tmp_path / "debian" / "rootfs").mkdir()
    assert stands_alone(str(tmp_path), "debian")
    assert find_template(tmp_path, "debian").layers == ()


@pytest.mark.parametrize("description", OTHERS.values(), ids=OTHERS)
def test_what_needs_a_closer_look(tmp_path: Path, description: str) -> None:
    """A template that lies over another, or is damaged, does not stand alone."""
    (tmp_path / "debian" / "rootfs").mkdir(parents=True)
    (tmp_path / "debian" / "template.json").write_text(description)
    assert not stands_alone(str(tmp_path), "debian")
