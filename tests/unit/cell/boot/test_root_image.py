"""What tells one template's image from another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandhold.cell.boot.root_image import image_key
from sandhold.cell.spec import Template, TemplateKind
from sandhold.errors import SbxError


def part(folder: Path, name: str, description: str, kind: str) -> Path:
    (folder / name / kind).mkdir(parents=True, exist_ok=True)
    (folder / name / "template.json").write_text(description)
    return folder / name / kind


def test_a_template_that_was_built_again_has_another_key(tmp_path: Path) -> None:
    """Each part counts, and their order; where they lie does not."""
    keys = []
    for number, (base, tool, more) in enumerate([("1", "2", "3"), ("9", "2", "3"), ("1", "9", "3"), ("1", "3", "2")]):
        folder = tmp_path / str(number)
        root = part(folder, "base", base, "rootfs")
        layers = (part(folder, "more", more, "layer"), part(folder, "tool", tool, "layer"))
        keys += [image_key(Template(TemplateKind.DIRECTORY, root, layers[:count])) for count in range(3)]
    assert len(set(keys)) == len(keys) - 3  # the first has the bases of the third and the fourth, and the tool of none
    again = part(tmp_path / "elsewhere", "base", "1", "rootfs")
    assert image_key(Template(TemplateKind.DIRECTORY, again)) == keys[0]


def test_the_hosts_own_root_has_no_image() -> None:
    """It changes all the time and holds what no sandbox may see."""
    with pytest.raises(SbxError, match="cannot start from `host`"):
        image_key(Template(TemplateKind.HOST, Path("/")))


def test_a_template_without_a_description_has_no_image(tmp_path: Path) -> None:
    """What says nothing about when it was built could not be told from what comes after it."""
    (tmp_path / "rootfs").mkdir()
    with pytest.raises(SbxError, match="cannot be read"):
        image_key(Template(TemplateKind.DIRECTORY, tmp_path / "rootfs"))
