"""Crash rounds: under load something is killed with SIGKILL at a random moment, and everything is counted afterwards.

`scripts/crash-rounds N [--seed S]` runs them. The oracle is what far ends saw, asked at the moment they saw it:

1. When somebody reaches a far end, the permission for that is in the trail's file already; likewise for each request.
2. Nobody ever reaches what no rule allows.
3. A refusal that a client was told of is on record, once.
4. No line that was in the trail is changed or gone afterwards, and the chain verifies.
5. Nothing that the killed part held up goes on: its processes end, and no far end hears from them again.
6. The next start works, the status is right before and after it, and by then each permission has its one end.
7. A policy change that was made is on record, and a command that was killed while it made one leaves a database that
   the next command reads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.store.verification import verify
from tests.installation import Installation, wait_until
from tests.load import processes
from tests.load.far_ends import FarEnds, echo, tls_echo
from tests.load.permissions import Permissions
from tests.tools.company import Company

if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Callable, Mapping, Sequence

CLIENTS: Final = 3
ROUNDS_PER_SANDBOX: Final = 20  # then a new one, so that no round reads the trail of all before it
PROGRESS_MAX: Final = 40  # connections that arrive before the kill, at most
MOMENT_S_MAX: Final = 0.03  # and the moment after the last of them
START_S_MAX: Final = 0.6  # a start takes about so long: a kill at any of its moments
GONE_S_MAX: Final = 60.0
INSIDE: Final = Path(__file__).with_name("mix_inside.py")

VICTIMS: Final[Mapping[str, int]] = {  # with their weights
    "session": 6,
    "egress": 5,
    "process 1": 7,
    "the command that runs the load": 3,
    "a policy change": 3,
    "a start": 3,
    "session and egress": 2,
}


@dataclass(slots=True)
class Lab:
    """One sandbox and what is known about it from outside."""

    sbx: Installation
    name: str
    ends: FarEnds
    clients: Sequence[Mapping[str, int]]
    permissions: Permissions
    problems: list[str] = field(default_factory=list)
    accepted_before: Counter[int] = field(default_factory=Counter)
    permitted_before: Counter[int] = field(default_factory=Counter)
    requested: Counter[int] = field(default_factory=Counter)
    requests_before: Counter[int] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def project(self) -> Path:
        """The workspace."""
        return self.sbx.home / self.name

    @property
    def trail(self) -> Path:
        """The trail's file."""
        return self.sbx.state / "audit" / f"{self.name}.jsonl"

    @property
    def forbidden(self) -> frozenset[int]:
        """The ports that no rule allows."""
        return frozenset(ports["forbidden"] for ports in self.clients)


def main() -> int:
    """Run as many rounds as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/crash-rounds", description="Kill parts of sandboxes under load.")
    parser.add_argument("rounds", type=int)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    _say(f"seed {seed}")
    tally = crash(given.rounds, seed)
    _say(f"{tally.rounds} rounds, {len(tally.problems)} problems; killed: {dict(tally.killed)}")
    _say(f"compared: {dict(tally.seen)}")
    return 1 if tally.problems else 0


@dataclass(slots=True)
class Tally:
    """How many rounds were run, what is wrong, what was killed how often, and how much was compared."""

    rounds: int = 0
    problems: list[str] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)


def crash(rounds: int, seed: int) -> Tally:
    """Run rounds until something is wrong."""
    chance = random.Random(seed)
    tally = Tally()
    home = Path(tempfile.mkdtemp(prefix="sbx-crash-"))
    home.chmod(0o755)
    sbx = Installation(home, home / "data")
    while tally.rounds < rounds and not tally.problems:
        _one_sandbox(sbx, f"lab{tally.rounds}", chance, min(ROUNDS_PER_SANDBOX, rounds - tally.rounds), tally)
        _say(f"{tally.rounds} of {rounds} rounds, {len(tally.problems)} problems")
    for problem in tally.problems:
        _say(f"FAILED: {problem}")
    if tally.problems:
        _say(f"what there was is kept in {home}")
    else:
        shutil.rmtree(home)
    return tally


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def _one_sandbox(sbx: Installation, name: str, chance: random.Random, rounds: int, tally: Tally) -> None:
    (sbx.home / name).mkdir()
    shutil.copy(INSIDE, sbx.home / name)
    permissions = Permissions(sbx.state / "audit" / f"{name}.jsonl")
    labs: list[Lab] = []
    with FarEnds(lambda port: _arrived(labs[0], port)) as ends:
        tls = tls_echo(Company(sbx.home / name).server_context("http/1.1"))
        talks = {
            "http": lambda sock, hear: _http(labs[0], sock, hear),
            "tls": tls, "tunnel": echo, "resets": echo, "flapping": echo, "forbidden": echo,
        }  # fmt: skip
        clients = [{what: ends.open(talk) for what, talk in talks.items()} for _ in range(CLIENTS)]
        lab = Lab(sbx, name, ends, clients, permissions)
        labs.append(lab)
        sbx.ok("create", "--template", "host", "--name", name, "shell", ".", folder=lab.project)
        allowed = [port for ports in clients for what, port in ports.items() if what != "forbidden"]
        sbx.ok("policy", "allow", "network", ",".join(f"localhost:{port}" for port in allowed), "--sandbox", name)
        try:
            for _ in range(rounds):
                victim = chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
                _round(lab, victim, chance)
                tally.rounds += 1
                tally.killed[victim] += 1
                tally.problems += [f"{name}, {victim} killed: {problem}" for problem in lab.problems]
                if tally.problems:
                    return
            said = sbx("policy", "log", name, "--verify")
            if said.status != 0 or "unbroken" not in said.out:
                tally.problems.append(f"{said.out}{said.err}")
        finally:
            lab.seen["connections"] = sum(ends.accepted.values())
            lab.seen["requests"] = sum(lab.requested.values())
            lab.seen["records"] = verify(lab.trail).records
            tally.seen += lab.seen
            sbx("rm", "-f", name)


def _round(lab: Lab, victim: str, chance: random.Random) -> None:
    """Load, kill, compare."""
    _check_recovered(lab)
    _count_anew(lab)
    load = _start_load(lab)
    try:
        base = sum(lab.ends.accepted.values())
        wanted = base + chance.randint(1, PROGRESS_MAX)
        wait_until(
            lambda: sum(lab.ends.accepted.values()) >= wanted or load.poll() is not None, f"{wanted - base} connections"
        )
        assert load.poll() is None, f"the load ended: {load.communicate()[0]}"
        _moment(chance.uniform(0, MOMENT_S_MAX))
        KILLS[victim](lab, load, chance)
    finally:
        load.kill()
        load.communicate()
    _compare(lab)


def _check_recovered(lab: Lab) -> None:
    """Start, whatever was before; then the sandbox runs and everything of before has its end (rule 6)."""
    lab.sbx.ok("run", "-d", lab.name)
    assert _status(lab) == "running"
    records = lab.sbx.records(lab.name)
    newest = max((at for at, each in enumerate(records) if each["kind"] == "session-started"), default=0)
    session = records[newest]["session"]
    before = [each for each in records if each["session"] != session]
    closed = Counter(each["event"] for each in before if each["kind"] == "closed")
    for each in before:
        if each.get("decision") == "allow" and each["kind"] != "lookup" and closed[each["event"]] != 1:
            lab.problems.append(f"{each['kind']} {each['event']} has {closed[each['event']]} ends")
    started, stopped = (sum(each["kind"] == kind for each in before) for kind in ("session-started", "session-stopped"))
    if stopped < started:  # a session that is killed while it starts may have an end and no start on record
        lab.problems.append(f"{started} starts and {stopped} ends of sessions are on record")


def _count_anew(lab: Lab) -> None:
    """Take what is permitted and has arrived as the state before this round: nothing is under way."""
    lab.permissions.read()
    lab.accepted_before = lab.ends.accepted.copy()
    lab.permitted_before = lab.permissions.connections.copy()
    lab.requests_before = lab.permissions.requests - lab.requested


def _arrived(lab: Lab, port: int) -> None:
    """Rules 1 and 2; called by the far end before anything is said, one call at a time."""
    lab.permissions.read()
    arrived = lab.ends.accepted[port] - lab.accepted_before[port]
    permitted = lab.permissions.connections[port] - lab.permitted_before[port]
    if arrived > permitted or port in lab.forbidden:
        lab.problems.append(f"{arrived} connections arrived at {port}, {permitted} permissions are on disk")


def _http(lab: Lab, sock: socket.socket, hear: Callable[[bytes], None]) -> None:
    """Answer requests, each of which must be on record by itself (rule 1)."""
    port = sock.getsockname()[1]
    pending = b""
    while data := sock.recv(65536):
        hear(data)
        pending += data
        while b"\r\n\r\n" in pending:
            _, _, pending = pending.partition(b"\r\n\r\n")
            with lab.ends.lock:
                lab.permissions.read()
                lab.requested[port] += 1
                if lab.requested[port] > lab.permissions.requests[port] - lab.requests_before[port]:
                    lab.problems.append(f"a request arrived at {port} without a record")
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


def _start_load(lab: Lab) -> subprocess.Popen[str]:
    seen = lab.project / "seen.jsonl"
    seen.unlink(missing_ok=True)
    orders = {"clients": lab.clients, "pace_s": 0, "seen": str(seen)}
    return lab.sbx.start("exec", lab.name, "python3", str(lab.project / INSIDE.name), json.dumps(orders))


def _moment(seconds: float) -> None:
    """Let a random moment pass: where in its work the victim is by then is the point of the round."""
    time.sleep(seconds)


def _kill_part(parts: Sequence[str], lab: Lab, _: subprocess.Popen[str], __: random.Random) -> None:
    """Kill parts of the session; all of it ends (rule 5)."""
    running = processes.parts(lab.sbx, lab.name)
    everything = [running[processes.SESSION], *processes.descendants(running[processes.SESSION])]
    for part in parts:
        with suppress(ProcessLookupError):
            os.kill(running[part], signal.SIGKILL)
    wait_until(lambda: all(map(processes.is_gone, everything)), f"everything ended with {parts}", GONE_S_MAX)
    wanted = ("lost",) if processes.SESSION in parts else ("stopped",)
    if (status := _status(lab)) not in wanted:
        lab.problems.append(f"the status is {status}, not {wanted}")


def _kill_command(lab: Lab, load: subprocess.Popen[str], _: random.Random) -> None:
    """Kill the user's command: what it ran ends, the sandbox goes on (rule 5)."""
    first = processes.parts(lab.sbx, lab.name)[processes.FIRST]
    load.kill()
    wait_until(lambda: not processes.children(first), "what the command ran has ended", GONE_S_MAX)
    if (status := _status(lab)) != "running":
        lab.problems.append(f"the status is {status}, not running")


def _kill_policy_change(lab: Lab, load: subprocess.Popen[str], chance: random.Random) -> None:
    """Kill a command that changes the policy, at any of its moments (rule 7); then the session."""
    resource = f"change{chance.randrange(1 << 32)}.test"
    change = lab.sbx.start("policy", "deny", "network", resource, "--sandbox", lab.name, "--now")
    _moment(chance.uniform(0.05, 0.35))
    change.kill()
    change.communicate()
    is_made = resource in lab.sbx.ok("policy", "ls", lab.name, "--wide")
    on_record = [each for each in lab.sbx.records(lab.name) if resource in each.get("resources", ())]
    on_hosts = [each for each in lab.sbx.records("_policy") if resource in each.get("resources", ())]
    if is_made and not (on_record and on_hosts):
        lab.problems.append(f"the change {resource} was made and is not on record")
    if not verify(lab.sbx.state / "audit" / "_policy.jsonl").is_intact:
        lab.problems.append("the trail of policy changes is broken")
    _kill_part((processes.SESSION,), lab, load, chance)


def _kill_start(lab: Lab, load: subprocess.Popen[str], chance: random.Random) -> None:
    """Kill a session while it starts, at any of its moments."""
    _kill_part((processes.SESSION,), lab, load, chance)
    start = lab.sbx.start("run", "-d", lab.name)
    _moment(chance.uniform(0, START_S_MAX))
    marker = f'"name": "{lab.name}"'.encode()
    found = [pid for pid in processes.children(start.pid) if marker in processes.command_line(pid)]
    everything = [each for pid in found for each in (pid, *processes.descendants(pid))]
    lab.seen["starts that were under way"] += len(found)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    start.communicate()
    wait_until(lambda: all(map(processes.is_gone, everything)), "everything ended with the start", GONE_S_MAX)


def _compare(lab: Lab) -> None:
    """Rules 3 and 4."""
    lab.permissions.read()
    if not lab.permissions.is_kept():
        lab.problems.append("a line that was in the trail is changed or gone")
    found = verify(lab.trail)
    if not found.is_intact:
        lab.problems.append(f"the chain is broken at line {found.broken_line}: {found.problem}")
    denied = Counter(each["event"] for each in lab.sbx.records(lab.name) if each.get("decision") == "deny")
    with suppress(FileNotFoundError):
        for line in (lab.project / "seen.jsonl").read_text().splitlines():
            said = json.loads(line)
            lab.seen["refusals"] += "refused" in said
            if "refused" in said and denied[said["refused"]] != 1:
                lab.problems.append(f"the refusal {said['refused']} is on record {denied[said['refused']]} times")
            if said.get("problem") in ("other bytes came back", "an answer came"):
                lab.problems.append(f"{said['step']}: {said['problem']}")


def _status(lab: Lab) -> str:
    rows = [line.split() for line in lab.sbx.ok("ls").splitlines()]
    return next(row[2] for row in rows if row[0] == lab.name)


KILLS: Final[Mapping[str, Callable[[Lab, subprocess.Popen[str], random.Random], None]]] = {
    "session": partial(_kill_part, (processes.SESSION,)),
    "egress": partial(_kill_part, (processes.EGRESS,)),
    "process 1": partial(_kill_part, (processes.FIRST,)),
    "session and egress": partial(_kill_part, (processes.SESSION, processes.EGRESS)),
    "the command that runs the load": _kill_command,
    "a policy change": _kill_policy_change,
    "a start": _kill_start,
}


if __name__ == "__main__":
    sys.exit(main())
