"""Which root file system a new sandbox starts from; the host's own programs are offered where none can be built."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sandhold.cli import output
from sandhold.cli.asking import agrees, may_ask
from sandhold.errors import SbxError
from sandhold.model.sandbox import Isolation
from sandhold.session.building.templates import ensure_template, outdated

if TYPE_CHECKING:
    import click

    from sandhold.model.sandbox import Sandbox
    from sandhold.paths import Paths
    from sandhold.session.creation import Wanted
    from sandhold.session.launching import Begun

_DEFAULT: Final = "debian"
_HOST: Final = "host"
_QUESTION: Final = f"start from the host's own programs instead (template {_HOST})?"


def make_ready(paths: Paths, sandbox: Sandbox, begun: Begun | None = None) -> None:
    """Make what a sandbox starts from, if it is not there, saying what is happening: its template, and for a machine
    what that boots from. When it cannot be made, a session that was `begun` has ended as well: it fails for the same
    reason, and the next command must not come upon it.

    Raises:
        SbxError: when it cannot be made.
    """
    try:
        make_sure(paths, sandbox.template)
    except SbxError:
        if begun is not None:
            with contextlib.suppress(SbxError):
                begun.wait()
        raise
    if sandbox.isolation is not Isolation.MICROVM:
        return
    from sandhold.session.isolation import prepare  # noqa: PLC0415  with all that makes a machine

    try:
        prepare(paths, sandbox, time.time(), output.progress)
    except OSError as error:
        raise SbxError(f"what virtual machines start from cannot be made: {error.strerror or error}") from error
    finally:
        output.end_progress()


def make_sure(paths: Paths, template: str) -> None:
    """Build the template if it is not there, saying what is happening.

    Raises:
        SbxError: when there is none of that name, or it cannot be built.
    """
    try:
        ensure_template(paths, template, time.time(), output.progress)
    except OSError as error:
        raise SbxError(
            f"the template `{template}` cannot be built: `{error.filename or paths.templates}`: "
            f"{error.strerror or error}"
        ) from error
    finally:
        output.end_progress()


def say_outdated(paths: Paths, template: str) -> None:
    """Say that an agent's template is not what its file describes now, and how to have that."""
    why = outdated(paths, template)
    if why is not None:
        output.warn(output.safe(f"the template `{template}` is outdated: {why}"))
        output.hint(f"`sbx template build {template}` makes it anew; what was installed in a sandbox stays in it")


def settled(context: click.Context, paths: Paths, wanted: Wanted, template: str) -> Wanted:
    """Return what is wanted, with a template that is there. `template` is the one that was planned.

    When the default one cannot be built, the person at the terminal is asked whether `host` will do.

    Raises:
        SbxError: when there is no such template, or none can be built and `host` was not agreed to.
    """
    try:
        make_sure(paths, template)
    except SbxError as error:
        if wanted.template is not None or template != _DEFAULT:
            raise
        if not may_ask(context):
            hint = f"`--template {_HOST}` starts from the host's own programs instead"
            raise SbxError(error.message, hint=hint, status=error.status) from error
        output.warn(output.safe(error.message, keep_lines=True))
        if error.hint is not None:
            output.hint(output.safe(error.hint, keep_lines=True))
        if not agrees(_QUESTION):
            raise SbxError("nothing was created") from error
        return replace(wanted, template=_HOST)
    return wanted
