"""What only ours does: HTTPS that is denied and answered all the same, and names that are answered for inside."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.processes import NotMeasuredError, settled_cpu_seconds
from benchmarks.proxies import AT_ONCE, Bench
from benchmarks.rounds import rounds, take
from benchmarks.sandbox import captured, installed
from benchmarks.world import DENIED_NAME, NAME
from sandhold.egress.lookups import LOOKUPS_BURST, LOOKUPS_RATE
from sandhold.model.cell_addresses import DNS_PORT, GATEWAY_IPV4

if TYPE_CHECKING:
    from benchmarks.figures import Figures
    from benchmarks.proxies import Size
    from benchmarks.rounds import Metrics
    from benchmarks.subjects import Subject
    from benchmarks.world import World

BUDGET_S: Final = 90.0  # of the half hour that everything may take: small things, with a pause between
CLIENT: Final = Path(__file__).with_name("load") / "refused.py"
CLIENT_TIMEOUT_S: Final = 120.0
NEW_HOSTS_MAX: Final = 100  # below `MINTING_BURST`: more at once are not answered
LOOKUP_NAMES: Final = 100  # as many as a build asks for, again and again
LOOKUPS: Final = 1000  # a round; a sandbox that asks more than `LOOKUPS_BURST` at once is refused the rest


def measure(world: World, figures: Figures, size: Size, names: tuple[str, ...]) -> None:
    """Run what is named of `refusals` and `lookups` in one sandbox."""
    bench = Bench(world, size)
    with captured(world) as subject:
        for number in rounds(size.rounds, BUDGET_S):
            if number:
                time.sleep(LOOKUPS_BURST / LOOKUPS_RATE)  # a round spends what may be asked at once
            if "refusals" in names:
                take(figures, "refusals", "sandhold", lambda: _refusals(bench, subject))
            if "lookups" in names:
                take(figures, "lookups", "sandhold", lambda: _lookups(bench, subject))


def _refusals(bench: Bench, subject: Subject) -> Metrics:
    """Ask one host again and again, then as many different hosts once; each over a connection of its own."""
    count = bench.size.refusals
    _ask(bench, subject, 1, DENIED_NAME)  # from here on the host has been seen
    before = settled_cpu_seconds(subject.pids)
    seen = _ask(bench, subject, count, DENIED_NAME)
    between = settled_cpu_seconds(subject.pids)
    new_count = min(count, NEW_HOSTS_MAX)
    new = _ask(bench, subject, new_count, "{number}.{stamp}." + DENIED_NAME)
    after = settled_cpu_seconds(subject.pids)
    return {
        "cpu_ms": (between - before) / count * 1e3,
        "p50_ms": seen["p50_ms"],
        "cpu_ms_new_host": (after - between) / new_count * 1e3,
        "p50_ms_new_host": new["p50_ms"],
    }


def _ask(bench: Bench, subject: Subject, count: int, name: str) -> dict[str, float]:
    words = ["exec", "captured", "python3", "-c", CLIENT.read_text(), str(count), name, str(bench.world.load_cpu)]
    done = subprocess.run(
        installed(bench.world).argv(*words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CLIENT_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise NotMeasuredError(done.stderr.strip()[-300:])
    answer = json.loads(done.stdout)
    if answer["refused"] != count:
        raise NotMeasuredError(f"only {answer['refused']} of {count} were answered with a 403")
    return {"p50_ms": float(answer["p50_ms"])}


def _lookups(bench: Bench, subject: Subject) -> Metrics:
    before = settled_cpu_seconds(subject.pids)
    with bench.load(
        subject,
        "lookups",
        to=f"{GATEWAY_IPV4}:{DNS_PORT}",
        host=NAME,
        count=min(LOOKUPS, bench.size.requests),
        names=LOOKUP_NAMES,
        tunnels=AT_ONCE,
    ) as load:
        answer = load.answer()
    cpu_s = settled_cpu_seconds(subject.pids) - before
    return {"cpu_us": cpu_s / answer.done * 1e6, "per_second": answer.done / answer.seconds, "p50_us": answer.p50}
