"""The command `sbx`: finds the command that was typed and turns failures into words and exit statuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from sandhold.cli import failures, output
from sandhold.cli.groups import Lazy, LazyGroup
from sandhold.cli.usage import complaint
from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandhold.session.launching import Begun

_COMMANDS: Final[Mapping[str, Lazy]] = {
    "run": Lazy("sandhold.cli.running", "run", "Start a sandbox, or re-attach to it, and run its agent"),
    "create": Lazy("sandhold.cli.running", "create", "Create a sandbox without starting it"),
    "exec": Lazy("sandhold.cli.executing", "execute", "Run a command inside a sandbox"),
    "cp": Lazy("sandhold.cli.copying", "copy", "Copy files and folders into a sandbox, or out of it"),
    "ls": Lazy("sandhold.cli.sandboxes", "ls", "List sandboxes"),
    "stop": Lazy("sandhold.cli.sandboxes", "stop", "Stop sandboxes, keeping what is installed or written inside"),
    "rm": Lazy("sandhold.cli.sandboxes", "rm", "Delete sandboxes, never their workspaces"),
    "prune": Lazy("sandhold.cli.sandboxes", "prune", "Delete all stopped sandboxes"),
    "inspect": Lazy("sandhold.cli.sandboxes", "inspect", "Show all facts of one sandbox"),
    "logs": Lazy("sandhold.cli.sandboxes", "logs", "Show the log of a sandbox's session"),
    "policy": Lazy("sandhold.cli.policy", "policy", "See and change what sandboxes may reach on the network"),
    "template": Lazy("sandhold.cli.templates", "template", "List, build and delete root file systems"),
    "verify": Lazy("sandhold.cli.verify", "verify", "Try to break out of a sandbox's network layer from inside"),
    "doctor": Lazy("sandhold.cli.doctor", "doctor", "Show what this host can do and what is missing"),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="sbx", message="%(prog)s %(version)s")
@click.option("--no-input", is_flag=True, help="Never ask; fail with the flag to use instead.")
@click.pass_context
def sbx(context: click.Context, no_input: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Run AI coding agents in sandboxes whose every connection is decided, answered and recorded."""
    context.obj = {"no_input": no_input, "begun": context.obj}


def main(begun: Begun | None = None) -> int:
    """Run the command line; the exit status is 0, 1 failed or denied, 2 wrong usage, 125 not held, else the agent's.

    `begun` is the session that the command will need, if it is starting already.
    """
    try:
        status: Any = sbx.main(prog_name="sbx", standalone_mode=False, obj=begun)
    except click.exceptions.NoArgsIsHelpError as error:
        output.show(error.format_message())
        return 0
    except click.UsageError as error:
        output.fail(*complaint(error))
        return EXIT_USAGE
    except click.ClickException as error:
        output.fail(error.format_message(), None)
        return error.exit_code
    except click.Abort:
        return failures.say(KeyboardInterrupt())
    except (SbxError, OSError, KeyboardInterrupt) as error:
        return failures.say(error)
    return status if isinstance(status, int) else 0
