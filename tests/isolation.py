"""The kinds of cell there are, for tests that hold for each of them.

A test that uses the fixture `isolation`, by itself or through another fixture, runs once for each kind. A microVM is
emulated where no processor runs one, which takes seconds to boot and ten times the time for all that happens inside, so
its runs belong to `--long` but for tests marked `short`. What only one kind can promise is marked with the reason:
`namespaces_only("...")`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from sandhold.linux.process import find_program

if TYPE_CHECKING:
    from _pytest.mark.structures import ParameterSet

MICROVM_PROGRAMS: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mkfs.erofs": "erofs-utils",
    "mkfs.ext4": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of cell, and the template that starts quickest in it."""

    name: str
    template: str

    @property
    def flags(self) -> tuple[str, ...]:
        """What `create` and `run` need for this kind."""
        return ("--isolation", self.name)

    @property
    def quickest(self) -> tuple[str, ...]:
        """What `create` and `run` need for a sandbox whose programs do not matter."""
        return (*self.flags, "--template", self.template)

    @property
    def is_microvm(self) -> bool:
        """Whether it has a kernel of its own."""
        return self.name == "microvm"


NAMESPACES: Final = Kind("namespaces", "host")
MICROVM: Final = Kind("microvm", "debian")


def microvm_lacks() -> str:
    """Return what this machine lacks for a microVM, in words; empty when it has all."""
    if os.uname().machine != "x86_64":
        return "virtual machines are made for x86_64 only"
    missing = [package for program, package in MICROVM_PROGRAMS.items() if find_program(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return ""


def kinds_for(definition: pytest.Function) -> list[ParameterSet]:
    """Return the kinds that a test runs against, as its parameters."""
    namespaces = pytest.param(NAMESPACES, id=NAMESPACES.name)
    if definition.get_closest_marker("namespaces_only") is not None:
        return [namespaces]
    lacks = microvm_lacks()
    marks = [pytest.mark.skipif(bool(lacks), reason=lacks or "nothing is missing")]
    if definition.get_closest_marker("short") is None:
        marks.append(pytest.mark.long)
    return [namespaces, pytest.param(MICROVM, id=MICROVM.name, marks=marks)]
