"""A soak: one real session under an endless, gentle mix, watched for memory that grows and for records that get lost.

`scripts/soak HOURS` runs it. It fails when a process of the session grows (`is_flat`), when a client inside met
something that it should not have, when a record is missing, or when the chain does not verify.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.installation import Installation, at_terminal, wait_until
from tests.load import processes
from tests.load.far_ends import FarEnds, echo, http, tls_echo
from tests.tools.company import Company

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NAME: Final = "soak"
SAMPLE_EVERY_S: Final = 15.0
REPORT_EVERY_S: Final = 300.0
ACT_EVERY_S: Final = 20.0  # something on the host: a policy change, a command, a terminal
END_S_MAX: Final = 120.0  # for the client inside to finish its step
WARM_UP: Final = 0.15  # of the time: caches fill, the allocator finds its size
GROWTH_KIB_MAX: Final = 1536  # between the medians of the first and the last third after the warm-up
DESCRIPTORS_MAX: Final = 12  # more in the busiest moment of the last third than in that of the first
INSIDE: Final = Path(__file__).with_name("mix_inside.py")


@dataclass(slots=True)
class Soak:
    """One run: its installation, its far ends, what was measured by process, and the seconds it has."""

    sbx: Installation
    ends: FarEnds
    ports: Mapping[str, int]
    project: Path
    pace_s: float
    seconds: float
    samples: dict[str, list[processes.Use]] = field(default_factory=dict)

    @property
    def trail(self) -> Path:
        """The trail's file."""
        return self.sbx.state / "audit" / f"{NAME}.jsonl"


def main() -> int:
    """Run for as long as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("hours", type=float)
    parser.add_argument("--pace", type=float, default=0.25, help="seconds between two steps of the client inside")
    parser.add_argument("--samples", type=Path, help="write every sample there, a JSON line each")
    given = parser.parse_args()
    problems = soak(given.hours * 3600, given.pace, given.samples)
    for problem in problems:
        say(f"FAILED: {problem}")
    say("soak failed" if problems else "soak passed: memory flat, nothing lost, chain unbroken")
    return 1 if problems else 0


def soak(seconds: float, pace_s: float, samples: Path | None = None) -> list[str]:
    """Run a soak and return what is wrong, a sentence each."""
    home = Path(tempfile.mkdtemp(prefix="sbx-soak-"))
    home.chmod(0o755)
    project = home / "project"
    project.mkdir()
    shutil.copy(INSIDE, project)
    sbx = Installation(home, home / "data")
    with FarEnds() as ends:
        context = Company(home).server_context("http/1.1")
        talks = {
            "http": http, "tls": tls_echo(context), "tunnel": echo, "resets": echo, "flapping": echo, "forbidden": echo,
        }  # fmt: skip
        ports = {name: ends.open(talk) for name, talk in talks.items()}
        try:
            problems = _run(Soak(sbx, ends, ports, project, pace_s, seconds), samples)
        finally:
            sbx("rm", "-f", NAME)
    if problems:
        say(f"what there was is kept in {home}")
    else:
        shutil.rmtree(home)
    return problems


def say(text: str) -> None:
    """Print a line with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def _run(run: Soak, samples: Path | None) -> list[str]:
    allowed = ",".join(f"localhost:{run.ports[name]}" for name in run.ports if name != "forbidden")
    run.sbx.ok("create", "--template", "host", "--name", NAME, "shell", ".", folder=run.project)
    run.sbx.ok("policy", "allow", "network", allowed)
    run.sbx.ok("run", "-d", NAME)
    orders = {"clients": [run.ports], "pace_s": run.pace_s, "seen": str(run.project / "seen.jsonl")}
    client = run.sbx.start("exec", NAME, "python3", str(run.project / INSIDE.name), json.dumps(orders))
    try:
        parts = processes.parts(run.sbx, NAME)
        _watch(run, samples, client.poll)
        (run.project / "stop").touch()
        said, _ = client.communicate(timeout=END_S_MAX)
    finally:
        client.kill()
        client.wait()
    problems = [f"the client inside ended with {client.returncode}: {said}"] if client.returncode else []
    if processes.parts(run.sbx, NAME) != parts:
        problems.append("a process of the session is not the one that started")
    run.sbx.ok("stop", NAME)
    return [*problems, *_growth(run), *_losses(run)]


def _watch(run: Soak, samples: Path | None, client_status: Callable[[], int | None]) -> None:
    """Sample and act until the time is over or a process is gone."""
    actions = _actions(run)
    start = time.monotonic()
    next_act, next_report = start + ACT_EVERY_S, start
    while (now := time.monotonic()) < start + run.seconds and client_status() is None:
        _sample(run, samples, now - start)
        if now >= next_act:
            next(actions)()
            next_act = now + ACT_EVERY_S
        if now >= next_report:
            _report(run, now - start)
            next_report = now + REPORT_EVERY_S
        pause_s = min(SAMPLE_EVERY_S, run.seconds / 40)
        deadline = time.monotonic() + pause_s
        wait_until(lambda: client_status() is not None or time.monotonic() >= deadline, "a pause", pause_s + 60)  # noqa: B023  used within the turn
    _report(run, time.monotonic() - start)


def _sample(run: Soak, samples: Path | None, at_s: float) -> None:
    taken = {part: processes.use_of(pid) for part, pid in processes.parts(run.sbx, NAME).items()}
    for part, use in taken.items():
        run.samples.setdefault(part, []).append(use)
    if samples is not None:
        line = {"at_s": round(at_s, 1), "trail_bytes": run.trail.stat().st_size}
        with samples.open("a", encoding="ascii") as file:
            file.write(json.dumps(line | {part: asdict(use) for part, use in taken.items()}) + "\n")


def _report(run: Soak, at_s: float) -> None:
    latest = {part: uses[-1] for part, uses in run.samples.items()}
    uses = "; ".join(
        f"{part} {use.pss_kib} KiB ({use.anonymous_kib} its own), {use.descriptors} fds, {use.threads} threads"
        for part, use in latest.items()
    )
    say(
        f"after {at_s / 3600:.2f} h: {sum(run.ends.accepted.values())} connections arrived, "
        f"trail {run.trail.stat().st_size // 1024} KiB; {uses}"
    )


def _actions(run: Soak) -> Iterator[Callable[[], object]]:
    """What the host does, over and over."""
    flapping = f"localhost:{run.ports['flapping']}"

    def terminal() -> None:
        with at_terminal(run.sbx, "exec", "-it", NAME, "seq", "20000") as shown:
            assert shown.wait() == 0

    return itertools.cycle(
        (
            lambda: run.sbx.ok("policy", "deny", "network", flapping, "--sandbox", NAME, "--now"),
            lambda: run.sbx.ok("exec", NAME, "seq", "20000"),
            lambda: run.sbx.ok("policy", "log", NAME, "--no-follow", "--limit", "20"),
            lambda: run.sbx.ok("policy", "rm", "network", "--resource", flapping, "--sandbox", NAME, "--now"),
            terminal,
            lambda: run.sbx.ok("exec", "-i", NAME, "cat", given="x" * 100_000),
        )
    )


def _growth(run: Soak) -> list[str]:
    problems = []
    for part, uses in run.samples.items():
        first, last = _thirds(uses)
        grown = round(median(use.anonymous_kib for use in last) - median(use.anonymous_kib for use in first))
        more = {
            what: max(getattr(use, what) for use in last) - max(getattr(use, what) for use in first)
            for what in ("descriptors", "threads")
        }
        say(f"{part}: {grown:+d} KiB of its own from the first third to the last, at most {_most(uses)}")
        if not is_flat(grown, more["descriptors"], more["threads"]):
            problems.append(f"{part} grew by {grown} KiB, {more}")
    return problems


def is_flat(grown_kib: float, descriptors: int, threads: int) -> bool:
    """Whether what one process uses did not grow from the first third (after the warm-up) to the last.

    Memory that it wrote itself, by medians: one busy moment is not growth. Descriptors and threads by the busiest
    moments.
    """
    return grown_kib <= GROWTH_KIB_MAX and descriptors <= DESCRIPTORS_MAX and threads <= 2


def _thirds(uses: Sequence[processes.Use]) -> tuple[Sequence[processes.Use], Sequence[processes.Use]]:
    warm = uses[int(len(uses) * WARM_UP) :]
    size = max(1, len(warm) // 3)
    return warm[:size], warm[-size:]


def _most(uses: Sequence[processes.Use]) -> str:
    return (
        f"{max(use.pss_kib for use in uses)} KiB in all, {max(use.descriptors for use in uses)} descriptors, "
        f"{max(use.threads for use in uses)} threads"
    )


def _losses(run: Soak) -> list[str]:
    """Compare the trail with what the far ends and the client saw."""
    records = run.sbx.records(NAME)
    seen = [json.loads(line) for line in (run.project / "seen.jsonl").read_text().splitlines()]
    problems = [f"the client inside: {line}" for line in seen if "problem" in line]
    refused = [line["refused"] for line in seen if "refused" in line]
    denied = Counter(record["event"] for record in records if record.get("decision") == "deny")
    problems += [f"the refusal {event} is on record {denied[event]} times" for event in refused if denied[event] != 1]
    allowed = [record for record in records if record["kind"] == "connection" and record["decision"] == "allow"]
    closed = Counter(record["event"] for record in records if record["kind"] == "closed")
    problems += [
        f"{each['event']} ended {closed[each['event']]} times" for each in allowed if closed[each["event"]] != 1
    ]
    by_port = Counter(record["port"] for record in allowed)
    problems += [
        f"{count} connections arrived at {name}, {by_port[port]} permissions are on record"
        for name, port in run.ports.items()
        if (count := run.ends.accepted[port]) > by_port[port] or (name == "forbidden" and count)
    ]
    tunnels = {record["event"] for record in allowed if record["port"] == run.ports["tunnel"]}
    sent = sum(record["bytes_up"] for record in records if record["kind"] == "closed" and record["event"] in tunnels)
    if sent != run.ends.heard[run.ports["tunnel"]]:
        problems.append(f"{sent} bytes are on record, {run.ends.heard[run.ports['tunnel']]} arrived")
    verified = run.sbx("policy", "log", NAME, "--verify")
    if verified.status != 0 or "unbroken" not in verified.out:
        problems.append(f"the chain does not verify: {verified.out}{verified.err}")
    _summarize(run, records, seen, refused)
    return problems


def _summarize(
    run: Soak, records: Sequence[Mapping[str, Any]], seen: Sequence[Mapping[str, Any]], refused: Sequence[str]
) -> None:
    steps = sum(line.get("turns", 0) for line in seen)
    switches = sum(record["kind"] == "generation-switched" for record in records)
    say(
        f"{steps} steps inside, {sum(run.ends.accepted.values())} connections arrived, {len(refused)} refusals named "
        f"their record, {switches} generations, {len(records)} records"
    )


if __name__ == "__main__":
    sys.exit(main())
