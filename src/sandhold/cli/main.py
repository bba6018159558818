"""The command `sbx`: finds the command that was typed and loads only that, and turns failures into words."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from sandhold.cli import output
from sandhold.errors import EXIT_USAGE, SbxError

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION: Final = "0.1.0"
EXIT_INTERRUPTED: Final = 130

_COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = {
    "run": ("sandhold.cli.running", "run", "Start a sandbox, or re-attach to it, and run its agent"),
    "create": ("sandhold.cli.running", "create", "Create a sandbox without starting it"),
    "exec": ("sandhold.cli.running", "execute", "Run a command inside a sandbox"),
    "ls": ("sandhold.cli.sandboxes", "ls", "List sandboxes"),
    "stop": ("sandhold.cli.sandboxes", "stop", "Stop sandboxes, keeping what is installed or written inside"),
    "rm": ("sandhold.cli.sandboxes", "rm", "Delete sandboxes, never their workspaces"),
    "prune": ("sandhold.cli.sandboxes", "prune", "Delete all stopped sandboxes"),
    "inspect": ("sandhold.cli.sandboxes", "inspect", "Show all facts of one sandbox"),
    "logs": ("sandhold.cli.sandboxes", "logs", "Show the log of a sandbox's session"),
    "policy": ("sandhold.cli.policy", "policy", "See and change what sandboxes may reach on the network"),
    "template": ("sandhold.cli.templates", "template", "List, build and delete root file systems"),
    "doctor": ("sandhold.cli.doctor", "doctor", "Show what this host can do and what is missing"),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and loads a command's module when it is typed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, in the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the module that has the command."""
        if cmd_name not in _COMMANDS:
            return None
        module, function, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, _, short) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which ones come close."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            import difflib  # noqa: PLC0415 - only where a command is mistyped

            closest = difflib.get_close_matches(args[0], list(_COMMANDS), n=2)
            meant = "did you mean " + " or ".join(f"`sbx {name}`?" for name in closest) if closest else None
            raise SbxError(
                f"`sbx` has no command `{args[0]}`", hint=meant or "`sbx --help` lists them", status=EXIT_USAGE
            )
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="sbx", message="%(prog)s %(version)s")
@click.option("--no-input", is_flag=True, help="Never ask; fail with the flag to use instead.")
@click.pass_context
def sbx(context: click.Context, no_input: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Run AI coding agents in sandboxes whose every connection is decided, answered and recorded."""
    context.obj = {"no_input": no_input}


def main() -> int:
    """Run the command line; the exit status is 0, 1 failed or denied, 2 wrong usage, 125 not held, else the agent's."""
    try:
        status: Any = sbx.main(standalone_mode=False)
    except SbxError as error:
        output.fail(error.message, error.hint)
        return error.status
    except click.exceptions.NoArgsIsHelpError as error:
        output.show(error.format_message())
        return 0
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "sbx"
        output.fail(_lower_first(error.format_message()).rstrip("."), f"`{command} --help` shows how it is used")
        return EXIT_USAGE
    except click.Abort:
        output.say("")
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        output.fail(error.format_message(), None)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output is gone, `sbx ls | head`; nothing is left to say, not even at exit.
        sys.stderr.close()
        return 1
    return status if isinstance(status, int) else 0


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
