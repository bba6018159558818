"""Templates as commands need them: there, or built now with words about what is happening."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandhold.cell.images import templates

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.agents.parsing import Agent
    from sandhold.cell.images.templates import Description
    from sandhold.paths import Paths


def ensure_template(paths: Paths, name: str, now: float, show: Callable[[str], None]) -> None:
    """Build the template if it is one that can be built and is not there.

    Raises:
        SbxError: when there is no such template, or it cannot be built; the hint offers `host`.
    """
    known = {description.name for description in templates.list_templates(paths.templates)}
    if name not in known and (name == templates.DEBIAN_TEMPLATE or _agent(paths, name) is not None):
        build(paths, name, now, show)
    else:
        templates.find_template(paths.templates, name)


def build(paths: Paths, name: str, now: float, show: Callable[[str], None], *, pull: bool = False) -> Description:
    """Build a template, telling `show` what is happening; that of an agent builds the base too where it is missing.

    With `pull` the template of an agent is made anew with the newest versions of its packages; one that is outdated is
    made anew in any case.

    Raises:
        SbxError: when it cannot be built.
    """
    agent = _agent(paths, name)
    if agent is not None:
        # Imported here: what runs sandboxes is not needed to look at templates.
        from sandhold.session.building.agent_templates import build_agent_template  # noqa: PLC0415

        ensure_template(paths, templates.DEBIAN_TEMPLATE, now, show)
        replaces = pull or outdated(paths, name) is not None
        return build_agent_template(paths, agent, os.environ, show, pull=pull, replaces=replaces)
    if name == templates.DEBIAN_TEMPLATE:
        show(f"building the template `{name}`, once; this takes about a minute")
    return templates.build_template(
        paths.templates,
        name,
        now=now,
        progress=lambda stage, detail: show(f"template {name}: {stage} {detail}".rstrip()),
    )


def prepare_vm(paths: Paths, name: str, now: float, show: Callable[[str], None], *, pull: bool = False) -> None:
    """Make what a virtual machine of this template boots from, and the template itself if it is not there.

    With `pull` the template of an agent is made anew with the newest versions, and the newest kernel is fetched.

    Raises:
        SbxError: when there is no such template, no machine can start from it, or something cannot be made.
    """
    from sandhold.cell.boot.boot_files import boot_files  # noqa: PLC0415 - few commands need archives

    if pull and _agent(paths, name) is not None:
        build(paths, name, now, show, pull=True)
    else:
        ensure_template(paths, name, now, show)
    template = templates.find_template(paths.templates, name)
    boot_files(paths.vm, template, lambda stage, what: show(f"microvm {name}: {stage} {what}".rstrip()), renew=pull)
    _remove_unused(paths)


def list_templates(paths: Paths) -> tuple[Description, ...]:
    """Return every template there is."""
    return templates.list_templates(paths.templates)


def outdated(paths: Paths, name: str) -> str | None:
    """Return why the template of an agent is not what a build would make now; None when it is, or is none of an agent.

    Raises:
        SbxError: when the agent's file cannot be read.
    """
    found = {description.name: description for description in templates.list_templates(paths.templates)}
    description = found.get(name)
    if description is None or description.base is None:
        return None  # an agent's lies over another
    agent = _agent(paths, name)
    if agent is None or agent.recipe is None:
        return None
    base = found.get(description.base)
    if base is None or base.built_at != description.base_built_at:
        return f"the `{description.base}` that it lies over is gone"
    if not description.made_from:
        return "it does not say what it was made from"
    wanted, used = agent.recipe.parts, description.made_from
    if missing := [part for part in wanted if part not in used]:
        return f"its agent's file says {_quoted(missing)} now"
    if surplus := [part for part in used if part not in wanted]:
        return f"its agent's file no longer says {_quoted(surplus)}"
    return None


def remove(paths: Paths, name: str) -> None:
    """Delete a template and what virtual machines would boot from.

    Raises:
        SbxError: when there is none, or it cannot be deleted.
    """
    templates.remove_template(paths.templates, name)
    _remove_unused(paths)


def _remove_unused(paths: Paths) -> None:
    """Delete what no template's machine starts from any more."""
    from sandhold.cell.boot.boot_files import boot_keys, remove_unused  # noqa: PLC0415 - few commands need archives
    from sandhold.cell.machine import snapshots  # noqa: PLC0415 - nor machines

    remove_unused(paths.vm, paths.templates)
    snapshots.remove_unused(paths.vm, boot_keys(paths.vm, paths.templates))


def _quoted(parts: list[str]) -> str:
    return ", ".join(f"`{part}`" for part in parts)


def _agent(paths: Paths, name: str) -> Agent | None:
    """Return the agent whose own template that is, if it has one."""
    # Imported here: most sandboxes start from a template that is there and of no agent.
    from sandhold.agents.definitions import agent_names, load_agent  # noqa: PLC0415

    if name not in agent_names(paths.agents):
        return None
    agent = load_agent(name, paths.agents)
    return agent if agent.recipe is not None else None
