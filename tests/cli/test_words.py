"""What `sbx` says, to the letter: errors with what to type next, and tables as wide as the terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.installation import at_terminal, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.installation import Installation

ERRORS = {
    "an unknown command comes with the closest": (
        ("rnu",),
        2,
        "error: `sbx` has no command `rnu`\n\nhint: did you mean `sbx run`?\n",
    ),
    "an unknown command that resembles none": (
        ("frobnicate",),
        2,
        "error: `sbx` has no command `frobnicate`\n\nhint: `sbx --help` lists them\n",
    ),
    "the word `network` was forgotten": (
        ("policy", "allow", "example.com"),
        2,
        "error: `sbx policy allow` has no command `example.com`\n\n"
        "hint: did you mean `sbx policy allow network example.com`?\n",
    ),
    "an unknown flag": (
        ("ls", "--wat"),
        2,
        "error: `sbx ls` has no option `--wat`\n\nhint: `sbx ls --help` shows how it is used\n",
    ),
    "a flag comes with the closest": (
        ("ls", "--jsn"),
        2,
        "error: `sbx ls` has no option `--jsn`\n\nhint: did you mean `--json`?\n",
    ),
    "an argument is missing": (
        ("create",),
        2,
        "error: `sbx create` needs AGENT\n\nhint: `sbx create --help` shows how it is used\n",
    ),
    "a value is none of the choices": (
        ("policy", "init", "open"),
        2,
        "error: invalid value for `POSTURE`: `open` is not one of `balanced`, `allow-all`, `deny-all`\n\n"
        "hint: `sbx policy init --help` shows how it is used\n",
    ),
    "a rule that no rule can be": (
        ("policy", "deny", "network", "http://example.com/"),
        2,
        "error: `http://example.com/` cannot be a rule: a rule has no scheme\n\n"
        "hint: name the host and the port: `example.com:443`\n",
    ),
    "a duration without a unit": (
        ("policy", "allow", "network", "example.com", "--for", "30"),
        2,
        "error: `--for 30` is no duration\n\nhint: for example `30m`, `2h` or `7d`\n",
    ),
    "an unknown sandbox": (
        ("stop", "nosuch"),
        1,
        "error: no sandbox is called `nosuch`\n\nhint: create one with `sbx create --name nosuch shell .`\n",
    ),
    "neither a sandbox nor an agent": (
        ("run", "nosuch"),
        1,
        "error: no sandbox or agent is called `nosuch`\n\nhint: create one with `sbx create --name nosuch shell .`\n",
    ),
    "a name that no sandbox can have": (
        ("stop", "No Such"),
        1,
        "error: no sandbox is called `No Such`\n\nhint: create one with `sbx create --name NAME shell .`\n",
    ),
    "a template that nobody can build": (
        ("template", "build", "nosuch"),
        1,
        "error: no template called `nosuch` can be built\n\n"
        "hint: `sbx template build debian`; `host` needs no building\n",
    ),
    "deleting without a terminal": (
        ("policy", "reset"),
        2,
        "error: `sbx policy reset` asks before it deletes, and nobody can be asked here\n\n"
        "hint: `sbx policy reset --force` does not ask\n",
    ),
}


@pytest.mark.parametrize(("words", "status", "said"), ERRORS.values(), ids=ERRORS)
def test_errors(sbx: Installation, words: tuple[str, ...], status: int, said: str) -> None:
    """An error says what is wrong and what to type next, on standard error, and prints no data."""
    done = sbx(*words)
    assert done.out == ""
    assert (done.status, done.err) == (status, said)


def test_a_rule_that_has_expired(sbx: Installation) -> None:
    """A rule is listed with the time it has left, and no more once it has none."""
    sbx.ok("policy", "allow", "network", "soon.test", "--for", "1s")
    sbx.ok("policy", "allow", "network", "later.test", "--for", "1h")
    wait_until(lambda: "soon.test" not in sbx.ok("policy", "ls"), "the rule has expired and is listed no more")
    assert "later.test" in sbx.ok("policy", "ls")
    assert "soon.test" not in sbx.ok("policy", "ls", "--json")


def test_a_host_that_is_denied(sbx: Installation) -> None:
    """`policy check` prints one line and exits with 1 when the answer is no."""
    denied, allowed = (
        sbx("policy", "check", "network", "Example.COM."),
        sbx("policy", "check", "network", "github.com:443"),
    )
    assert (denied.status, denied.out, denied.err) == (1, "BLOCKED   example.com:443   no-matching-rule\n", "")
    assert (allowed.status, allowed.out) == (
        0,
        "ALLOWED   github.com:443   default-code-and-containers (github.com:443)\n",
    )


def test_rules_fit_the_terminal(sbx: Installation) -> None:
    """On a terminal each rule takes one line, which says how many resources it leaves out."""
    with at_terminal(sbx, "policy", "ls") as terminal:
        terminal.resize(24, 90)
        assert terminal.wait() == 0
        lines = terminal.text.replace("\r", "").splitlines()
    assert [line for line in lines if len(line) > 90] == []
    assert re.fullmatch(r"default-ai-services +network   allow      \S+ \(\d+ in all\)", lines[1])
    assert lines[-1] == "posture: balanced (what no rule matches is denied)"


def test_sandboxes_fit_the_terminal(sbx: Installation) -> None:
    """On a terminal a long workspace loses its start; in a pipe and in JSON it is whole."""
    deep = sbx.home / ("a-folder-with-a-long-name-" * 4) / "end"
    deep.mkdir(parents=True)
    sbx.ok("create", "--template", "host", "--name", "lab", "shell", ".", folder=deep)
    with at_terminal(sbx, "ls") as terminal:
        terminal.resize(24, 90)
        assert terminal.wait() == 0
        lines = terminal.text.replace("\r", "").splitlines()
    assert [len(line) for line in lines[1:]] == [90]
    assert re.fullmatch(r"lab +shell   stopped   namespaces   1 +-       \.\.\.\S+-/end", lines[1])
    assert sbx.ok("ls").splitlines()[1].endswith(f" {deep}")


def test_rules_of_a_new_sandbox(sbx: Installation, project: Path) -> None:
    """`create` prints the name and nothing else as data, whatever rules came with it; a rule that cannot be leaves no
    sandbox behind; the same rules again change nothing."""
    words = ("create", "--template", "host", "--name", "lab", "--allow-network")
    refused = sbx(*words, "http://example.com", "shell", ".", folder=project)
    assert (refused.status, sbx.ok("ls", "-q")) == (2, "")
    assert sbx.ok(*words, "a.test,b.test:22", "--deny-network", "c.test", "shell", ".", folder=project) == "lab\n"
    local = [line.split()[2:4] for line in sbx.ok("policy", "ls", "lab").splitlines() if line.startswith("local:")]
    assert local == [["allow", "a.test"], ["allow", "b.test:22"], ["deny", "c.test"]]


def test_a_file_of_variables(sbx: Installation, project: Path) -> None:
    """A file of variables that is no text is refused in words, and makes nothing."""
    variables = project / "variables"
    variables.write_bytes(b"A=\xff\n")
    done = sbx("create", "--template", "host", "--env-file", str(variables), "shell", ".", folder=project)
    assert (done.status, done.err, sbx.ok("ls", "-q")) == (2, f"error: `{variables}` is not text in UTF-8\n", "")


def without_templates(sbx: Installation) -> Installation:
    """Return the installation with a folder of templates that nobody can make."""
    return sbx.__class__(sbx.home, sbx.home / "hello" / "data")


def test_no_template_can_be_built(sbx: Installation, project: Path) -> None:
    """Without a terminal, or with `--no-input`, a template that cannot be built is an error that names `host`."""
    (sbx.home / "hello").write_text("a file where a folder should be")
    broken = without_templates(sbx)
    for words in (("create", "shell", "."), ("run", "shell"), ("--no-input", "run", "shell")):
        done = broken(*words, folder=project)
        assert sbx.ok("ls", "-q") == ""
        assert (done.status, done.out) == (1, "")
        assert "error: the template `debian` cannot be built: " in done.err
        assert done.err.endswith("\n\nhint: `--template host` starts from the host's own programs instead\n")


ANSWERS = {"n\n": (1, ""), "\n": (1, ""), "\x04": (1, ""), "\x03": (130, ""), "y\n": (0, "shell-project\n")}


@pytest.mark.parametrize(("answer", "status", "names"), [(typed, *then) for typed, then in ANSWERS.items()])
def test_host_is_offered(sbx: Installation, project: Path, answer: str, status: int, names: str) -> None:
    """At a terminal the host's own programs are offered, and nothing but a yes takes them."""
    (sbx.home / "hello").write_text("a file where a folder should be")
    with at_terminal(without_templates(sbx), "create", "shell", ".", folder=project) as terminal:
        terminal.expect("start from the host's own programs instead (template host)? [y/N] ")
        terminal.type(answer)
        assert terminal.wait() == status
    assert sbx.ok("ls", "-q") == names
