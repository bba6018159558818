"""`sbx verify`: a verdict a line on every way out that was tried."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Final

import click

from sandhold.agents.definitions import DEFAULT_AGENT, load_agent
from sandhold.cli import output, rootfs
from sandhold.errors import EXIT_FAILED, EXIT_USAGE, SbxError
from sandhold.paths import Paths
from sandhold.session.creation import template_of
from sandhold.session.proof.drill import drill
from sandhold.session.proof.verdicts import Outcome
from sandhold.session.proof.verify import verify as try_all
from sandhold.store import sandboxes
from sandhold.store.database import read_only

if TYPE_CHECKING:
    from sandhold.session.proof.verdicts import Verdict

_COLOURS: Final = {Outcome.CONTAINED: "green", Outcome.ESCAPED: "red", Outcome.SKIPPED: "yellow"}
_OUTCOME_COLUMNS: Final = 12
_NAME_COLUMNS: Final = 20


@click.command()
@click.option(
    "--drill", "wants_drill", is_flag=True, help="Break a sandbox made for it, and watch that nothing gets out."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a verdict a line.")
@click.argument("name", required=False)
def verify(name: str | None, wants_drill: bool, as_json: bool) -> int:  # noqa: FBT001 - click passes flags so
    """Try to break out of sandbox NAME's network layer from inside, and print a verdict a line.

    CONTAINED is what neither a canary on this host heard nor the audit trail missed. ESCAPED is the rest. SKIPPED
    says why an attempt proves nothing: the policy allows it, or it does not work on this host outside a sandbox
    either. A stopped sandbox is started for as long as it takes. The exit status is 1 if anything escaped or nothing
    could be tried.

    With --drill, a sandbox of its own is made in a temporary folder, with a state, policy and trail of its own. While
    a program in it sends without pause, its egress is killed and stopped, its session killed, its policy's database
    overwritten, and its trail kept from growing; none of your sandboxes is touched.
    """
    if name is None and not wants_drill:
        raise SbxError("`sbx verify` needs NAME or `--drill`", hint="`sbx ls` shows your sandboxes", status=EXIT_USAGE)
    paths = Paths.from_environment(os.environ)
    template = template_of(load_agent(DEFAULT_AGENT, paths.agents))
    if name is not None:
        with closing(read_only(paths.database)) as database:
            template = sandboxes.get(database, name).template
    rootfs.make_sure(paths, template)
    verdicts = []
    for verdict in chain(
        try_all(paths, name, os.environ) if name is not None else (),
        drill(paths, template, os.environ) if wants_drill else (),
    ):
        verdicts.append(verdict)
        _show(verdict, as_json=as_json)
    counts = Counter(verdict.outcome for verdict in verdicts)
    output.say(
        f"{counts[Outcome.CONTAINED]} of {len(verdicts)} attempts contained, "
        f"{counts[Outcome.ESCAPED]} escaped, {counts[Outcome.SKIPPED]} skipped"
    )
    has_held = counts[Outcome.CONTAINED] > 0 and not counts[Outcome.ESCAPED]
    return 0 if has_held else EXIT_FAILED


def _show(verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        output.show_json_line(
            {
                "attempt": verdict.name,
                "what": verdict.what,
                "verdict": verdict.outcome.value,
                "detail": verdict.detail,
            }
        )
        return
    word = verdict.outcome.value.upper()
    padding = " " * (_OUTCOME_COLUMNS - len(word))
    name = f"{verdict.name:<{_NAME_COLUMNS}}"
    output.show(f"{output.paint(word, _COLOURS[verdict.outcome])}{padding}{name}{output.safe(verdict.detail)}")
