"""`sbx policy check`: what would happen to a connection, by the function that decides when it happens."""

from __future__ import annotations

import os
import time
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

import click

from sandhold.cli import output
from sandhold.cli.groups import LazyGroup
from sandhold.errors import EXIT_FAILED, EXIT_USAGE, SbxError
from sandhold.model.destination import Destination, MalformedError, Source, parse_authority
from sandhold.paths import Paths
from sandhold.policy.decide import decide
from sandhold.session.furnish.agent_rules import brought_rules
from sandhold.store import sandboxes
from sandhold.store.database import read_only
from sandhold.store.policy_index import load_index

DEFAULT_PORT: Final = 443


@click.group(cls=LazyGroup)
def check() -> None:
    """Say what would happen, by the very function that enforcement calls."""


@check.command("network")
@click.argument("target")
@click.option("--sandbox", metavar="NAME", help="As this sandbox would be answered.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_network(target: str, sandbox: str | None, as_json: bool) -> int:  # noqa: FBT001 - click passes flags so
    """Say what would happen to a connection to TARGET (`host`, `host:port`, port 443 when not given) and why."""
    try:
        host, port = parse_authority(target, DEFAULT_PORT)
    except MalformedError as error:
        meant = _host_and_port(target)
        why = str(error) if meant is None else "it is more than a host and a port"
        hint = "write `host` or `host:port`" if meant is None else f"write `{meant}`"
        raise SbxError(f"`{target}` is no target: {why}", hint=hint, status=EXIT_USAGE) from error
    paths = Paths.from_environment(os.environ)
    with closing(read_only(paths.database)) as database:
        if sandbox is not None:
            sandboxes.get(database, sandbox)
        index = load_index(database, sandbox, brought_rules(paths, sandbox))
    destination = Destination(host, port, Source.CONNECT)
    decision = decide(index, destination, time.time())
    if as_json:
        output.show_json(
            {
                "destination": str(destination),
                "decision": decision.effect.value,
                "reason": decision.reason.value,
                "rule": decision.rule.id if decision.rule is not None else None,
                "because": decision.because,
                "generation": decision.generation,
            }
        )
    else:
        words = output.paint("ALLOWED", "green") if decision.is_allowed else output.paint("BLOCKED", "red")
        resource = f" ({decision.rule.resource})" if decision.rule is not None else ""
        output.show(f"{words}   {destination}   {decision.because}{resource}")
    return 0 if decision.is_allowed else EXIT_FAILED


def _host_and_port(text: str) -> str | None:
    """Return the target that somebody means who typed a URL, None when it names none."""
    try:
        url = urlsplit(text if "://" in text else f"//{text}")
        port = url.port or {"http": 80}.get(url.scheme, DEFAULT_PORT)
        host, _ = parse_authority(url.hostname or "", port)
    except ValueError:
        return None
    return str(Destination(host, port, Source.CONNECT))
