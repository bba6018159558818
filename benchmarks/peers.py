"""What is compared with, installed: Debian's packages on the machine, PyPI's and npm's in folders of the benchmark.

Versions from PyPI and npm are pinned here; Debian's are those of the release, and the report names them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from benchmarks.processes import NotMeasuredError
from benchmarks.sandbox import ensure_template
from benchmarks.world import WORK, compile_load

if TYPE_CHECKING:
    from collections.abc import Sequence

INSTALL_TIMEOUT_S: Final = 900.0  # a slow mirror

DEBIAN: Final = {
    "squid": "squid",
    "haproxy": "haproxy",
    "nginx": "nginx",
    "libnginx-mod-stream": "",
    "tinyproxy": "tinyproxy",
    "privoxy": "privoxy",
    "bubblewrap": "bwrap",
    "runsc": "runsc",
    "nodejs": "node",
    "npm": "npm",
    "ripgrep": "rg",
    "socat": "socat",
    "gcc": "gcc",
    "libc6-dev": "",
    "util-linux": "unshare",
    "iproute2": "ip",
    "git": "git",
}
"""Package by package, the command that shows that it is there; without one, dpkg is asked."""

PYPI: Final = ("matplotlib==3.11.2", "mitmproxy==11.0.2", "proxy.py==2.4.10")
NPM: Final = ("@anthropic-ai/sandbox-runtime@0.0.83", "@openai/codex@0.169.0", "node@22.23.3")
_REPORTED: Final = ("squid", "haproxy", "nginx", "tinyproxy", "privoxy", "bubblewrap", "runsc")


def install() -> None:
    """Install whatever is missing, compile the load tools, build the template.

    Raises:
        NotMeasuredError: when we cannot be measured; a peer that cannot be installed is reported by its works.
    """
    WORK.mkdir(exist_ok=True)
    missing = [package for package, command in DEBIAN.items() if not _is_installed(package, command)]
    if missing:
        _try(["apt-get", "update", "-q"])
        _try(["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing])
    venv = WORK / "venv"
    if _stamp("venv") != "\n".join(PYPI):
        _try([sys.executable, "-m", "venv", "--clear", str(venv)])
        if _try([str(venv / "bin" / "pip"), "install", "-q", *PYPI]):
            _write_stamp("venv", "\n".join(PYPI))
    if _stamp("npm") != "\n".join(NPM):
        shutil.rmtree(WORK / "npm", ignore_errors=True)
        (WORK / "npm").mkdir()
        options = ["--prefix", str(WORK / "npm"), "--no-save", "--no-audit", "--no-fund", "--loglevel=error"]
        if _try(["npm", "install", *options, *NPM]):
            _write_stamp("npm", "\n".join(NPM))
    compile_load()
    ensure_template()


def versions() -> dict[str, str]:
    """Return the version of every peer."""
    found = {}
    for package in _REPORTED:
        words = ["dpkg-query", "-W", "-f", "${Version}", package]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        found[package] = done.stdout or "not installed"
    for pin in PYPI:
        name, _, version = pin.partition("==")
        found[name] = version
    for pin in NPM:
        name, _, version = pin.rpartition("@")
        found[name] = version
    return found


def _is_installed(package: str, command: str) -> bool:
    if command:
        return shutil.which(command, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is not None
    words = ["dpkg-query", "-W", "-f", "${Status}", package]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.endswith("ok installed")


def _try(argv: Sequence[str]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=2, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotMeasuredError(f"`{' '.join(argv)}`: {error}") from error
    return done.returncode == 0


def _stamp(name: str) -> str:
    path = WORK / f"{name}.installed"
    return path.read_text() if path.is_file() else ""


def _write_stamp(name: str, text: str) -> None:
    (WORK / f"{name}.installed").write_text(text)
