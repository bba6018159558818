"""Templates: the root file systems that sandboxes start from, a folder each.

A template is `NAME/rootfs` and `NAME/template.json`. It appears whole or not at all: it is built in `.NAME.building`
beside it and renamed. Whoever builds or removes holds `.NAME.lock`; what a killed builder left is deleted by the next
one, who holds the lock by then. `host` is always there and is no folder.

Whether a sandbox still starts from a template is not known here: whoever removes one asks first.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.cell import rootfs, tree
from sandhold.cell.spec import Template, TemplateKind
from sandhold.errors import SbxError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandhold.cell.rootfs import Progress

HOST_TEMPLATE: Final = "host"
DEBIAN_TEMPLATE: Final = "debian"

TEMPLATE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
DESCRIPTION: Final = "template.json"
DESCRIPTION_VERSION: Final = 1
BUILD_BYTES_MIN: Final = 1200 << 20  # the packages and, beside them, what they unpack to
DESCRIPTION_BYTES_MAX: Final = 65_536  # a page of package names; more is no description of ours


@dataclass(frozen=True, slots=True)
class Description:
    """What a template is: `built_at` in seconds since the epoch, `size` in bytes on disk; None for the host."""

    name: str
    kind: TemplateKind
    built_at: float | None = None
    suite: str | None = None
    size: int | None = None
    packages: tuple[str, ...] = ()


HOST_DESCRIPTION: Final = Description(HOST_TEMPLATE, TemplateKind.HOST)


def list_templates(folder: Path) -> tuple[Description, ...]:
    """Return the host's own and every whole template of the folder, by name; a damaged one is left out."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = (_describe(folder, name) for name in names if TEMPLATE_NAME.fullmatch(name))
    return (HOST_DESCRIPTION, *(description for description in found if description is not None))


def find_template(folder: Path, name: str) -> Template:
    """Return what a cell starts from.

    Raises:
        SbxError: when there is no such template.
    """
    if name == HOST_TEMPLATE:
        return Template(TemplateKind.HOST, Path("/"))
    if not TEMPLATE_NAME.fullmatch(name) or _describe(folder, name) is None:
        raise _unknown(folder, name)
    return Template(TemplateKind.DIRECTORY, folder / name / "rootfs")


def build_template(folder: Path, name: str, *, now: float, progress: Progress) -> Description:
    """Build a template that is not there yet. `now` is in seconds since the epoch.

    Raises:
        SbxError: when the name is unknown or taken, another command is building it, or building fails.
    """
    if name != DEBIAN_TEMPLATE:
        raise SbxError(
            f"no template called `{name}` can be built",
            hint=f"`sbx template build {DEBIAN_TEMPLATE}`; `{HOST_TEMPLATE}` needs no building",
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(folder, name) as lock:
        return _build(folder / name, lock, now, progress)


def remove_template(folder: Path, name: str) -> None:
    """Remove a template, damaged ones too; nobody may be running from it.

    Raises:
        SbxError: when there is no such template, it is being built, or its files cannot be deleted.
    """
    if name == HOST_TEMPLATE:
        raise SbxError(f"`{HOST_TEMPLATE}` is this machine's own root file system and cannot be removed")
    if not TEMPLATE_NAME.fullmatch(name) or not (folder / name).is_dir():
        raise _unknown(folder, name)
    with _lock(folder, name):
        template = folder / name
        _delete_leftovers(template)
        template.rename(_removing(template))
        tree.delete_tree(_removing(template))


def _build(template: Path, lock: int, now: float, progress: Progress) -> Description:
    if template.exists():
        raise SbxError(f"template `{template.name}` exists", hint=f"`sbx template rm {template.name}` removes it")
    _delete_leftovers(template)
    building = _building(template)
    building.mkdir(mode=0o755)
    try:
        source = rootfs.host_source(Path("/etc"))
        rootfs.make_rootfs(source, building, lock, progress)
        size = tree.size_of(building / "rootfs")
        kind = TemplateKind.DIRECTORY
        description = Description(template.name, kind, now, source.suite, size, rootfs.PACKAGES)
        _write_description(building / DESCRIPTION, description)
        building.rename(template)
    except BaseException:
        tree.delete_tree(building)
        raise
    return description


def _check_space(folder: Path) -> None:
    """Refuse at once what would fail halfway: on a full disk the package manager waits and tries again for minutes."""
    free = shutil.disk_usage(folder).free
    if free < BUILD_BYTES_MIN:
        raise SbxError(
            f"`{folder}` has {free >> 20} MiB of free space, and building a template takes {BUILD_BYTES_MIN >> 20} MiB",
            hint=f"free some, or start from the host's own programs with `--template {HOST_TEMPLATE}`",
        )


@contextmanager
def _lock(folder: Path, name: str) -> Iterator[int]:
    """Hold the template's lock and return its descriptor; the kernel lets go of the lock when the last process that has
    the descriptor is gone (man page flock(2))."""
    with (folder / f".{name}.lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SbxError(
                f"another command is building or removing template `{name}`", hint="try again when it is done"
            ) from None
        yield file.fileno()


def _delete_leftovers(template: Path) -> None:
    for leftover in (_building(template), _removing(template)):
        tree.delete_tree(leftover)


def _building(template: Path) -> Path:
    return template.with_name(f".{template.name}.building")


def _removing(template: Path) -> Path:
    return template.with_name(f".{template.name}.removing")


def _write_description(path: Path, description: Description) -> None:
    """Write the description and wait until it is on disk: the rename that publishes it comes next."""
    with path.open("w", encoding="utf-8") as file:
        json.dump({"version": DESCRIPTION_VERSION, **asdict(description)}, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _describe(folder: Path, name: str) -> Description | None:
    """Read a template's description; None when it is missing, damaged or of a newer version."""
    try:
        with (folder / name / DESCRIPTION).open("rb") as file:
            fields = json.loads(file.read(DESCRIPTION_BYTES_MAX))
        if fields["version"] != DESCRIPTION_VERSION or not (folder / name / "rootfs").is_dir():
            return None
        return Description(
            name=name,
            kind=TemplateKind(fields["kind"]),
            built_at=float(fields["built_at"]),
            suite=str(fields["suite"]),
            size=int(fields["size"]),
            packages=tuple(str(package) for package in fields["packages"]),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _unknown(folder: Path, name: str) -> SbxError:
    names = ", ".join(f"`{description.name}`" for description in list_templates(folder))
    build = f"`sbx template build {DEBIAN_TEMPLATE}` makes `{DEBIAN_TEMPLATE}`"
    return SbxError(f"no template is called `{name}`", hint=f"there is {names}; {build}")
