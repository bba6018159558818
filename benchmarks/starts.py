"""How long a person waits: `sbx` that only looks, `sbx` that starts something, and what peers take for the same.

Whole commands, from outside, each in turn. `stopped` starts a session for it (lock, cell, egress, records); `running`
finds one. A peer's command is its plainest: no network, `true`, out again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from benchmarks.processes import NotMeasuredError, pss_bytes, timed, tree, wait_until
from benchmarks.rounds import rounds, take
from benchmarks.sandbox import TEMPLATE, Installation, installed, is_running, session_pids
from benchmarks.world import WORK
from sandhold.model.sandbox import Isolation, Limits, Mount, Sandbox
from sandhold.store import sandboxes
from sandhold.store.database import open_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.figures import Figures
    from benchmarks.world import World

BUDGET_S: Final = 120.0  # of the half hour that everything may take: each waits for the end of the one before
ROUNDS: Final = 9
MANY: Final = 1000
FLEET: Final = 20
_NPM: Final = WORK / "npm" / "node_modules"
_CODEX: Final = _NPM / "@openai" / "codex" / "bin" / "codex.js"
_SRT: Final = _NPM / "@anthropic-ai" / "sandbox-runtime" / "dist" / "cli.js"
_NODE: Final = _NPM / ".bin" / "node"

PEERS: Final[Mapping[str, tuple[str, ...]]] = {
    "bwrap": ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all", "true"),
    "sandbox-runtime": (str(_NODE), str(_SRT), "true"),
    "codex sandbox": (str(_NODE), str(_CODEX), "sandbox", "--", "true"),
    "runsc": ("runsc", "--platform=ptrace", "--network=none", "--ignore-cgroups", "do", "true"),
}


def measure(world: World, figures: Figures, *, count_of_rounds: int, many: int) -> None:
    """Time every command, `rounds` times in turn; `many` is how many sandboxes a long `sbx ls` lists."""
    sbx = installed(world)
    with world.every_cpu(), _sandboxes(world, sbx) as folder:
        commands = {**_looks(world, many), **_ours(sbx, folder), **_peers(world)}
        for _ in rounds(count_of_rounds, BUDGET_S):
            for name, command in commands.items():
                take(figures, "starts", name, command)


def measure_fleet(world: World, figures: Figures, *, count_of_rounds: int, count: int) -> None:
    """Start many sandboxes at once, weigh them, and stop them at once."""
    sbx = installed(world)
    names = [f"fleet-{number}" for number in range(count)]
    folder = world.disk / "fleet"
    folder.mkdir()
    with world.every_cpu():
        for name in names:
            sbx.run("create", "--name", name, "shell", ".", folder=folder)
        try:
            for _ in rounds(count_of_rounds, BUDGET_S):
                take(figures, "fleet", f"{count} sandboxes", functools.partial(_fleet, sbx, names))
        finally:
            sbx.run("rm", "-f", *names)


def _fleet(sbx: Installation, names: list[str]) -> Mapping[str, float]:
    started = timed(_all_at_once(sbx, names, "run", "-d"))
    pids = tree(session_pids(sbx, name)["session"] for name in names)
    pss_mb = pss_bytes(pids) / 1e6 / len(names)
    stopped = timed(_all_at_once(sbx, names, "stop"))
    wait_until(lambda: not any(is_running(sbx, name) for name in names), "every sandbox is stopped")
    return {"start_s": started.wall_s, "stop_s": stopped.wall_s, "pss_mb": pss_mb}


def _all_at_once(sbx: Installation, names: list[str], *words: str) -> list[str]:
    script = 'status=0; pids=; for name in $NAMES; do "$@" "$name" & pids="$pids $!"; done; '
    script += "for pid in $pids; do wait $pid || status=1; done; exit $status"
    return ["env", f"NAMES={' '.join(names)}", "sh", "-c", script, "sh", *sbx.argv(*words)]


@contextlib.contextmanager
def _sandboxes(world: World, sbx: Installation) -> Iterator[Path]:
    folder = world.disk / "starts"
    folder.mkdir()
    for name in ("cold", "warm"):
        sbx.run("create", "--name", name, "shell", ".", folder=folder)
    sbx.run("run", "-d", "warm")
    try:
        yield folder
    finally:
        sbx.run("rm", "-f", "cold", "warm")


def _ours(sbx: Installation, folder: Path) -> dict[str, Callable[[], Mapping[str, float]]]:
    def of_stopped(*words: str) -> Mapping[str, float]:
        wait_until(lambda: not is_running(sbx, "cold"), "the sandbox is stopped")
        return _timed(sbx.argv(*words), None, folder)

    return {
        "sbx run, stopped": lambda: of_stopped("run", "cold", "--", "-c", "true"),
        "sbx exec, stopped": lambda: of_stopped("exec", "cold", "true"),
        "sbx run, running": lambda: _timed(sbx.argv("run", "warm", "--", "-c", "true"), None, folder),
        "sbx exec, running": lambda: _timed(sbx.argv("exec", "warm", "true"), None, folder),
    }


def _looks(world: World, many: int) -> dict[str, Callable[[], Mapping[str, float]]]:
    none, full = Installation(world.disk / "none"), Installation(world.disk / "many")
    for each in (none, full):
        each.home.mkdir()
        each.run("ls")
    _fill(full, many)
    python = ["env", "-i", *(f"{name}={value}" for name, value in none.environment.items()), sys.executable]
    return {
        "python -c pass": lambda: _timed([*python, "-c", "pass"], None, none.home),
        "sbx --help": lambda: _timed(none.argv("--help"), None, none.home),
        "sbx ls, none": lambda: _timed(none.argv("ls"), None, none.home),
        f"sbx ls, {many}": lambda: _timed(full.argv("ls"), None, full.home),
    }


def _fill(sbx: Installation, count: int) -> None:
    """Create sandboxes as `sbx create` stores them, without its start-up a thousand times over."""
    folder = sbx.home / "project"
    folder.mkdir()
    database = open_database(sbx.state / "sandhold.db")
    with contextlib.closing(database):
        for number in range(count):
            name = f"sandbox-{number}"
            sandboxes.add(
                database,
                Sandbox(
                    name=name,
                    agent="shell",
                    isolation=Isolation.NAMESPACES,
                    template=TEMPLATE,
                    mounts=(Mount(PurePosixPath(folder), is_read_only=False),),
                    limits=Limits(None, None, 4096),
                    environment=(),
                    slot=0,
                    created_at=time.time(),
                ),
            )
            (sbx.state / "sandboxes" / name).mkdir(mode=0o700, parents=True)


def _peers(world: World) -> dict[str, Callable[[], Mapping[str, float]]]:
    home = world.disk / "peers-home"
    home.mkdir()
    environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "HOME": str(home), "LANG": "C.UTF-8"}

    def run(argv: tuple[str, ...]) -> Mapping[str, float]:
        try:
            return _timed(list(argv), environment, home)
        except FileNotFoundError as error:
            raise NotMeasuredError(f"`{argv[0]}` is not installed") from error

    return {name: functools.partial(run, argv) for name, argv in PEERS.items()}


def _timed(argv: list[str], environment: Mapping[str, str] | None, folder: Path) -> Mapping[str, float]:
    cost = timed(argv, environment=environment, folder=folder)
    return {"wall_ms": cost.wall_s * 1e3, "cpu_ms": cost.cpu_s * 1e3}
