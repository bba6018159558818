"""Which kind of cell a sandbox gets, what that kind needs first, and why it is not a better one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sandhold.cell.boot.boot_files import find_boot_files
from sandhold.cell.images.template_files import HOST_TEMPLATE
from sandhold.cell.images.templates import find_template
from sandhold.cell.machine import acceleration
from sandhold.cell.machine.qemu import MACHINE_PROGRAMS, PROCESSOR
from sandhold.errors import EXIT_NOT_HELD, EXIT_USAGE, SbxError
from sandhold.linux.process import find_program
from sandhold.model.sandbox import Isolation
from sandhold.session.building.templates import prepare_vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.cell.machine.acceleration import Verdict
    from sandhold.model.sandbox import Sandbox
    from sandhold.paths import Paths

_WITHOUT: Final = "leave `--require-kvm` out for an emulated machine, or use `--isolation namespaces`"
EMULATED: Final = "emulated, some ten times slower than this host"


def choose(paths: Paths, wish: str, template: str, *, needs_hardware: bool) -> Isolation:
    """Return the kind of cell for a wish: `auto`, `microvm` or `namespaces`.

    `auto` is a machine where this host runs them itself, which is tried once when there is something to boot, else
    namespaces.

    Raises:
        SbxError: when a machine is wished for that cannot be had.
    """
    verdict = acceleration.look(paths.vm)
    if wish == "auto" and not verdict.is_settled and _lacking(template) is None:
        from sandhold.session.trial import settle  # noqa: PLC0415  where no trial can tell more, none of it is needed

        verdict = settle(paths)
    if wish == Isolation.NAMESPACES:
        if needs_hardware:
            raise SbxError("`--require-kvm` is about machines", hint="add `--isolation microvm`", status=EXIT_USAGE)
        return Isolation.NAMESPACES
    if wish == Isolation.MICROVM or needs_hardware:
        _require_machine(template)
        if needs_hardware and verdict.is_settled:
            require_hardware(verdict, _WITHOUT)
        return Isolation.MICROVM
    return Isolation.MICROVM if verdict.is_hardware and _lacking(template) is None else Isolation.NAMESPACES


def prepare(paths: Paths, sandbox: Sandbox, now: float, show: Callable[[str], None]) -> None:
    """Make what a machine boots from, where this sandbox is one and it is not there.

    Raises:
        SbxError: when it cannot be made.
    """
    if sandbox.isolation is not Isolation.MICROVM:
        return
    _require_machine(sandbox.template)
    template = find_template(paths.templates, sandbox.template)
    if find_boot_files(paths.vm, template) is None:
        show("making what virtual machines start from, once; this takes about a minute")
        prepare_vm(paths, sandbox.template, now, show)


def why(paths: Paths, isolation: Isolation) -> str:
    """Return a sentence on the kind of cell that a sandbox has: how it runs, or why it is no machine."""
    verdict = acceleration.look(paths.vm)
    if isolation is Isolation.MICROVM:
        return "run by the processor itself" if verdict.is_hardware else f"{EMULATED}: {verdict.reason}"
    return "asked for" if verdict.is_hardware else verdict.reason


def require_hardware(verdict: Verdict, hint: str) -> None:
    """Refuse what is not to be emulated.

    Raises:
        SbxError: when this host does not run machines itself.
    """
    if not verdict.is_hardware:
        raise SbxError(f"no hardware virtualisation: {verdict.reason}", hint=hint, status=EXIT_NOT_HELD)


def _require_machine(template: str) -> None:
    lacking = _lacking(template)
    if lacking is not None:
        raise lacking


def _lacking(template: str) -> SbxError | None:
    """Return what keeps a sandbox of this template from being a machine here, None when nothing does."""
    if template == HOST_TEMPLATE:
        return SbxError(
            "a virtual machine has a kernel of its own and cannot start from this host's own programs",
            hint="leave `--template host` out, or use `--isolation namespaces`",
            status=EXIT_USAGE,
        )
    if os.uname().machine != PROCESSOR:
        return SbxError(
            f"virtual machines are made for {PROCESSOR} only, and this is {os.uname().machine}",
            hint="use `--isolation namespaces`",
            status=EXIT_NOT_HELD,
        )
    for program, package in MACHINE_PROGRAMS:
        if find_program(program) is None:
            return SbxError(
                f"virtual machines need `{program}`, which is not installed",
                hint=f"`sudo apt-get install {package}`, or use `--isolation namespaces`",
                status=EXIT_NOT_HELD,
            )
    return None
