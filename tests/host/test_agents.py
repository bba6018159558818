"""An agent of one's own, from its file to what it finds inside and may reach."""

from __future__ import annotations

import http.server
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.installation import at_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.installation import Installation

SECRET = "no-log-ever-holds-this-4711"
SHOW = "cat ~/.tool/settings.json; echo; echo quiet=$TOOL_QUIET key=${#TOOL_KEY}"
OWN = f"""\
description = "a tool"
command = ["/bin/sh", "-c", '{SHOW}; echo attached "$@"', "tool"]
headless = ["/bin/sh", "-c", 'echo asked "$1"; cat', "tool"]
hosts = ["localhost:PORT"]
login = [".tool/login"]
keys = ["TOOL_KEY", "TOOL_TOKEN"]
instructions = ".tool/ABOUT.md"

[environment]
TOOL_QUIET = "yes"

[files]
".tool/settings.json" = '{{"trusted": "{{workspace}}"}}'
"""


class _Service(http.server.BaseHTTPRequestHandler):
    """A service on the host that says hello."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"hello\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """Run a service on the host's loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def agents(sbx: Installation, port: int) -> Path:
    """Make the user's folder of agents, with `tool` in it."""
    folder = sbx.home / "config" / "sandhold" / "agents"
    folder.mkdir(parents=True)
    (folder / "tool.toml").write_text(OWN.replace("PORT", str(port)))
    return folder


@pytest.fixture
def lab(sbx: Installation, agents: Path, project: Path) -> Installation:
    """Make a sandbox for it."""
    assert agents.is_dir()
    sbx.ok("create", "--name", "lab", "tool", str(project))
    return sbx


def test_it_finds_its_home_as_its_file_says(lab: Installation, project: Path) -> None:
    """Settings know the workspace, the environment is there, and the agent can read where it is."""
    said = lab.ok("run", "lab", "--", "--fast").splitlines()
    assert json.loads(said[0]) == {"trusted": str(project)}
    assert said[1:] == ["quiet=yes key=0", "attached --fast"]
    told = lab.ok("exec", "lab", "cat", "/home/agent/.tool/ABOUT.md")
    assert "`lab`" in told
    assert "403" in told
    assert lab.ok("exec", "lab", "stat", "-c", "%U %a", "/home/agent/.tool/ABOUT.md") == "agent 644\n"


def test_what_the_agent_made_of_its_home_stays(lab: Installation) -> None:
    """A file that is there is left alone, and so is a link that leads nowhere."""
    lab.ok("exec", "lab", "sh", "-c", "echo mine >~/.tool/settings.json; ln -sf /nowhere/at/all ~/.tool/ABOUT.md")
    assert lab.ok("run", "lab").startswith("mine\n")
    assert lab.ok("exec", "lab", "readlink", "/home/agent/.tool/ABOUT.md") == "/nowhere/at/all\n"


def test_a_home_that_cannot_be_furnished_is_no_reason_to_stop(lab: Installation) -> None:
    """The log says so, and the sandbox starts."""
    lab.ok("exec", "lab", "sh", "-c", "rm -r ~/.tool; echo a file >~/.tool")
    assert "attached" in lab.ok("run", "lab")
    assert "could not be placed in the home" in lab.ok("logs", "lab")


def test_one_prompt_is_one_run_without_input(lab: Installation) -> None:
    """`--prompt` starts the agent its headless way, with nothing to read."""
    assert lab("run", "--prompt", "do it; now", "lab", given="typed\n").out == "asked do it; now\n"


def test_its_rules_are_its_sandboxs_alone(lab: Installation, project: Path, port: int) -> None:
    """They are listed under its name, checked and enforced for its sandbox, and for no other."""
    lab.ok("create", "--name", "other", "shell", str(project))
    assert "agent:tool" not in lab.ok("policy", "ls", "other")
    assert lab("policy", "check", "network", f"localhost:{port}", "--sandbox", "other").status == 1
    assert lab("policy", "check", "network", f"localhost:{port}").status == 1
    assert "agent:tool" in lab.ok("policy", "check", "network", f"localhost:{port}", "--sandbox", "lab")
    rows = [line.split() for line in lab.ok("policy", "ls", "lab").splitlines()]
    assert ["agent:tool", "network", "allow", f"localhost:{port}", "(only", "lab)"] in rows
    url = f"http://host.docker.internal:{port}/"
    assert lab("exec", "other", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url).out == "403"
    assert lab.ok("exec", "lab", "curl", "-sS", url) == "hello\n"
    assert {record["rule"] for record in lab.records("lab") if record.get("rule")} == {"agent:tool"}


def test_a_deny_rule_beats_its_rules_and_so_does_deny_all(lab: Installation, port: int) -> None:
    """What the user says counts more than what an agent's file says."""
    asked = ("exec", "lab", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}")
    url = f"http://host.docker.internal:{port}/"
    lab.ok("policy", "deny", "network", f"localhost:{port}")
    assert lab(*asked, url).out == "403"
    lab.ok("policy", "rm", "network", "--resource", f"localhost:{port}")
    assert lab(*asked, url).out == "200"
    lab.ok("policy", "init", "deny-all")
    assert lab(*asked, url).out == "403"


def test_a_file_that_broke_denies_and_says_where(lab: Installation, agents: Path, port: int) -> None:
    """What an agent may reach is not known then: a running sandbox that takes it over denies everything."""
    lab.ok("run", "-d", "lab")
    asked = ("exec", "lab", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}")
    assert lab(*asked, f"http://host.docker.internal:{port}/").out == "200"
    (agents / "tool.toml").write_text(f"{OWN}nonsense = 1\n".replace("PORT", str(port)))
    lab.ok("policy", "allow", "network", "example.com", "--now")
    assert lab(*asked, f"http://host.docker.internal:{port}/").out == "403"
    lab.ok("stop", "lab")
    done = lab("run", "lab")
    assert done.status != 0
    assert "tool.toml`, line" in done.err
    assert "`nonsense`" in done.err


def test_a_key_is_asked_for_and_its_name_kept(lab: Installation) -> None:
    """Without one the user is told which; `-e NAME` gives the host's, for later runs too, as it is then."""
    done = lab("run", "lab")
    assert "needs a key: set `TOOL_KEY` or `TOOL_TOKEN` and run `sbx run -e TOOL_KEY lab`" in done.err
    with_key = replace(lab, extra={"TOOL_TOKEN": SECRET})
    assert "you have `TOOL_TOKEN`: `sbx run -e TOOL_TOKEN lab`" in with_key("run", "lab").err
    with_key = replace(lab, extra={"TOOL_KEY": SECRET})
    done = with_key("run", "-e", "TOOL_KEY", "lab")
    assert ("needs a key" in done.err, f"key={len(SECRET)}" in done.out) == (False, True)
    done = with_key("run", "lab")
    assert ("needs a key" in done.err, f"key={len(SECRET)}" in done.out) == (False, True)
    assert "key=3" in replace(lab, extra={"TOOL_KEY": "new"}).ok("run", "lab")
    done = lab("run", "lab")
    assert ("`TOOL_KEY` is not set here" in done.err, "key=0" in done.out) == (True, True)
    assert "key=5" in lab.ok("run", "-e", "TOOL_KEY=typed", "lab")
    assert "key=5" in with_key.ok("run", "lab")


def test_a_login_is_as_good_as_a_key(lab: Installation) -> None:
    """An agent that signed in inside is not told that it has no key."""
    lab.ok("exec", "lab", "touch", "/home/agent/.tool/login")
    assert "key" not in lab("run", "lab").err


def test_a_key_is_on_no_command_line_and_in_no_file(lab: Installation) -> None:
    """While a command has it, no process has it among its words, none but that command and who typed it has it in its
    environment, and nothing that is written down has it."""
    with_key = replace(lab, extra={"TOOL_KEY": SECRET})
    with_key.ok("run", "-d", "-e", "TOOL_KEY", "lab")
    with at_terminal(with_key, "exec", "-it", "lab", "sh", "-c", "echo has ${#TOOL_KEY}; read line") as terminal:
        terminal.expect(f"has {len(SECRET)}")
        assert _holding("cmdline") == []
        assert [words for words in _holding("environ") if b"echo has" not in words] == []
        terminal.type("\n")
        terminal.wait()
    lab.ok("stop", "lab")
    shown = lab.ok("inspect", "lab") + lab.ok("logs", "lab") + json.dumps(lab.records("lab"))
    assert SECRET not in shown
    assert "TOOL_KEY" in shown
    assert [path.name for path in lab.home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []


def test_a_value_that_was_typed_is_kept_for_its_owner_alone(lab: Installation) -> None:
    """`-e NAME=VALUE` is kept where nobody else can read, and shown nowhere."""
    lab.ok("run", "-e", f"TOOL_KEY={SECRET}", "lab")
    assert SECRET not in lab.ok("inspect", "lab") + lab.ok("logs", "lab") + json.dumps(lab.records("lab"))
    holding = [path for path in lab.state.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert {path.name.split("-")[0] for path in holding} == {"sandhold.db"}
    assert {path.stat().st_mode & 0o077 for path in lab.state.glob("sandhold.db*")} == {0}


def _holding(what: str) -> list[bytes]:
    """Return the words of the processes that have the secret in `/proc/PID/what`."""
    found = [path for path in Path("/proc").glob(f"[0-9]*/{what}") if SECRET.encode() in _bytes_of(path)]
    return [_bytes_of(path.with_name("cmdline")) for path in found]


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it ended meanwhile
