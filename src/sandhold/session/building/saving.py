"""A template made of a sandbox: what it installed and wrote over its own template, its home included."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from sandhold.agents.definitions import agent_names
from sandhold.cell import tree
from sandhold.cell.images import templates
from sandhold.cell.images.template_files import HOST_TEMPLATE
from sandhold.cell.images.templates import DEBIAN_TEMPLATE, TEMPLATE_NAME, Description
from sandhold.cell.layout import LAYER_FOLDER, ROOT_UPPER
from sandhold.cell.spec import TemplateKind
from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.model.sandbox import Isolation
from sandhold.session.presence import AlreadyHeldError, hold
from sandhold.store import sandboxes
from sandhold.store.database import read_only

if TYPE_CHECKING:
    from pathlib import Path

    from sandhold.model.sandbox import Sandbox
    from sandhold.paths import Paths


def save_template(paths: Paths, sandbox: str, name: str, now: float) -> Description:
    """Make a template of a stopped sandbox, which stays as it is. `now` is in seconds since the epoch.

    Raises:
        SbxError: when the name is none or taken, the sandbox runs, never ran, or starts from the host's own root.
    """
    _check_name(paths, name)
    with closing(read_only(paths.database)) as database:
        saved = sandboxes.get(database, sandbox)
    if saved.template == HOST_TEMPLATE:
        raise SbxError(f"`{sandbox}` starts from `{HOST_TEMPLATE}`, which changes with this machine: nothing to save")
    if saved.isolation is Isolation.MICROVM:
        raise SbxError(
            f"`{sandbox}` is a virtual machine, whose disk cannot be made a template",
            hint="install the same in a sandbox of `--isolation namespaces` and save that: machines start from it too",
        )
    below = templates.find_template(paths.templates, saved.template)
    if len(below.layers) >= templates.LAYERS_MAX:
        raise SbxError(f"`{saved.template}` has {templates.LAYERS_MAX} layers already, and more are not carried")
    base = next(each for each in templates.list_templates(paths.templates) if each.name == saved.template)
    try:
        with hold(paths.sandbox(sandbox)), templates.building(paths.templates, name) as place:
            size = _copy(paths, saved, place)
            description = Description(
                name=name,
                kind=TemplateKind.LAYER,
                built_at=now,
                suite=base.suite,
                size=size,
                base=base.name,
                base_built_at=base.built_at,
            )
            _check_name(paths, name)
            templates.publish(place, description)
    except AlreadyHeldError:
        raise SbxError(f"`{sandbox}` is running", hint=f"stop it first: `sbx stop {sandbox}`") from None
    return description


def _check_name(paths: Paths, name: str) -> None:
    if not TEMPLATE_NAME.fullmatch(name):
        raise SbxError(f"`{name}` cannot name a template", hint="use `a-z 0-9 _ . -`", status=EXIT_USAGE)
    if name in (DEBIAN_TEMPLATE, HOST_TEMPLATE, *agent_names(paths.agents)):
        raise SbxError(f"`{name}` is the name of a template that is built", hint="choose another", status=EXIT_USAGE)
    if (paths.templates / name).exists():
        raise SbxError(f"template `{name}` exists", hint=f"`sbx template rm {name}` removes it")


def _copy(paths: Paths, sandbox: Sandbox, place: Path) -> int:
    """Copy the sandbox's layer under the ids that templates have; returns its size in bytes."""
    upper, target = paths.sandbox(sandbox.name) / LAYER_FOLDER / ROOT_UPPER, place / templates.LAYER
    if not upper.is_dir():
        raise SbxError(f"`{sandbox.name}` has not run yet: there is nothing to save")
    try:
        tree.copy_tree(upper, target)
        tree.give_to_template(target, sandbox.slot)
    except OSError as error:
        raise SbxError(f"`{sandbox.name}` cannot be saved: {error.strerror or error}") from error
    return tree.size_of(target)
