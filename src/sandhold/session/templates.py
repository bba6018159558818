"""Templates as commands need them: there, or built now with words about what is happening."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandhold.cell import templates

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.cell.templates import Description
    from sandhold.paths import Paths


def ensure_template(paths: Paths, name: str, now: float, show: Callable[[str], None]) -> None:
    """Build the template if it is one that can be built and is not there.

    Raises:
        SbxError: when there is no such template, or it cannot be built; the hint offers `host`.
    """
    known = {description.name for description in templates.list_templates(paths.templates)}
    if name == templates.DEBIAN_TEMPLATE and name not in known:
        build(paths, name, now, show)
    else:
        templates.find_template(paths.templates, name)


def build(paths: Paths, name: str, now: float, show: Callable[[str], None]) -> Description:
    """Build a template, telling `show` what is happening.

    Raises:
        SbxError: when it cannot be built.
    """
    show(f"building the template `{name}`, once; this takes about a minute")
    return templates.build_template(
        paths.templates,
        name,
        now=now,
        progress=lambda stage, detail: show(f"template {name}: {stage} {detail}".rstrip()),
    )


def list_templates(paths: Paths) -> tuple[Description, ...]:
    """Return every template there is."""
    return templates.list_templates(paths.templates)


def remove(paths: Paths, name: str) -> None:
    """Delete a template.

    Raises:
        SbxError: when there is none, or it cannot be deleted.
    """
    templates.remove_template(paths.templates, name)
