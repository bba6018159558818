"""What the scripted model does about "Install httpx and tell me the version", in the manner of a model that reads."""

from __future__ import annotations

import re
from typing import Final

from tests.agents.modelserver import Run, Say

PROMPT: Final = "Install httpx and tell me the version"
REFUSED: Final = "No matching distribution found for httpx"
MANAGED: Final = "externally-managed-environment"

_INSTALL: Final = "python3 -m pip install httpx"
_INSTALL_ANYWAY: Final = "python3 -m pip install --break-system-packages --no-cache-dir httpx"
_ASK_VERSION: Final = "python3 -c 'import httpx; print(httpx.__version__)'"
_VERSION: Final = re.compile(r"^(?:.*: )?(\d+\.\d+\.\d+)$", re.MULTILINE)


def install_httpx(results: tuple[str, ...]) -> Run | Say:
    """Install, meet the distribution's own packages, install beside them, and report what was printed last."""
    match results:
        case ():
            return Run(_INSTALL)
        case (first,) if MANAGED in first:
            return Run(_INSTALL_ANYWAY)
        case (_, second) if REFUSED not in second:  # an agent may leave out of a result what no failure stands in
            return Run(_ASK_VERSION)
        case (_, _, third) if version := version_in(third):
            return Say(f"httpx is installed, its version is {version}.")
    return Say(f"It did not work. The last lines were: {' '.join(results[-1].split()[-40:])}")


def version_in(text: str) -> str | None:
    """Return the version that a tool's result ends with."""
    found = _VERSION.findall(text)
    return str(found[-1]) if found else None
