"""Every tool reaches an allowed host and gets a legible refusal from a denied one, with no proxy variable set."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from sandhold.session.furnish import trust
from sandhold.session.furnish.inside import INSTRUCTIONS_INSIDE, instructions
from tests.tools.cases import IN_THE_TEMPLATE, INSTALLATION, SLOWER, TO_INSTALL
from tests.tools.conftest import DENIED

if TYPE_CHECKING:
    from tests.tools.cases import Tool
    from tests.tools.conftest import Workshop

UNTRUSTED = re.compile(
    r"certificate|self.signed|x509|pkix|handshake|SSL_ERROR|unable to get local issuer", re.IGNORECASE
)


def asked(tool: Tool, url: str, *, bare: bool) -> str:
    """Return the script with the site in it, run with no variable but the path when it is to be `bare`."""
    script = tool.script.replace("{url}", url)
    if not bare:
        return f"cd ~; {script}"
    return f"cat >~/script <<'EOS'\n{script}\nEOS\ncd ~; env -i HOME=$HOME PATH=\"$PATH\" bash ~/script"


def check(workshop: Workshop, tool: Tool, *, bare: bool) -> None:
    """Ask the denied host, then the allowed one."""
    before = len(workshop.blocked())
    refused = workshop.run(asked(tool, DENIED, bare=bare))
    said = refused.out + refused.err
    assert tool.answer not in said
    assert not UNTRUSTED.search(said), said
    assert tool.refusal in said, said
    blocked = set(workshop.blocked()[before:])
    assert "denied.test" in blocked
    assert tool.calls_home or blocked == {"denied.test"}
    reached = workshop.run(asked(tool, workshop.allowed, bare=bare))
    assert tool.answer in reached.out, reached
    assert reached.status == 0, reached


def test_no_variable_names_a_proxy(workshop: Workshop) -> None:
    """What follows is not the work of proxy variables: there are none."""
    assert "proxy" not in workshop.run("env").out.lower()


def test_an_agent_finds_the_page_that_tells_where_it_is(workshop: Workshop) -> None:
    """The page and the bundle that variables name can be read by the agent and changed by nobody inside."""
    changed = workshop.run(f"echo x >> {INSTRUCTIONS_INSIDE}; rm {INSTRUCTIONS_INSIDE} {trust.BUNDLE}", user="root")
    assert changed.status != 0
    assert workshop.run(f"cat {INSTRUCTIONS_INSIDE}").out == instructions("tools")
    assert int(workshop.run(f"grep -c BEGIN {trust.BUNDLE}").out) > 1


LOGIN_SHELLS = {
    "a login shell": "bash -lc '{show}'",
    "a login shell of another kind": "sh -lc '{show}'",
    "a login shell in a login shell": "bash -lc \"bash -lc '{show}'\"",
    "a login shell of an emptied environment": "env -i HOME=$HOME bash -lc '{show}'",
    "a login of the same user": "sudo -iu agent sh -c '{show}'",
}


@pytest.mark.parametrize("words", LOGIN_SHELLS.values(), ids=LOGIN_SHELLS)
def test_login_shells_keep_the_path(workshop: Workshop, words: str) -> None:
    """Agents start their commands by login shells, which find what every other command finds, and in the same order."""
    found = workshop.run(words.format(show="printenv PATH")).out.strip()
    assert found == workshop.run("printenv PATH").out.strip()
    assert found.startswith("/home/agent/.local/bin:")


def test_login_shells_keep_a_path_that_was_given(workshop: Workshop) -> None:
    """A PATH that the user gave is that of login shells too, and root's own is none of the agent's."""
    given = workshop.sbx.ok("exec", "-e", "PATH=/opt/mine:/usr/bin:/bin", "tools", "bash", "-lc", "printenv PATH")
    assert given == "/opt/mine:/usr/bin:/bin\n"
    assert "/home/agent" not in workshop.run("bash -lc 'printenv PATH'", user="root").out
    assert "/home/agent" not in workshop.run("sudo -i printenv PATH").out


@pytest.mark.parametrize("tool", IN_THE_TEMPLATE.values(), ids=IN_THE_TEMPLATE)
def test_a_tool_of_the_template(workshop: Workshop, tool: Tool) -> None:
    """It reaches what is allowed and shows a refusal for what is not, and without a variable of ours where it can."""
    check(workshop, tool, bare=False)
    if tool.bare:
        check(workshop, tool, bare=True)


def test_the_distributions_own_command_works(workshop: Workshop) -> None:
    """Installing certificates anew, as a package does, succeeds and forgets nobody."""
    workshop.add("update-ca-certificates", "--fresh")
    check(workshop, IN_THE_TEMPLATE["curl"], bare=True)
    check(workshop, IN_THE_TEMPLATE["python urllib"], bare=True)


@pytest.fixture(scope="module")
def stocked(workshop: Workshop) -> Workshop:
    """Install the tools that the template lacks, from where everybody gets them."""
    for script in INSTALLATION:
        workshop.add("bash", "-c", script)
    return workshop


@pytest.mark.long
@pytest.mark.parametrize("tool", SLOWER.values(), ids=SLOWER)
def test_a_slower_tool_of_the_template(workshop: Workshop, tool: Tool) -> None:
    """The same holds for what takes its time, which are package managers."""
    test_a_tool_of_the_template(workshop, tool)


@pytest.mark.long
@pytest.mark.parametrize("tool", TO_INSTALL.values(), ids=TO_INSTALL)
def test_a_tool_that_was_installed(stocked: Workshop, tool: Tool) -> None:
    """The same holds for what people install from the registries."""
    test_a_tool_of_the_template(stocked, tool)


@pytest.mark.long
def test_trust_outlives_a_restart(stocked: Workshop) -> None:
    """What was installed and what the start adds stay together."""
    stocked.sbx.ok("stop", "tools")
    stocked.sbx.ok("run", "-d", "tools")
    check(stocked, TO_INSTALL["java"], bare=True)
    check(stocked, TO_INSTALL["wget"], bare=True)
