"""Groups of commands that know their commands by name, load one only when it is typed, and say which come close."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from sandhold.errors import EXIT_USAGE, SbxError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHORT_COLUMNS_MAX: Final = 200  # a short help is never cut: it wraps


class Lazy(NamedTuple):
    """Where a command is defined, and its line in the list of commands."""

    module: str
    function: str
    short: str


class LazyGroup(click.Group):
    """A group of commands defined in place and of `lazy` ones, which cost nothing until they are typed."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which they were defined, the lazy ones last."""
        return [*self.commands, *self._lazy]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command, loading its module if need be."""
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(importlib.import_module(lazy.module), lazy.function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, a whole sentence each, without loading any."""
        eager = {name: each.get_short_help_str(_SHORT_COLUMNS_MAX) for name, each in self.commands.items()}
        shorts = {**eager, **{name: lazy.short for name, lazy in self._lazy.items()}}
        with formatter.section("Commands"):
            formatter.write_dl([(name, short.rstrip(".")) for name, short in shorts.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed.

        Raises:
            SbxError: when there is none; the hint has those that come close.
        """
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            raise SbxError(
                f"`{ctx.command_path}` has no command `{args[0]}`",
                hint=_closest(ctx.command_path, args[0], names),
                status=EXIT_USAGE,
            )
        return super().resolve_command(ctx, args)


def _closest(group: str, typed: str, names: list[str]) -> str:
    import difflib  # noqa: PLC0415 - only where a command is mistyped

    closest = difflib.get_close_matches(typed, names, n=2)
    if closest:
        return "did you mean " + " or ".join(f"`{group} {name}`" for name in closest) + "?"
    if len(names) == 1:
        return f"did you mean `{group} {names[0]} {typed}`?"
    return f"`{group} --help` lists them"
