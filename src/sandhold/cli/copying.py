"""`sbx cp`: files and folders into a sandbox and out of it."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Final

import click

from sandhold.cli import output, rootfs
from sandhold.cli.attaching import reach
from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.model.sandbox_name import is_sandbox_name
from sandhold.paths import Paths
from sandhold.session.furnish import inside
from sandhold.session.workspace.copying import copy_in, copy_out
from sandhold.store import sandboxes
from sandhold.store.database import read_only

if TYPE_CHECKING:
    from sandhold.session.workspace.archive import Copied

SHOWN_MAX: Final = 10  # of what was left out


@click.command("cp")
@click.option(
    "-u", "--user", metavar="USER", default="agent", show_default=True, help="User inside: `agent` or `root`."
)
@click.argument("source")
@click.argument("target")
def copy(user: str, source: str, target: str) -> int:
    """Copy a file or folder from SOURCE to TARGET, one of which is NAME:PATH, in a sandbox.

    Into TARGET where that is a folder, else as TARGET. Relative paths inside begin in the workspace. Links are copied
    as links; out of a sandbox only those that stay inside of what is copied.

    \b
      sbx cp report.pdf lab:/home/agent
      sbx cp lab:/var/log/apt ./apt-log
    """
    name_of_source, path_of_source = _split(source)
    name_of_target, path_of_target = _split(target)
    if (name_of_source is None) == (name_of_target is None):
        raise SbxError(
            "one of SOURCE and TARGET is in a sandbox, as NAME:PATH",
            hint="for example `sbx cp report.pdf lab:/home/agent`; between sandboxes, copy to the host first",
            status=EXIT_USAGE,
        )
    paths = Paths.from_environment(os.environ)
    with closing(read_only(paths.database)) as database:
        sandbox = sandboxes.get(database, name_of_source or name_of_target or "")
    rootfs.make_ready(paths, sandbox)
    copies = copy_out if name_of_source is not None else copy_in
    copied = copies(
        sandbox, lambda: reach(paths, sandbox).channel, inside.user_named(user), path_of_source, path_of_target
    )
    _say(copied, source, target)
    return 0


def _split(text: str) -> tuple[str | None, str]:
    """Tell NAME:PATH from a path of the host's, which may have a colon behind a slash."""
    name, colon, path = text.partition(":")
    return (name, path) if colon and is_sandbox_name(name) else (None, text)


def _say(copied: Copied, source: str, target: str) -> None:
    what = "1 file" if copied.files == 1 else f"{copied.files} files"
    output.say(output.safe(f"copied {what} ({copied.size} bytes) from `{source}` to `{target}`"))
    for each in copied.left_out[:SHOWN_MAX]:
        output.warn(output.safe(f"left out `{each}`"))
    more = copied.more_left_out + max(0, len(copied.left_out) - SHOWN_MAX)
    if more:
        output.warn(f"left out {more} more")
