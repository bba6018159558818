"""A sandbox made of the host's own programs, and a far end it may reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.load.far_ends import FarEnds, echo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.installation import Installation

NAME = "lab"


@dataclass(frozen=True, slots=True)
class Lab:
    """A sandbox `lab`, stopped, and an echo on `port` that it may reach."""

    sbx: Installation
    ends: FarEnds
    port: int

    @property
    def trail(self) -> Path:
        """The trail's file."""
        return self.sbx.state / "audit" / f"{NAME}.jsonl"

    def status(self) -> str:
        """Return what `ls` says of it."""
        return next(line.split()[2] for line in self.sbx.ok("ls").splitlines() if line.split()[0] == NAME)


@pytest.fixture
def lab(sbx: Installation, project: Path) -> Iterator[Lab]:
    """Create it."""
    sbx.ok("create", "--template", "host", "--name", NAME, "shell", ".", folder=project)
    with FarEnds() as ends:
        port = ends.open(echo)
        sbx.ok("policy", "allow", "network", f"localhost:{port}")
        yield Lab(sbx, ends, port)
