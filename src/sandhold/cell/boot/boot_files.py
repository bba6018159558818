"""What a virtual machine boots from, made once and kept: a kernel with its first file system, and a template's image.

Rules:

1. A part is there whole or not at all: it is made in a folder beside it and renamed. One command makes parts at a time;
   others wait for it, and what a killed one left is deleted by the next.
2. A part's name says everything it was made from: another release, another list of modules or a rebuilt template gives
   another name, and no part is ever changed.
3. What is in use may be deleted: guests hold what they booted from open. Every file can be read by every user, because
   guests run as users of their own; the folder they are in cannot be entered by them. No file belongs to whom a guest
   runs as, so one that breaks out of its machine cannot open for writing what others start from.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.cell import tree
from sandhold.cell.boot.initramfs import INIT, make_initramfs
from sandhold.cell.boot.kernel_image import unpack_kernel
from sandhold.cell.boot.kernel_package import KERNEL_PACKAGES, MODULES, fetch_kernel
from sandhold.cell.boot.root_image import image_key, make_root_image
from sandhold.cell.images.rootfs import BUILD_S_MAX, host_source
from sandhold.cell.images.templates import find_template, list_templates
from sandhold.errors import SbxError
from sandhold.linux.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandhold.cell.images.rootfs import Progress, Source
    from sandhold.cell.spec import Template

DESCRIPTION: Final = "kernel.json"
DESCRIPTION_BYTES_MAX: Final = 4096  # three short fields
KERNEL_FORMAT: Final = 1
"""Changes when the same package has to give other files."""

_FILE_MODE: Final = 0o644
_LOCK: Final = ".lock"
_BUILDING: Final = ".building"
_KERNEL_PREFIX: Final = "kernel-"
_ROOT_PREFIX: Final = "root-"
_ROOT_SUFFIX: Final = ".erofs"


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What one guest boots from; `key` differs when any byte of it does."""

    kernel: Path
    initramfs: Path
    root_image: Path
    key: str


def find_boot_files(folder: Path, template: Template) -> BootFiles | None:
    """Return what is there for this template; None when a part has to be made first.

    Raises:
        SbxError: when no machine can start from such a template.
    """
    root_key = image_key(template)
    kernel = _kernel_folder(folder, host_source(Path("/etc")))
    kernel_key = _kernel_key(kernel)
    image = _root_image(folder, root_key)
    if kernel_key is None or not image.is_file():
        return None
    key = hashlib.sha256(f"{kernel_key} {root_key}".encode()).hexdigest()[:32]
    return BootFiles(kernel / "kernel", kernel / "initramfs", image, key)


def boot_files(folder: Path, template: Template, progress: Progress, *, renew: bool = False) -> BootFiles:
    """Return what a guest of this template boots from, and make what is missing; with `renew` the kernel is fetched
    anew.

    Raises:
        SbxError: when a part cannot be made, or the template is replaced meanwhile.
    """
    found = None if renew else find_boot_files(folder, template)
    if found is not None:
        return found
    with _building(folder) as (place, lock):
        source = host_source(Path("/etc"))
        if renew or _kernel_key(_kernel_folder(folder, source)) is None:
            _make_kernel(folder, place, source, lock, progress)
        _make_root_image(folder, place, template, progress)
    found = find_boot_files(folder, template)
    if found is None:
        raise SbxError("the template was replaced while its image was made", hint="run the command again")
    return found


def remove_unused(folder: Path, templates: Path) -> None:
    """Delete the images of templates that are gone, and kernels that this version would not boot.

    Raises:
        SbxError: when one cannot be deleted.
    """
    if not folder.is_dir():
        return
    with _building(folder):
        wanted = {_kernel_folder(folder, host_source(Path("/etc"))).name, *_image_names(folder, templates)}
        for path in folder.iterdir():
            if path.name.startswith((_KERNEL_PREFIX, _ROOT_PREFIX)) and path.name not in wanted:
                tree.delete_tree(path)


def boot_keys(folder: Path, templates: Path) -> frozenset[str]:
    """Return the keys of everything that is there for some template to boot from."""
    keys = set()
    for description in list_templates(templates):
        with suppress(SbxError):
            found = find_boot_files(folder, find_template(templates, description.name))
            if found is not None:
                keys.add(found.key)
    return frozenset(keys)


def _image_names(folder: Path, templates: Path) -> Iterator[str]:
    """Yield the names of the images that templates of the folder have, or would have."""
    for description in list_templates(templates):
        try:
            yield _root_image(folder, image_key(find_template(templates, description.name))).name
        except SbxError:
            continue  # `host`, or one whose base is gone: nothing starts from that


def _make_kernel(folder: Path, place: Path, source: Source, lock: int, progress: Progress) -> None:
    progress("fetching", "a kernel for virtual machines, once")
    package = fetch_kernel(source, place, lock, progress)
    try:
        kernel = unpack_kernel(package.image) or package.image
    except ValueError as error:
        raise SbxError(f"the kernel `{package.release}` cannot be used: {error}") from error
    initramfs = make_initramfs(package.shell, package.modules)
    made = place / "kernel"
    made.mkdir(mode=0o755)
    _write(made / "kernel", kernel)
    _write(made / "initramfs", initramfs)
    key = hashlib.sha256(hashlib.sha256(kernel).digest() + hashlib.sha256(initramfs).digest()).hexdigest()
    description = {"version": KERNEL_FORMAT, "release": package.release, "key": key}
    _write(made / DESCRIPTION, json.dumps(description).encode())
    tree.give_to_root(made / "kernel", made / "initramfs")
    target = _kernel_folder(folder, source)
    if target.exists():
        target.rename(place / "old")
    made.rename(target)


def _make_root_image(folder: Path, place: Path, template: Template, progress: Progress) -> None:
    target = _root_image(folder, image_key(template))
    if target.is_file():
        return
    progress("making", "the image of the root file system, once for each template")
    image = make_root_image(template, place)
    image.chmod(_FILE_MODE)
    tree.give_to_root(image)
    image.rename(target)


@contextmanager
def _building(folder: Path) -> Iterator[tuple[Path, int]]:
    """Be the only one who makes or deletes parts: gives an empty folder to make them in, and the lock's descriptor."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = folder / _BUILDING
    with ExitStack() as stack:
        lock = stack.enter_context((folder / _LOCK).open("wb")).fileno()
        try:
            stack.enter_context(locked(lock, BUILD_S_MAX))
        except TimeoutError:
            raise SbxError(
                "another command has been preparing virtual machines for half an hour", hint="end it, then try again"
            ) from None
        tree.delete_tree(place)
        place.mkdir(mode=0o755)
        try:
            yield place, lock
        finally:
            tree.delete_tree(place)


def _kernel_folder(folder: Path, source: Source) -> Path:
    """Return where the kernel of this release stands, by everything that its files were made from (rule 2)."""
    package = KERNEL_PACKAGES.get(os.uname().machine, "none")
    recipe = json.dumps([KERNEL_FORMAT, source.suite, package, MODULES, INIT])
    return folder / f"{_KERNEL_PREFIX}{source.suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"


def _root_image(folder: Path, key: str) -> Path:
    return folder / f"{_ROOT_PREFIX}{key}{_ROOT_SUFFIX}"


def _kernel_key(kernel: Path) -> str | None:
    """Return the digest of a kernel and its first file system; None when they are not there or not whole."""
    try:
        with (kernel / DESCRIPTION).open("rb") as file:
            fields = json.loads(file.read(DESCRIPTION_BYTES_MAX))
        return str(fields["key"]) if fields["version"] == KERNEL_FORMAT else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _write(path: Path, content: bytes) -> None:
    """Write a file that everybody may read, whatever the umask, and wait until it is on disk."""
    with path.open("wb") as file:
        os.fchmod(file.fileno(), _FILE_MODE)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
