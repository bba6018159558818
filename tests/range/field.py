"""The range: a host with sandboxes and a world round it that sees everything, in namespaces made for the tests."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sandhold.session import control
from tests.installation import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.installation import Installation

REPOSITORY: Final = Path(__file__).parents[2]
PROBE: Final = Path(__file__).with_name("probe.py").read_text()
WAIT_S: Final = 60.0

HOST: Final = "11.0.0.2"
HOST_IN_LAN: Final = "192.168.77.2"
LINKS: Final = """\
ip link set lo up
ip link set inet0 up
ip link set lan0 up
ip address add 11.0.0.2/24 dev inet0
ip address add 2600:1::2/64 dev inet0 nodad
ip address add 192.168.77.2/24 dev lan0
ip route add default via 11.0.0.1
ip -6 route add default via 2600:1::1
"""
WORLDS_LINKS: Final = """\
ip link set inet0 up
ip link set lan0 up
ip address add 11.0.0.1/24 dev inet0
ip address add 2600:1::1/64 dev inet0 nodad
ip address add 192.168.77.9/24 dev lan0
"""
POLICY: Final = (
    ("allow", "good.test", "shut"),
    ("allow", "*.files.test:443", "shut"),
    ("allow", "*.allowed.test:*", "shut"),
    ("allow", "ssh.good.test:22", "shut"),
    ("deny", "evil.test", "shut"),
    ("allow", "**", "wide"),
    ("deny", "evil.test", "wide"),
    ("deny", "localhost", "wide"),
    ("allow", "**", "open"),
    ("allow", "localhost:*", "open"),
)


class Place:
    """A process in namespaces of its own that is asked over its standard input and output."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"},
        )

    @property
    def pid(self) -> int:
        """The process whose namespaces they are."""
        return self._process.pid

    def enter(self, *, mounts: bool) -> tuple[str, ...]:
        """The words before a command that is to run there."""
        return ("nsenter", "--target", str(self.pid), "--net", *(("--mount",) if mounts else ()))

    def is_apart(self) -> bool:
        """Whether it has its namespaces already."""
        return os.readlink(f"/proc/{self.pid}/ns/net") != os.readlink("/proc/self/ns/net")  # noqa: PTH115

    def ask(self, **request: Any) -> str:
        """Send one line and return the answer's."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "a place of the range ended"
        return line

    def seen(self) -> list[str]:
        """What it saw since the last call."""
        found: list[str] = json.loads(self.ask(do="seen"))
        return found

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(WAIT_S)
        self._process.stdout.close()


class Prober:
    """A running `probe.py`, on the host or in a sandbox, which makes one attempt after the other. On the host it has a
    second's patience: what was sent has arrived, and not everything there answers."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def make(self, code: str) -> str:
        """Make an attempt; returns what the probe says of it.

        Raises:
            TimeoutError: when it says nothing in time.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], WAIT_S)[0]:
            raise TimeoutError(f"no end to {code}")
        line = self._process.stdout.readline()
        assert line, f"the probe ended at {code}"
        return str(json.loads(line))

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(WAIT_S)


@dataclass(frozen=True)
class Field:
    """The places, and `sbx` on the host of the range with its sandboxes: `shut` by the policy of the tests, `wide` that
    allows everything but two things, `open` that allows whatever a rule can allow, and `other`."""

    world: Place
    house: Place
    sbx: Installation
    project: Path
    probers: dict[tuple[str, str], Prober]

    def seen(self) -> list[str]:
        """What the world and the host's services saw since the last call."""
        return [*self.world.seen(), *self.house.seen()]

    def inside(self, sandbox: str, code: str, user: str = "agent") -> str:
        """Make an attempt inside a sandbox."""
        prober = self.probers.get((sandbox, user))
        if prober is None:
            words = ("exec", "-i", "-u", user, sandbox, "python3", "-I", "-W", "ignore", "-c", PROBE, "10.200.0.1", "8")
            prober = self.probers[sandbox, user] = Prober(self.sbx.argv(*words))
        return prober.make(code)

    def outside(self, code: str) -> str:
        """Make an attempt on the host of the range, past everything that we make."""
        prober = self.probers.get(("", ""))
        if prober is None:
            argv = [*self.house.enter(mounts=True), sys.executable, "-I", "-W", "ignore", "-c", PROBE, "127.0.0.1", "1"]
            prober = self.probers["", ""] = Prober(argv)
        return prober.make(code)

    def count_dropped(self, sandbox: str) -> None:
        """Have what was dropped put on record now, as `sbx verify` does."""
        channel = control.connect(self.sbx.state / "sandboxes" / sandbox)
        assert channel is not None
        with channel:
            channel.send(control.Count())
            channel.receive_reply(WAIT_S)


def build(installation: Installation, project: Path) -> Iterator[Field]:
    """Make the range and everything in it, and take it away again."""
    with ExitStack() as stack:
        world, house = Place("tests.range.world"), Place("tests.range.house")
        stack.callback(world.close)
        stack.callback(house.close)
        wait_until(lambda: world.is_apart() and house.is_apart(), "the places have namespaces of their own")
        for link in ("inet0", "lan0"):
            ends = f"link add {link} netns {house.pid} type veth peer name {link} netns {world.pid}"
            subprocess.run(["ip", *ends.split()], check=True)
        for line in WORLDS_LINKS.splitlines():
            subprocess.run([*world.enter(mounts=False), *line.split()], check=True)
        resolv_conf = installation.home / "resolv.conf"
        resolv_conf.write_text("nameserver 9.9.9.9\noptions timeout:2 attempts:1\n")
        assert world.ask(do="start") == "ready\n"
        assert house.ask(resolv_conf=str(resolv_conf), commands=LINKS.splitlines()) == "ready\n"
        field = Field(world, house, replace(installation, prefix=house.enter(mounts=True)), project, {})
        stack.callback(_stop, field)
        _start(field, project)
        yield field


def _start(field: Field, project: Path) -> None:
    for name in ("shut", "wide", "open", "other"):
        field.sbx.ok("create", "--name", name, "shell", str(project))
    for effect, resource, sandbox in POLICY:
        field.sbx.ok("policy", effect, "network", resource, "--sandbox", sandbox)
    for name in ("shut", "wide", "open", "other"):
        field.sbx.ok("run", "-d", name)


def _stop(field: Field) -> None:
    for prober in field.probers.values():
        prober.close()
    for name in field.sbx.ok("ls", "-q").split():
        field.sbx("rm", "-f", name)
