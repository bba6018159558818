"""An agent's file: what it may say, and where an error points."""

from __future__ import annotations

import pytest

from sandhold.agents.parsing import TEXT_BYTES_MAX, Recipe, parse_agent
from sandhold.errors import SbxError

WHOLE = """\
description = "a tool"
command = ["tool", "--yes"]
headless = ["tool", "do", "{prompt}", "--yes"]
unattended = ["--yes"]
hosts = ["api.example.com", "*.example.com:8443"]
login = [".tool/login.json"]
keys = ["TOOL_KEY"]
instructions = ".tool/ABOUT.md"

[template]
npm = ["@maker/tool@1.2.3"]
scripts = ["@maker/tool"]
node = "24.1.0"
apt = ["ripgrep"]

[environment]
TOOL_QUIET = "1"

[files]
".tool/settings.json" = "{}"
"""

REFUSED = {
    "what is no TOML": ('description = "a tool\n', "line 1"),
    "a missing description": ('command = ["a"]', "line 1: `description` is not a text"),
    "an empty description": ('command = ["a"]\ndescription = " "', "line 2: `description` is not a text"),
    "a missing command": ('description = "a"', "line 1: `command` is not a list of words"),
    "an empty command": ('description = "a"\ncommand = []', "line 2: `command` is not a list of words"),
    "a command that is one text": ('description = "a"\ncommand = "a b"', "line 2: `command` is not a list of words"),
    "an empty word": ('description = "a"\ncommand = ["a", ""]', "line 2: `command`"),
    "an unknown key": ('description = "a"\ncommand = ["a"]\n\nhost = ["b.test"]', "line 4: `host` is unknown"),
    "an unknown key of the template": (
        'description = "a"\ncommand = ["a"]\n[template]\npip = ["b"]',
        "line 4: `pip` is unknown",
    ),
    "a template that is no table": ('description = "a"\ncommand = ["a"]\ntemplate = "b"', "line 3: `template`"),
    "a package without a version": (
        'description = "a"\ncommand = ["a"]\n[template]\nnpm = ["tool"]',
        "line 4: `npm` has `tool`, which is not a package pinned to one version",
    ),
    "a package that is a tag": ('description = "a"\ncommand = ["a"]\n[template]\nnpm = ["tool@latest"]', "line 4"),
    "a package that is an option": ('description = "a"\ncommand = ["a"]\n[template]\nnpm = ["--x@1"]', "line 4"),
    "a package that is an option of apt's": ('description = "a"\ncommand = ["a"]\n[template]\napt = ["-o"]', "line 4"),
    "a node that is no version": ('description = "a"\ncommand = ["a"]\n[template]\nnode = "lts"', "line 4: `node`"),
    "a flag that stands nowhere": (
        'description = "a"\ncommand = ["a"]\nunattended = ["--yes"]',
        "line 3: `unattended` names `--yes`, which does not stand in `command`",
    ),
    "a flag that headless lacks": (
        'description = "a"\ncommand = ["a", "--yes"]\nheadless = ["a"]\nunattended = ["--yes"]',
        "does not stand in `headless`",
    ),
    "a host that is no resource": (
        'description = "a"\ncommand = ["a"]\nhosts = ["https://b.test"]',
        "line 3: `hosts` has `https://b.test`",
    ),
    "a host that no rule can open": ('description = "a"\ncommand = ["a"]\nhosts = ["169.254.169.254"]', "line 3"),
    "a path that leads out of the home": ('description = "a"\ncommand = ["a"]\nlogin = ["../b"]', "line 3: `login`"),
    "an absolute path": ('description = "a"\ncommand = ["a"]\ninstructions = "/etc/b"', "line 3: `instructions`"),
    "a file outside the home": ('description = "a"\ncommand = ["a"]\n[files]\n"a/../../b" = ""', "`files`"),
    "a file that is no text": ('description = "a"\ncommand = ["a"]\n[files]\n"b" = 1', "line 4: `b` is not a text"),
    "a file that is too long": (
        f'description = "a"\ncommand = ["a"]\n[files]\nb = "{"x" * (TEXT_BYTES_MAX + 1)}"',
        "line 4: `b` is not a text of at most",
    ),
    "a variable that is none": ('description = "a"\ncommand = ["a"]\n[environment]\n"A=B" = "1"', "`A=B` cannot name"),
    "a key that is no variable": ('description = "a"\ncommand = ["a"]\nkeys = ["A-B"]', "line 3: `keys` has `A-B`"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_with_its_place(text: str, message: str) -> None:
    """An error names the file, the line and the key."""
    with pytest.raises(SbxError) as caught:
        parse_agent("tool", "agents/tool.toml", text.encode())
    assert caught.value.message.startswith("`agents/tool.toml`")
    assert message in caught.value.message


def test_what_is_no_utf8_is_refused() -> None:
    """TOML is UTF-8."""
    with pytest.raises(SbxError, match=r"`a\.toml`: .*utf-8"):
        parse_agent("a", "a.toml", b"\xff")


@pytest.mark.parametrize("name", ["debian", "host"])
def test_an_agent_takes_no_name_of_another_template(name: str) -> None:
    """What starts from `debian` starts from Debian."""
    with pytest.raises(SbxError, match="is the name of a template"):
        parse_agent(name, "a.toml", WHOLE.encode())


def test_a_whole_file_is_read() -> None:
    """Every key arrives."""
    agent = parse_agent("tool", "a.toml", WHOLE.encode())
    assert (agent.name, agent.description, agent.command) == ("tool", "a tool", ("tool", "--yes"))
    assert agent.hosts == ("api.example.com", "*.example.com:8443")
    assert (agent.login, agent.keys) == ((".tool/login.json",), ("TOOL_KEY",))
    assert agent.instructions == ".tool/ABOUT.md"
    assert agent.recipe == Recipe(("@maker/tool@1.2.3",), ("@maker/tool",), "24.1.0", ("ripgrep",))
    assert agent.environment == (("TOOL_QUIET", "1"),)
    assert agent.files == ((".tool/settings.json", "{}"),)


PROMPTS = {
    "stands where it is named": ('["a", "{prompt}", "-x"]', ("a", "do it", "-x")),
    "comes last where it is not": ('["a", "-x"]', ("a", "-x", "do it")),
    "is one word, whatever is in it": ('["a"]', ("a", "do it")),
    "goes nowhere without a way to do one thing": ("[]", ()),
}


@pytest.mark.parametrize(("headless", "expected"), PROMPTS.values(), ids=PROMPTS)
def test_a_prompt(headless: str, expected: tuple[str, ...]) -> None:
    """The prompt of a headless run replaces `{prompt}`, or comes after the rest."""
    text = f'description = "a"\ncommand = ["a"]\nheadless = {headless}'
    assert parse_agent("a", "a.toml", text.encode()).headless_command("do it") == expected
