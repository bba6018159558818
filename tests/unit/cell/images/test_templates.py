"""Templates: whole or not there."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from sandhold.cell.images import templates
from sandhold.cell.spec import Template, TemplateKind
from sandhold.errors import SbxError

if TYPE_CHECKING:
    from collections.abc import Mapping

WHOLE: Final[Mapping[str, Any]] = {
    "version": 1,
    "name": "debian",
    "kind": "directory",
    "built_at": 1.5,
    "suite": "trixie",
    "size": 5,
    "packages": ["git"],
}

DAMAGED: Final[Mapping[str, str]] = {
    "an empty description": "",
    "half a description": '{"version": 1, "kind": ',
    "a description that is no object": "[]",
    "a newer version": json.dumps({**WHOLE, "version": 2}),
    "an unknown kind": json.dumps({**WHOLE, "kind": "image"}),
    "a missing field": json.dumps({name: value for name, value in WHOLE.items() if name != "size"}),
    "a field of another type": json.dumps({**WHOLE, "built_at": None}),
    "more than a description can be": json.dumps({**WHOLE, "packages": ["x" * 70_000]}),
}


def _make(folder: Path, name: str, description: str) -> None:
    (folder / name / "rootfs").mkdir(parents=True)
    (folder / name / "template.json").write_text(description)


def _silent(stage: str, detail: str) -> None:
    """Take progress and say nothing."""


def test_the_host_is_always_there(tmp_path: Path) -> None:
    """`host` needs no building and no folder."""
    assert templates.list_templates(tmp_path / "never") == (templates.HOST_DESCRIPTION,)
    assert templates.find_template(tmp_path / "never", "host") == Template(TemplateKind.HOST, Path("/"))


def test_a_whole_template_is_found(tmp_path: Path) -> None:
    """A template's description is read back as it was written."""
    _make(tmp_path, "debian", json.dumps(WHOLE))
    listed = templates.list_templates(tmp_path)[1]
    assert listed == templates.Description("debian", TemplateKind.DIRECTORY, 1.5, "trixie", 5, ("git",))
    assert templates.find_template(tmp_path, "debian").root == tmp_path / "debian/rootfs"


@pytest.mark.parametrize("description", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_template_is_none(description: str, tmp_path: Path) -> None:
    """What is not understood whole is not started from, and can be removed."""
    _make(tmp_path, "debian", description)
    assert templates.list_templates(tmp_path) == (templates.HOST_DESCRIPTION,)
    with pytest.raises(SbxError, match="no template is called `debian`"):
        templates.find_template(tmp_path, "debian")
    templates.remove_template(tmp_path, "debian")
    assert not (tmp_path / "debian").exists()


def test_a_description_without_its_tree_is_no_template(tmp_path: Path) -> None:
    """Both parts are needed."""
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian/template.json").write_text(json.dumps(WHOLE))
    assert templates.list_templates(tmp_path) == (templates.HOST_DESCRIPTION,)


LAYER: Final[Mapping[str, Any]] = {
    **WHOLE,
    "name": "tool",
    "kind": "layer",
    "base": "debian",
    "base_built_at": WHOLE["built_at"],
}

BASELESS: Final[Mapping[str, Mapping[str, Any]]] = {
    "a base that is not there": {**LAYER, "base": "gone"},
    "a base that was built anew": {**LAYER, "base_built_at": 2.5},
    "itself": {**LAYER, "base": "tool"},
    "the host": {**LAYER, "base": "host"},
}


def _make_layer(folder: Path, description: Mapping[str, Any]) -> None:
    (folder / "tool" / "layer").mkdir(parents=True)
    (folder / "tool" / "template.json").write_text(json.dumps(description))


def test_a_layer_is_found_with_what_it_lies_over(tmp_path: Path) -> None:
    """The layer comes first, the base's root last; the base cannot be removed under it."""
    _make(tmp_path, "debian", json.dumps(WHOLE))
    _make_layer(tmp_path, LAYER)
    found = templates.find_template(tmp_path, "tool")
    assert found == Template(TemplateKind.DIRECTORY, tmp_path / "debian/rootfs", (tmp_path / "tool/layer",))
    with pytest.raises(SbxError, match="`tool` lies over `debian`"):
        templates.remove_template(tmp_path, "debian")
    templates.remove_template(tmp_path, "tool")
    templates.remove_template(tmp_path, "debian")


@pytest.mark.parametrize("description", BASELESS.values(), ids=BASELESS)
def test_a_layer_without_its_base_is_not_started_from(description: Mapping[str, Any], tmp_path: Path) -> None:
    """A layer names only what differs from the very tree it was made over."""
    _make(tmp_path, "debian", json.dumps(WHOLE))
    _make_layer(tmp_path, description)
    with pytest.raises(SbxError, match="that is gone") as caught:
        templates.find_template(tmp_path, "tool")
    assert "`sbx template build tool`" in str(caught.value.hint)


@pytest.mark.parametrize("base", ["..", "../debian", "", 5, None])
def test_a_base_is_never_a_path(base: object, tmp_path: Path) -> None:
    """A description that names something else than a template is damaged."""
    _make_layer(tmp_path, {**LAYER, "base": base})
    assert templates.list_templates(tmp_path) == (templates.HOST_DESCRIPTION,)


def test_publishing_replaces_whole(tmp_path: Path) -> None:
    """What was there before is there until the new one is, and what is not published leaves nothing."""
    _make(tmp_path, "debian", json.dumps(WHOLE))
    _make_layer(tmp_path, LAYER)
    described = templates.Description("tool", TemplateKind.LAYER, 9.0, "trixie", 1, ("new",), "debian", 1.5)
    with templates.building(tmp_path, "tool") as place:
        (place / "layer").mkdir()
    assert templates.find_template(tmp_path, "tool").layers == (tmp_path / "tool/layer",)
    with templates.building(tmp_path, "tool") as place:
        (place / "layer").mkdir()
        assert described not in templates.list_templates(tmp_path)
        templates.publish(place, described)
    assert described in templates.list_templates(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tool.lock", "debian", "tool"]


def test_what_is_being_built_is_not_listed(tmp_path: Path) -> None:
    """A template appears when it is complete."""
    _make(tmp_path, ".debian.building", json.dumps(WHOLE))
    assert templates.list_templates(tmp_path) == (templates.HOST_DESCRIPTION,)


@pytest.mark.parametrize("name", ["..", "../debian", ".debian.building", "", "Debian", "a" * 64])
def test_a_name_is_never_a_path(name: str, tmp_path: Path) -> None:
    """Nothing outside the folder of templates can be started from or removed."""
    folder = tmp_path / "templates"
    _make(folder, ".debian.building", json.dumps(WHOLE))
    _make(tmp_path, "debian", json.dumps(WHOLE))
    for action in (templates.find_template, templates.remove_template):
        with pytest.raises(SbxError, match="no template is called"):
            action(folder, name)
    assert (tmp_path / "debian/rootfs").is_dir()
    assert (folder / ".debian.building/rootfs").is_dir()


def test_the_host_cannot_be_removed(tmp_path: Path) -> None:
    """`host` is this machine's own root file system."""
    with pytest.raises(SbxError, match="cannot be removed"):
        templates.remove_template(tmp_path, "host")


def test_only_one_command_builds_or_removes(tmp_path: Path) -> None:
    """While another holds the lock, nothing of the template is touched."""
    _make(tmp_path, "debian", json.dumps(WHOLE))
    with (tmp_path / ".debian.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SbxError, match="another command is building"):
            templates.remove_template(tmp_path, "debian")
        with pytest.raises(SbxError, match="another command is building"):
            templates.build_template(tmp_path, "debian", now=0.0, progress=_silent)
    assert (tmp_path / "debian/rootfs").is_dir()


def test_a_template_that_exists_is_not_built_again(tmp_path: Path) -> None:
    """Sandboxes may be running from it."""
    _make(tmp_path, "debian", json.dumps(WHOLE))
    with pytest.raises(SbxError, match="template `debian` exists") as caught:
        templates.build_template(tmp_path, "debian", now=0.0, progress=_silent)
    assert caught.value.hint == "`sbx template rm debian` removes it"


def test_only_known_templates_can_be_built(tmp_path: Path) -> None:
    """There is one recipe."""
    with pytest.raises(SbxError, match="no template called `arch` can be built"):
        templates.build_template(tmp_path, "arch", now=0.0, progress=_silent)


def test_removing_also_removes_what_a_killed_command_left(tmp_path: Path) -> None:
    """Leftovers go with the next command that holds the lock."""
    for name in ("debian", ".debian.building", ".debian.removing"):
        _make(tmp_path, name, json.dumps(WHOLE))
    templates.remove_template(tmp_path, "debian")
    assert [path.name for path in tmp_path.iterdir()] == [".debian.lock"]
