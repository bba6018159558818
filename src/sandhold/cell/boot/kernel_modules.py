"""Kernel modules in an order in which each finds what it needs, as their own `.modinfo` sections say."""

from __future__ import annotations

import lzma
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.cell.boot.elf import read_section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MODULE_BYTES_MAX: Final = 64 << 20  # the largest driver of a distribution is a tenth of this
DEPTH_MAX: Final = 32  # no chain of modules is half as long; a ring of them would have no end
_FILE_NAME: Final = re.compile(r"([A-Za-z0-9_-]+)\.ko(\.xz|\.gz)?")


@dataclass(frozen=True, slots=True)
class Module:
    """A module that can be loaded: its name as the kernel writes it, and its unpacked file."""

    name: str
    content: bytes


def module_name(path: str) -> str | None:
    """Return the name of the module in a file; None when it is no module, or packed as Python's library cannot read."""
    found = _FILE_NAME.fullmatch(path.rpartition("/")[2])
    return found[1].replace("-", "_") if found else None


def unpack_module(path: str, content: bytes) -> bytes:
    """Return a module's file unpacked.

    Raises:
        ValueError: when it is damaged or larger than `MODULE_BYTES_MAX`.
    """
    try:
        if path.endswith(".xz"):
            content = lzma.LZMADecompressor().decompress(content, MODULE_BYTES_MAX)
        elif path.endswith(".gz"):
            content = zlib.decompressobj(wbits=31).decompress(content, MODULE_BYTES_MAX)
    except (lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"`{path}` is damaged: {error}") from error
    if len(content) >= MODULE_BYTES_MAX:
        raise ValueError(f"`{path}` unpacks to more than {MODULE_BYTES_MAX} bytes")
    return content


def module_info(content: bytes) -> Mapping[str, tuple[str, ...]]:
    """Return what a module says about itself: `key=value` strings of its `.modinfo` section, by key.

    Raises:
        ValueError: when this is no kernel module.
    """
    section = read_section(content, b".modinfo")
    if section is None:
        raise ValueError("the file has no `.modinfo` section: it is no kernel module")
    found: dict[str, tuple[str, ...]] = {}
    for text in section.split(b"\0"):
        key, equals, value = text.decode("utf-8", "replace").partition("=")
        if equals:
            found[key] = (*found.get(key, ()), value)
    return found


def in_load_order(
    wanted: Iterable[str], read: Callable[[str], bytes | None], built_in: frozenset[str]
) -> tuple[Module, ...]:
    """Return the wanted modules and all they depend on, each behind what it needs; `read` gives a module's file by name
    (None: there is none), and what the kernel has built in is left out.

    Dependencies that are only wished for (`softdep`) name algorithms, not modules: whoever asks names those first.

    Raises:
        ValueError: when a module is missing, damaged, or needs itself.
    """
    order: dict[str, Module] = {}

    def add(name: str, depth: int) -> None:
        if name in built_in or name in order:
            return
        if depth > DEPTH_MAX:
            raise ValueError(f"the modules that `{name}` needs have no end")
        content = read(name)
        if content is None:
            raise ValueError(f"the kernel has no module `{name}`")
        for depends in module_info(content).get("depends", ()):
            for needed in filter(None, depends.split(",")):
                add(needed.replace("-", "_"), depth + 1)
        order[name] = Module(name, content)

    for name in wanted:
        add(name, 0)
    return tuple(order.values())


def built_in_modules(listing: str) -> frozenset[str]:
    """Return the names in a kernel's `modules.builtin`, a path a line."""
    return frozenset(name for line in listing.splitlines() if (name := module_name(line)) is not None)
