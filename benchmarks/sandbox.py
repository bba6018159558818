"""Ours under load, as shipped: a sandbox that `sbx run -d` started, with the load client as a program inside it.

Nothing is switched off and nothing is special: the policy is in the database, the trail is on disk and durable, the
client runs in the cell as an agent's program does. What is counted is the egress process, the session's proxy.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.processes import NotMeasuredError, tree
from benchmarks.subjects import Subject
from benchmarks.world import CLONE, HTTP_PORT, NAME, TUNNEL_PORT, WORK
from sandhold.model.cell_addresses import GATEWAY_IPV4, PROXY_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.world import World

TEMPLATE: Final = "debian"
PROXIED: Final = "proxied"
COMMAND_TIMEOUT_S: Final = 900.0  # building the template takes most of a minute, and ten times that on a busy machine


@dataclass(frozen=True, slots=True)
class Installation:
    """The command `sbx` of this clone, with state of its own and the templates of whoever runs this."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """What commands run with: no proxy, no setting of the user's but where templates lie."""
        data = os.environ.get("XDG_DATA_HOME", str(Path.home() / ".local" / "share"))
        kept = ("PATH", "LANG", "SSL_CERT_FILE")
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_DATA_HOME": data,
            "CI": "true",
        }

    @property
    def state(self) -> Path:
        """The folder of everything that lasts."""
        return self.home / "state" / "sandhold"

    def argv(self, *words: str) -> list[str]:
        """Return the command line of `sbx WORDS`, as the command that pip made for it."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return ["env", "-i", *variables, str(Path(sys.executable).with_name("sbx")), *words]

    def run(self, *words: str, folder: Path | None = None, cpu: int | None = None) -> str:
        """Run `sbx WORDS` to its end and return what it printed.

        Raises:
            NotMeasuredError: when it fails.
        """
        argv = self.argv(*words) if cpu is None else ["taskset", "-c", str(cpu), *self.argv(*words)]
        try:
            done = subprocess.run(
                argv,
                cwd=folder or self.home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NotMeasuredError(f"`sbx {' '.join(words)}` did not end") from error
        if done.returncode:
            raise NotMeasuredError(f"`sbx {' '.join(words)}`: {done.stderr.strip()[-300:]}")
        return done.stdout


def ensure_template() -> None:
    """Have the root file system that sandboxes start from, which takes a network to build.

    Raises:
        NotMeasuredError: when it cannot be built.
    """
    home = WORK / "home"
    home.mkdir(exist_ok=True)
    sbx = Installation(home)
    if not any(line.startswith(f"{TEMPLATE} ") for line in sbx.run("template", "ls").splitlines()):
        sbx.run("template", "build", TEMPLATE)


def installed(world: World) -> Installation:
    """Return an installation whose state, and so whose trail, is on the disk of this run."""
    home = world.disk / "home"
    home.mkdir(exist_ok=True)
    return Installation(home)


@contextlib.contextmanager
def sandbox(world: World, sbx: Installation, name: str, *, every_cpu: bool = False) -> Iterator[Path]:
    """Keep a sandbox running that may reach the far end; yields its workspace."""
    workspace = world.disk / f"workspace-{name}"
    workspace.mkdir()
    sbx.run("create", "--name", name, "shell", ".", "--allow-network", f"{NAME}:*", folder=workspace)
    try:
        # The processor is handed down to everything that the session starts; the client chooses its own.
        sbx.run("run", "-d", name, cpu=None if every_cpu else world.subject_cpu)
        yield workspace
    finally:
        sbx.run("rm", "-f", name)
        shutil.rmtree(workspace)


def is_running(sbx: Installation, name: str) -> bool:
    """Whether a sandbox has a session process."""
    return "session" in _find_pids(sbx, name)


def session_pids(sbx: Installation, name: str) -> dict[str, int]:
    """Return the process ids of a sandbox's session and of its egress.

    Raises:
        NotMeasuredError: when it has none.
    """
    found = _find_pids(sbx, name)
    if "egress" not in found:
        raise NotMeasuredError("no egress process is running")
    return found


def _find_pids(sbx: Installation, name: str) -> dict[str, int]:
    """Find a sandbox's session by what it was started with, and its egress among what the session has started."""
    words = (json.dumps(str(sbx.state)), f'"name": "{name}"')
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and all(word in _command_line(int(entry.name)) for word in words):
            session = int(entry.name)
            egress = [pid for pid in tree([session]) if pid != session and ".egress_pr" in _command_line(pid)]
            return {"session": session} | ({"egress": egress[0]} if egress else {})
    return {}


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""  # it has ended


@contextlib.contextmanager
def proxied(world: World, name: str = PROXIED) -> Iterator[Subject]:
    """Run a sandbox whose client asks the proxy inside, as peers are asked."""
    sbx = installed(world)
    with sandbox(world, sbx, name) as workspace:
        yield _subject(sbx, "sandhold", name, workspace, ("connect", f"{GATEWAY_IPV4}:{PROXY_PORT}", None))


@contextlib.contextmanager
def captured(world: World) -> Iterator[Subject]:
    """Run a sandbox whose client knows of no proxy: it connects to the far end by name, and is captured."""
    sbx = installed(world)
    with sandbox(world, sbx, "captured") as workspace:
        words = sbx.run("exec", "captured", "getent", "ahostsv4", NAME).split()
        yield _subject(sbx, "sandhold, captured", "captured", workspace, ("none", "", words[0]))


def _subject(sbx: Installation, title: str, name: str, workspace: Path, way: tuple[str, str, str | None]) -> Subject:
    via, proxy, address = way
    shutil.copy(WORK / "client", workspace / "client")
    return Subject(
        title,
        f"{address}:{TUNNEL_PORT}" if address else proxy,
        f"{address}:{HTTP_PORT}" if address else proxy,
        via,
        (session_pids(sbx, name)["egress"],),
        tuple(sbx.argv("exec", "-i", name, str(workspace / "client"))),
    )


def version() -> str:
    """Return what is measured: the version, and the commit when this is a clone."""
    words = ["git", "-C", str(CLONE), "log", "-1", "--format=%h"]
    with contextlib.suppress(OSError):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout.strip() or "no commit"
    return "no commit"
