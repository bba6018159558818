"""What every sandbox finds inside: how names resolve, whom to trust, and an environment that says so to every tool.

No variable of the host gets in but those the user names with `-e`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from sandhold.cell.spec import AGENT_HOME, AGENT_USER, ROOT_USER, InjectedFile
from sandhold.errors import EXIT_NOT_HELD, SbxError
from sandhold.model import cell_addresses

if TYPE_CHECKING:
    from collections.abc import Mapping

BUNDLE_INSIDE: Final = "/etc/ssl/certs/ca-certificates.crt"
AUTHORITY_INSIDE: Final = "/etc/ssl/sbx/authority.crt"
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
)
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def injected_files(name: str, authority_certificate: bytes, environ: Mapping[str, str]) -> tuple[InjectedFile, ...]:
    """Return the files that stand read-only over the root file system of sandbox `name`.

    Raises:
        SbxError: when the host has no bundle of certificate authorities.
    """
    hosts = f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {name}\n"
    resolver = f"nameserver {cell_addresses.GATEWAY_IPV4}\nnameserver {cell_addresses.GATEWAY_IPV6}\n"
    bundle = _host_bundle(environ).rstrip() + b"\n" + authority_certificate
    return (
        InjectedFile(PurePosixPath("/etc/hosts"), hosts.encode()),
        InjectedFile(PurePosixPath("/etc/hostname"), f"{name}\n".encode()),
        InjectedFile(PurePosixPath("/etc/resolv.conf"), resolver.encode()),
        InjectedFile(PurePosixPath(BUNDLE_INSIDE), bundle),
        InjectedFile(PurePosixPath(AUTHORITY_INSIDE), authority_certificate),
    )


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
        **dict.fromkeys(_BUNDLE_VARIABLES, BUNDLE_INSIDE),
    }
    if terminal is not None:
        variables["TERM"] = terminal or "xterm-256color"
    return tuple(sorted({**variables, **given}.items()))


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
        if candidate.startswith("/") and Path(candidate).is_file():
            with Path(candidate).open("rb") as bundle:
                return bundle.read(BUNDLE_BYTES_MAX)
    raise SbxError(
        "this host has no bundle of certificate authorities",
        hint="install one: `sudo apt-get install ca-certificates`",
        status=EXIT_NOT_HELD,
    )
