"""The same story for an ordinary user who installed the project by its package, with no part of it run as root."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.installation import BUILD_TIMEOUT_S, Installation, change_users, wait_until
from tests.isolation import microvm_lacks
from tests.load import processes
from tests.walkthrough.story import tell

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHON = "/usr/bin/python3"  # the distribution's own: one that every user can run
CLONE = Path(__file__).resolve().parents[2]
PACKAGE = ("pyproject.toml", "README.md", "LICENSE", "src")


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Installation]:
    """Make a user of this host and an installation of theirs, from the package as `pip` builds it."""
    if os.geteuid() != 0:
        pytest.skip("the other tests of this folder run as an ordinary user already")
    name = f"sbx{secrets.token_hex(4)}"
    change_users("useradd", "--create-home", "--user-group", name)
    home = Path(f"~{name}").expanduser()
    uid = home.stat().st_uid
    prefix = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    try:
        _install(prefix, home, uid)
        yield Installation(home, home / "data", (str(home / "venv" / "bin" / "sbx"),), prefix)
    finally:
        sbx = Installation(home, home / "data", (str(home / "venv" / "bin" / "sbx"),), prefix)
        for sandbox in sbx("ls", "-q").out.split():
            sbx("rm", "-f", sandbox)
        change_users("userdel", "--remove", name)


@pytest.fixture(scope="module")
def with_machines(ordinary: Installation) -> Installation:
    """Have what this user's machines are made from, which on a busy host takes longer than any other command may."""
    ordinary.ok("template", "build", "--microvm", "debian", timeout_s=BUILD_TIMEOUT_S)
    return ordinary


def test_the_walk_through_as_an_ordinary_user(ordinary: Installation) -> None:
    """What the README tells happens for an ordinary user too, template, installation inside and all."""
    project = _project(ordinary, "project")
    ordinary.ok("create", "--name", "sbxlab", "shell", ".", folder=project, timeout_s=BUILD_TIMEOUT_S)
    tell(ordinary, project)
    written = "touch made; sudo -n touch made-by-root; id -un; sudo -n id -un"
    assert ordinary.ok("exec", "sbxlab", "bash", "-c", written) == "agent\nroot\n"
    assert (project / "made").stat().st_uid == ordinary.home.stat().st_uid
    assert (project / "made-by-root").stat().st_uid not in (0, ordinary.home.stat().st_uid)


def test_the_hosts_own_programs_as_an_ordinary_user(ordinary: Installation) -> None:
    """From the template `host` a sandbox starts at once, answers, and says what this user cannot have in it."""
    project = _project(ordinary, "other")
    ordinary.ok("create", "--template", "host", "--name", "quick", "shell", ".", folder=project)
    ordinary.ok("run", "-d", "quick")
    script = "touch made; curl -s -o /dev/null -w %{http_code} https://denied.example.com/"
    assert ordinary.ok("exec", "quick", "bash", "-c", script) == "403"
    assert (project / "made").stat().st_uid == ordinary.home.stat().st_uid
    assert any("sudo" in note for note in json.loads(ordinary.ok("inspect", "quick"))["notes"])
    ordinary.ok("rm", "-f", "quick")


@pytest.mark.long
@pytest.mark.skipif(microvm_lacks() != "", reason=microvm_lacks() or "nothing is missing")
def test_a_machine_as_an_ordinary_user(with_machines: Installation) -> None:
    """A virtual machine needs no right that the user has not: its network holds, and what it writes is the user's."""
    ordinary = with_machines
    project = _project(ordinary, "machine")
    ordinary.ok("create", "--isolation", "microvm", "--memory", "1g", "--name", "machine", "shell", ".", folder=project)
    ordinary.ok("run", "-d", "machine")
    refused = ordinary.ok(
        "exec", "machine", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://denied.test/"
    )
    assert refused == "403"
    assert ordinary.ok("exec", "machine", "sh", "-c", "touch made; sudo -n id -un") == "root\n"
    assert (project / "made").stat().st_uid == ordinary.home.stat().st_uid
    ordinary.ok("rm", "-f", "machine")


@pytest.mark.long
@pytest.mark.skipif(microvm_lacks() != "", reason=microvm_lacks() or "nothing is missing")
def test_what_a_machine_of_an_ordinary_user_holds(with_machines: Installation) -> None:
    """Read-only folders, git's hooks and configuration and what was synced hold there too, also when QEMU is killed,
    which the next command says; everything of the session is gone then, and nothing of it belongs to root."""
    ordinary = with_machines
    project, shown = _project(ordinary, "held-machine"), _project(ordinary, "shown")
    user = ordinary.home.stat().st_uid
    _git(ordinary, project, "init", "-q", "-b", "main")
    create = ("create", "--isolation", "microvm", "--memory", "1g", "--name", "held-machine")
    ordinary.ok(*create, "shell", ".", f"{shown}:ro", folder=project)
    script = f"echo x > .git/hooks/post-merge; echo x >> .git/config; mv .git g; echo x > {shown}/hello.txt; touch made"
    tried = ordinary("exec", "-u", "root", "held-machine", "bash", "-c", f"{script}; echo kept > /opt/kept; sync")
    assert tried.err.count("Read-only file system") == 3
    assert "Device or resource busy" in tried.err
    assert {path.stat().st_uid for path in (project / ".git").rglob("*")} == {user}
    assert ((shown / "hello.txt").read_text(), (project / "made").stat().st_uid) == ("hello from the host\n", user)
    ordinary.ok("stop", "held-machine")
    ordinary.ok("run", "-d", "held-machine")
    parts = processes.parts(ordinary, "held-machine")
    pids = [parts[processes.SESSION], *processes.descendants(parts[processes.SESSION])]
    assert 0 not in {Path(f"/proc/{pid}").stat().st_uid for pid in pids}
    os.kill(parts[processes.MACHINE], signal.SIGKILL)
    wait_until(lambda: all(map(processes.is_gone, pids)), "everything of the session has ended")
    again = ordinary("exec", "held-machine", "cat", "/opt/kept")
    assert (again.status, again.out) == (0, "kept\n")
    assert "before this one ended by itself" in again.err
    ordinary.ok("rm", "-f", "held-machine")


def test_a_branch_as_an_ordinary_user(ordinary: Installation) -> None:
    """An agent's work on a branch is the user's own to merge, and nothing that git obeys on the host can be written."""
    project = _project(ordinary, "repository")
    user = ordinary.home.stat().st_uid
    _git(ordinary, project, "init", "-q", "-b", "main")
    _git(ordinary, project, "config", "user.name", "Ordinary")
    _git(ordinary, project, "config", "user.email", "ordinary@example.com")
    _git(ordinary, project, "add", "--all")
    _git(ordinary, project, "commit", "-q", "-m", "one")
    words = ("run", "--branch", "fix", "--name", "branched", "--template", "host", "shell", "--", "-c")
    attempt = f"echo x > {project}/.git/hooks/post-merge || git config core.fsmonitor /bin/false || echo held"
    said = ordinary(*words, f"{attempt}; pwd; echo two > hello.txt; git commit -qam two", folder=project)
    assert "held\n" in said.out, said
    assert f"{ordinary.home}/data/sandhold/branches/branched/repository\n" in said.out
    assert "`git diff main...fix`" in said.err
    assert (project / "hello.txt").read_text() == "hello from the host\n"
    assert _git(ordinary, project, "status", "--porcelain") == ""
    assert _git(ordinary, project, "log", "-1", "--format=%an %s", "fix") == "Ordinary two\n"
    assert {path.stat().st_uid for path in (project / ".git").rglob("*")} == {user}
    _git(ordinary, project, "merge", "-q", "fix")
    assert (project / "hello.txt").read_text() == "two\n"
    ordinary.ok("rm", "branched")
    assert _git(ordinary, project, "worktree", "list", "--porcelain").count("worktree ") == 1


def _git(installation: Installation, folder: Path, *words: str) -> str:
    """Run git on the host as the ordinary user does."""
    variables = {"PATH": os.environ["PATH"], "HOME": str(installation.home), "GIT_CONFIG_NOSYSTEM": "1"}
    argv = [*installation.prefix, "git", *words]
    done = subprocess.run(argv, cwd=folder, env=variables, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def test_nothing_breaks_out_as_an_ordinary_user(ordinary: Installation) -> None:
    """What an ordinary user holds without any privilege of the host holds as well: `sbx verify` finds no way out."""
    project = _project(ordinary, "held")
    ordinary.ok("create", "--template", "host", "--name", "held", "shell", ".", folder=project)
    done = ordinary("verify", "--json", "held")
    verdicts = [json.loads(line) for line in done.out.splitlines()]
    assert [verdict for verdict in verdicts if verdict["verdict"] == "escaped"] == []
    assert len([verdict for verdict in verdicts if verdict["verdict"] == "contained"]) >= 30
    assert done.status == 0, done.err


def _project(installation: Installation, name: str) -> Path:
    folder = installation.home / name
    folder.mkdir()
    (folder / "hello.txt").write_text("hello from the host\n")
    for path in (folder, folder / "hello.txt"):
        shutil.chown(path, installation.home.stat().st_uid, installation.home.stat().st_gid)
    return folder


def _install(prefix: tuple[str, ...], home: Path, uid: int) -> None:
    source = home / "source"
    source.mkdir()
    for part in PACKAGE:
        (shutil.copytree if (CLONE / part).is_dir() else shutil.copy)(CLONE / part, source / part)
    _run("chown", "-R", f"{uid}:{uid}", str(source))
    environment = {**os.environ, "HOME": str(home)}
    _run(*prefix, PYTHON, "-m", "venv", str(home / "venv"), environment=environment)
    pip = (str(home / "venv" / "bin" / "pip"), "install", "--quiet", "--no-cache-dir")
    _run(*prefix, *pip, str(source), environment=environment)


def _run(*argv: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment, cwd="/", timeout=300)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
