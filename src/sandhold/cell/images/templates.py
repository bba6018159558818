"""Templates: the root file systems that sandboxes start from, a folder each.

A template is `NAME/template.json` beside `NAME/rootfs`, or beside `NAME/layer` when it lies over another template,
which must be the very one it was made over (`base_built_at` says so): a layer names only what differs. It appears whole
or not at all: it is built in `.NAME.building` beside it and renamed. Whoever builds or removes holds `.NAME.lock`; what
a killed builder left is deleted by the next one, who holds the lock by then. `host` is always there and is no folder.

Whether a sandbox still starts from a template is not known here: whoever removes one asks first.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.cell import tree
from sandhold.cell.images import rootfs
from sandhold.cell.images.template_files import (
    DESCRIPTION,
    DESCRIPTION_BYTES_MAX,
    DESCRIPTION_VERSION,
    HOST_TEMPLATE,
    ROOT,
)
from sandhold.cell.spec import Template, TemplateKind
from sandhold.errors import SbxError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandhold.cell.images.rootfs import Progress

DEBIAN_TEMPLATE: Final = "debian"

TEMPLATE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
BUILD_BYTES_MIN: Final = 1200 << 20  # the packages and, beside them, what they unpack to
LAYER: Final = "layer"
LAYERS_MAX: Final = 4  # their paths must fit the 255 bytes that fsconfig(2) takes for a value


@dataclass(frozen=True, slots=True)
class Description:
    """What a template is: `built_at` in seconds since the epoch, `size` in bytes on disk; None for the host.

    `base` is the template that a layer lies over, and `base_built_at` when that one was built. `made_from` has the
    parts of an agent's recipe, `packages` what they led to.
    """

    name: str
    kind: TemplateKind
    built_at: float | None = None
    suite: str | None = None
    size: int | None = None
    packages: tuple[str, ...] = ()
    base: str | None = None
    base_built_at: float | None = None
    made_from: tuple[str, ...] = ()


HOST_DESCRIPTION: Final = Description(HOST_TEMPLATE, TemplateKind.HOST)


def list_templates(folder: Path) -> tuple[Description, ...]:
    """Return the host's own and every whole template of the folder, by name; a damaged one is left out."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = (_describe(folder, name) for name in names if TEMPLATE_NAME.fullmatch(name))
    return (HOST_DESCRIPTION, *(description for description in found if description is not None))


def find_template(folder: Path, name: str, *, above: int = 0) -> Template:
    """Return what a cell starts from; `above` is how many layers lie over it already.

    Raises:
        SbxError: when there is no such template.
    """
    if name == HOST_TEMPLATE:
        return Template(TemplateKind.HOST, Path("/"))
    description = _describe(folder, name) if TEMPLATE_NAME.fullmatch(name) else None
    if description is None:
        raise _unknown(folder, name)
    if description.base is None:
        return Template(TemplateKind.DIRECTORY, folder / name / ROOT)
    base = _describe(folder, description.base)
    if base is None or base.built_at != description.base_built_at or above >= LAYERS_MAX:
        raise SbxError(
            f"template `{name}` lies over a `{description.base}` that is gone",
            hint=f"`sbx template build {name}` makes an agent's again; one that was saved has lost its ground",
        )
    below = find_template(folder, base.name, above=above + 1)
    return Template(TemplateKind.DIRECTORY, below.root, (folder / name / LAYER, *below.layers))


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


def refuse_covered(folder: Path, name: str) -> None:
    """Refuse to take a template away that others lie over.

    Raises:
        SbxError: when there is one, naming it.
    """
    above = [description.name for description in list_templates(folder) if description.base == name]
    if above:
        raise SbxError(f"`{above[0]}` lies over `{name}`", hint=f"remove it first: `sbx template rm {above[0]}`")


@contextmanager
def building(folder: Path, name: str) -> Iterator[Path]:
    """Give a folder to build a template in; what `publish` did not take is deleted when the context is left.

    Raises:
        SbxError: when another command is building or removing it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(folder, name):
        _delete_leftovers(folder / name)
        place = _building(folder / name)
        place.mkdir(mode=0o755)
        try:
            yield place
        finally:
            tree.delete_tree(place)


def publish(place: Path, description: Description) -> None:
    """Make what was built the template it was built for; one that was there before is removed.

    Raises:
        SbxError: when the one before cannot be removed, after the new one took its place.
    """
    template = place.with_name(description.name)
    _write_description(place / DESCRIPTION, description)
    if template.exists():
        template.rename(_removing(template))
    place.rename(template)
    tree.delete_tree(_removing(template))


def remove_template(folder: Path, name: str) -> None:
    """Remove a template, damaged ones too; nobody may be running from it.

    Raises:
        SbxError: when there is no such template, it is being built, or its files cannot be deleted.
    """
    if name == HOST_TEMPLATE:
        raise SbxError(f"`{HOST_TEMPLATE}` is this machine's own root file system and cannot be removed")
    if not TEMPLATE_NAME.fullmatch(name) or not (folder / name).is_dir():
        raise _unknown(folder, name)
    refuse_covered(folder, name)
    with _lock(folder, name):
        template = folder / name
        _delete_leftovers(template)
        template.rename(_removing(template))
        tree.delete_tree(_removing(template))


def _build(template: Path, lock: int, now: float, progress: Progress) -> Description:
    if template.exists():
        raise SbxError(f"template `{template.name}` exists", hint=f"`sbx template rm {template.name}` removes it")
    _delete_leftovers(template)
    place = _building(template)
    place.mkdir(mode=0o755)
    try:
        source = rootfs.host_source(Path("/etc"))
        rootfs.make_rootfs(source, place, lock, progress)
        size = tree.size_of(place / ROOT)
        kind = TemplateKind.DIRECTORY
        description = Description(template.name, kind, now, source.suite, size, rootfs.PACKAGES)
        _write_description(place / DESCRIPTION, description)
        place.rename(template)
    except BaseException:
        tree.delete_tree(place)
        raise
    return description


def _check_space(folder: Path) -> None:
    """Refuse at once what would fail halfway: on a full disk the package manager waits and tries again for minutes."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
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
        kind = TemplateKind(fields["kind"])
        is_layer = kind is TemplateKind.LAYER
        if fields["version"] != DESCRIPTION_VERSION or not (folder / name / (LAYER if is_layer else ROOT)).is_dir():
            return None
        return Description(
            name=name,
            kind=kind,
            built_at=float(fields["built_at"]),
            suite=str(fields["suite"]),
            size=int(fields["size"]),
            packages=tuple(str(package) for package in fields["packages"]),
            base=_base_name(fields["base"]) if is_layer else None,
            base_built_at=float(fields["base_built_at"]) if is_layer else None,
            made_from=tuple(str(part) for part in fields.get("made_from", ())),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _base_name(text: str) -> str:
    if not TEMPLATE_NAME.fullmatch(text):
        raise ValueError(f"`{text}` names no template")
    return text


def _unknown(folder: Path, name: str) -> SbxError:
    names = ", ".join(f"`{description.name}`" for description in list_templates(folder))
    build = f"`sbx template build {DEBIAN_TEMPLATE}` makes `{DEBIAN_TEMPLATE}`"
    return SbxError(f"no template is called `{name}`", hint=f"there is {names}; {build}")
