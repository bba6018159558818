"""What every sandbox finds inside: how names resolve, whom to trust, an environment that says so to every tool, and a
page that tells an agent where it is.

No variable of the host gets in but those the user names with `-e`. No variable names a proxy: connections are captured
as they are, so a program that ignores such variables is served like one that honours them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from sandhold.cell.layout import AGENT_HOME
from sandhold.cell.spec import AGENT_USER, ROOT_USER, InjectedFile
from sandhold.errors import EXIT_NOT_HELD, SbxError
from sandhold.model import cell_addresses
from sandhold.session.furnish import trust

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandhold.cell.spec import Seed, Template

INSTRUCTIONS_INSIDE: Final = "/etc/sbx/AGENTS.md"
PROFILE: Final = "/etc/profile.d/sbx.sh"
BUNDLE_BYTES_MAX: Final = 16 * 1024 * 1024  # Mozilla's bundle is a quarter of a megabyte

_HOST_BUNDLES: Final = (  # Debian and Arch, Fedora, openSUSE, Alpine
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_BUNDLE_VARIABLES: Final = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cafile",
    "DENO_CERT",
    "CODEX_CA_CERTIFICATE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
    "HTTPLIB2_CA_CERTS",
)
_INSTRUCTIONS: Final = """\
# You are in a sandbox

This is sandbox `{sandbox}`, made by `sbx` on the user's own machine. The project folder is the user's own; everything
else in here belongs to the sandbox, and you may install packages and use `sudo` freely.

In the project, `.git/hooks` and `.git/config` are read-only as a rule: commits and branches work. Where git says that
it could not write `.git/config`, go on without; settings of your own go into `git config --global`.

## Network

The user's policy decides every connection, outside this sandbox, and every one is recorded. Nothing in here changes a
decision: no proxy setting, other tool, other name server, address or tunnel. Do not try them.

- A refused HTTP or HTTPS request gets status 403 and the header `x-sbx-decision: denied`. The body names the host, the
  reason, and the command with which the *user* can allow it; `curl -sS https://HOST/` shows it.
- A package manager says the same in its own words: `403 Forbidden`, or that it finds no such package or version.
- Any other TCP connection that is refused is reset. UDP and ICMP go nowhere: no HTTP/3, no `ping`.
- When something you need is refused: stop, do not retry. Tell the user which host and port you need, what for, and the
  command from the refusal, such as `sbx policy allow network HOST:443 --sandbox {sandbox}`. It is for the user's
  machine; there is no `sbx` in here.
- A service on the user's machine is `host.docker.internal:PORT` in here, once the user has allowed it with
  `sbx policy allow network localhost:PORT`.

Tools trust whom the user's machine trusts, and the sandbox's own authority (`{authority}`), which signs what
sbx itself answers. Never switch certificate checks off; a tool with a list of its own is given `{bundle}`.
"""
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROFILE: Final = f"""\
# A login shell, as agents start for each command: /etc/profile has just set PATH anew, and here it is again what every
# other command in this sandbox has. SBX_PATH is missing where `sudo` or `su` has cleared the environment.
if [ -n "${{SBX_PATH-}}" ]; then
    PATH=$SBX_PATH
elif [ "$(id -u)" -ne 0 ]; then
    PATH="${{HOME-}}/.local/bin:{_SYSTEM_PATH}"
fi
export PATH
"""


@dataclass(frozen=True, slots=True)
class Inside:
    """What a cell's root gets besides its template: files that stand read-only over it, and seeds of the layer."""

    files: tuple[InjectedFile, ...]
    seeds: tuple[Seed, ...]


def prepare(name: str, template: Template, authority: bytes, environ: Mapping[str, str]) -> Inside:
    """Return what sandbox `name` finds inside; `authority` is its certificate as PEM.

    Raises:
        SbxError: when the host has no bundle of certificate authorities.
    """
    hosts = f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {name}\n"
    resolver = f"nameserver {cell_addresses.GATEWAY_IPV4}\nnameserver {cell_addresses.GATEWAY_IPV6}\n"
    host, own = _host_bundle(environ), _read(template.root / trust.SYSTEM_BUNDLE.removeprefix("/"))
    files = (
        InjectedFile(PurePosixPath("/etc/hosts"), hosts.encode()),
        InjectedFile(PurePosixPath("/etc/hostname"), f"{name}\n".encode()),
        InjectedFile(PurePosixPath("/etc/resolv.conf"), resolver.encode()),
        InjectedFile(PurePosixPath(INSTRUCTIONS_INSIDE), instructions(name).encode()),
        InjectedFile(PurePosixPath(PROFILE), _PROFILE.encode()),
        *trust.injected(host, authority, own),
    )
    return Inside(files, trust.seeds(host, authority, own))


def instructions(sandbox: str) -> str:
    """Return what an agent is told of where it is, as Markdown."""
    return _INSTRUCTIONS.format(sandbox=sandbox, authority=trust.AUTHORITY, bundle=trust.BUNDLE)


def environment(user: str, given: Mapping[str, str], terminal: str | None, sandbox: str) -> tuple[tuple[str, str], ...]:
    """Return the whole environment of a command inside; what was `given` for this sandbox or command wins."""
    home = AGENT_HOME if user != ROOT_USER else "/root"
    path = _SYSTEM_PATH if user == ROOT_USER else f"{home}/.local/bin:{_SYSTEM_PATH}"
    variables = {
        "PATH": path,
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "SBX_SANDBOX": sandbox,
        "NODE_USE_SYSTEM_CA": "1",
        "UV_SYSTEM_CERTS": "1",
        **dict.fromkeys(_BUNDLE_VARIABLES, trust.BUNDLE),
    }
    if terminal is not None:
        variables["TERM"] = terminal or "xterm-256color"
    found = {**variables, **given}
    return tuple(sorted({"SBX_PATH": found["PATH"], **found}.items()))


def user_named(text: str) -> str:
    """Return the user inside that `-u` names.

    Raises:
        SbxError: when there is no such user.
    """
    aliases = {AGENT_USER: AGENT_USER, "1000": AGENT_USER, ROOT_USER: ROOT_USER, "0": ROOT_USER}
    if text not in aliases:
        raise SbxError(f"no user is called `{text}` inside", hint="use `-u agent` or `-u root`", status=2)
    return aliases[text]


def _host_bundle(environ: Mapping[str, str]) -> bytes:
    for candidate in (environ.get("SSL_CERT_FILE", ""), *_HOST_BUNDLES):
        bundle = _read(Path(candidate)) if candidate.startswith("/") else None
        if bundle is not None:
            return bundle
    raise SbxError(
        "this host has no bundle of certificate authorities",
        hint="install one: `sudo apt-get install ca-certificates`",
        status=EXIT_NOT_HELD,
    )


def _read(path: Path) -> bytes | None:
    """Return a bundle, None where there is none or a damaged one; what is beyond the limit is not read."""
    if not path.is_file():
        return None
    with path.open("rb") as bundle:
        return bundle.read(BUNDLE_BYTES_MAX)
