"""What a sandbox finds inside says the same to every tool, and nothing of the host's own environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandhold.cell.spec import Template, TemplateKind
from sandhold.errors import SbxError
from sandhold.session.furnish import inside, trust
from tests.tools.company import Company

if TYPE_CHECKING:
    from pathlib import Path

PEM = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"


def test_no_variable_names_a_proxy() -> None:
    """Connections are captured as they are; a proxy variable would only mislead those that read it."""
    names = [name.lower() for name, _ in inside.environment("agent", {}, "xterm", "lab")]
    assert [name for name in names if "proxy" in name] == []


def test_nothing_of_the_host_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the host is not passed on."""
    monkeypatch.setenv("SOME_SECRET", "canary")
    assert "canary" not in dict(inside.environment("agent", {}, None, "lab")).values()


def test_what_is_given_wins() -> None:
    """The user's own value stands, also for what would be set anyway."""
    given = {"SSL_CERT_FILE": "/mine", "TERM": "dumb", "OTHER": "x"}
    variables = dict(inside.environment("agent", given, "xterm", "lab"))
    assert {name: variables[name] for name in given} == given


USERS = {"agent": ("agent", "/home/agent"), "root": ("root", "/root")}


@pytest.mark.parametrize(("user", "home"), USERS.values(), ids=USERS)
def test_every_list_of_authorities_is_one(user: str, home: str) -> None:
    """Each variable that replaces a tool's own list names the same bundle, for whoever runs it."""
    variables = dict(inside.environment(user, {}, None, "lab"))
    assert variables["HOME"] == home
    assert "TERM" not in variables
    lists = [name for name in variables if "CERT" in name or "CA_BUNDLE" in name or "CAINFO" in name]
    named = {variables[name] for name in lists if name != "UV_SYSTEM_CERTS"}  # a switch
    assert named == {trust.BUNDLE}


def test_what_stands_over_the_root(tmp_path: Path) -> None:
    """The host's own bundle, wherever the host says it is, reaches the sandbox with the authority after it."""
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(b"# the host's\n")
    found = inside.prepare("lab", Template(TemplateKind.DIRECTORY, tmp_path), PEM, {"SSL_CERT_FILE": str(bundle)})
    files = {str(file.path): file.content for file in found.files}
    assert files[trust.BUNDLE] == b"# the host's\n" + PEM
    assert b"127.0.1.1 lab\n" in files["/etc/hosts"]
    assert files["/etc/hostname"] == b"lab\n"
    assert files[inside.INSTRUCTIONS_INSIDE].decode() == inside.instructions("lab")
    assert trust.SYSTEM_BUNDLE in [str(seed.path) for seed in found.seeds]


def test_the_template_tells_which_roots_it_lacks(tmp_path: Path) -> None:
    """A template whose own bundle has all of the host's needs nothing more than the authority."""
    company = Company(tmp_path)
    own = tmp_path / trust.SYSTEM_BUNDLE.removeprefix("/")
    own.parent.mkdir(parents=True)
    environ = {"SSL_CERT_FILE": str(company.bundle)}
    for known, added in ((company.bundle.read_bytes(), 0), (company.bundle.read_bytes()[: -len(company.root_pem)], 1)):
        own.write_bytes(known)
        found = inside.prepare("lab", Template(TemplateKind.DIRECTORY, tmp_path), PEM, environ)
        assert len([file for file in found.files if "sbx-host-" in str(file.path)]) == added


def test_an_agent_is_told_what_a_refusal_looks_like() -> None:
    """The page names what the product really answers and the command that really helps, for this sandbox."""
    told = inside.instructions("lab")
    for fact in ("403", "x-sbx-decision: denied", "do not retry", "--sandbox lab", "host.docker.internal:PORT"):
        assert fact in told
    assert "{" not in told


NAMES = {"agent": "agent", "1000": "agent", "root": "root", "0": "root"}


@pytest.mark.parametrize(("text", "user"), NAMES.items(), ids=NAMES)
def test_users_inside(text: str, user: str) -> None:
    """A user is named or numbered."""
    assert inside.user_named(text) == user


def test_an_unknown_user_is_refused() -> None:
    """There are two."""
    with pytest.raises(SbxError, match="no user is called `nobody`"):
        inside.user_named("nobody")


def test_a_path_that_was_given_is_the_one_of_login_shells() -> None:
    """What login shells put back is the PATH that the command itself has, also where the user gave it."""
    variables = dict(inside.environment("agent", {"PATH": "/mine"}, None, "lab"))
    assert (variables["PATH"], variables["SBX_PATH"]) == ("/mine", "/mine")
