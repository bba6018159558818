"""`sbx template`: the root file systems that sandboxes start from."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import asdict

import click

from sandhold.cli import output
from sandhold.cli.groups import LazyGroup
from sandhold.errors import SbxError
from sandhold.paths import Paths
from sandhold.session.building import templates
from sandhold.store import sandboxes
from sandhold.store.database import read_only

_MIB = 1024 * 1024


@click.group(cls=LazyGroup)
def template() -> None:
    """List, build and delete root file systems."""


@template.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> int:  # noqa: FBT001 - click passes flags so
    """List templates.

    STATE is `outdated` where an agent's file says otherwise now; `sbx template build NAME` makes that one anew.
    """
    paths = Paths.from_environment(os.environ)
    found = templates.list_templates(paths)
    reasons = {each.name: _why_outdated(paths, each.name) for each in found}
    if as_json:
        output.show_json([asdict(each) | {"outdated": reasons[each.name]} for each in found])
        return 0
    rows = [
        (
            each.name,
            each.kind.value,
            each.suite or "-",
            f"{each.size // _MIB} MiB" if each.size is not None else "-",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(each.built_at)) if each.built_at is not None else "-",
            "ready" if reasons[each.name] is None else "outdated",
        )
        for each in found
    ]
    output.table(("NAME", "KIND", "SUITE", "SIZE", "BUILT", "STATE"), rows)
    for name, reason in reasons.items():
        if reason is not None:
            output.hint(output.safe(f"`{name}`: {reason}; `sbx template build {name}` makes it anew"))
    return 0


def _why_outdated(paths: Paths, name: str) -> str | None:
    """Return why a template is outdated; a file that cannot be read is a reason too, and no end of the list."""
    try:
        return templates.outdated(paths, name)
    except SbxError as error:
        return error.message


@template.command()
@click.argument("name", default="debian")
@click.option("--pull", is_flag=True, help="An agent's: make it anew, with the newest versions.")
@click.option("--microvm", is_flag=True, help="Make what a microVM boots from, too.")
def build(name: str, pull: bool, microvm: bool) -> int:  # noqa: FBT001 - click passes flags so
    """Build a template: `debian`, or that of an agent.

    With `--microvm` the template may be there already, and `--pull` fetches the newest kernel too.
    """
    paths = Paths.from_environment(os.environ)
    try:
        if microvm:
            from sandhold.session.machines import prepare_snapshot  # noqa: PLC0415 - `template ls` stays quick

            templates.prepare_vm(paths, name, time.time(), output.progress, pull=pull)
            problem = prepare_snapshot(paths, name, output.progress)
            if problem is not None:
                output.hint(output.safe(f"each start of such a machine will boot it: {problem}"))
            output.say(f"`{name}` is ready for `--isolation microvm`")
            return 0
        made = templates.build(paths, name, time.time(), output.progress, pull=pull)
    finally:
        output.end_progress()
    output.say(f"built `{made.name}` ({(made.size or 0) // _MIB} MiB)")
    return 0


@template.command()
@click.argument("sandbox")
@click.argument("name")
def save(sandbox: str, name: str) -> int:
    """Make a template of what a stopped SANDBOX installed and wrote outside its folders, its home included."""
    from sandhold.session.building.saving import save_template  # noqa: PLC0415 - `template ls` lives here and stays quick

    made = save_template(Paths.from_environment(os.environ), sandbox, name, time.time())
    output.say(f"saved `{sandbox}` as the template `{made.name}` ({(made.size or 0) // _MIB} MiB over `{made.base}`)")
    output.hint(f"start from it with `--template {made.name}`; logins and keys that were in its home are in it too")
    return 0


@template.command()
@click.argument("name")
def rm(name: str) -> int:
    """Delete a template that no sandbox starts from."""
    paths = Paths.from_environment(os.environ)
    with closing(read_only(paths.database)) as database:
        users = [each.name for each in sandboxes.list_all(database) if each.template == name]
    if users:
        raise SbxError(
            f"`{name}` is what {len(users)} sandboxes start from, `{users[0]}` among them",
            hint=f"delete them first: `sbx rm {' '.join(users[:5])}`",
        )
    templates.remove(paths, name)
    output.say(f"deleted the template `{name}`")
    return 0
