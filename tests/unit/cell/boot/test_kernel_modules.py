"""The order of kernel modules, from what they say about themselves."""

from __future__ import annotations

import gzip
import lzma
from typing import TYPE_CHECKING, Final

import pytest

from sandhold.cell.boot.kernel_modules import built_in_modules, in_load_order, module_info, module_name, unpack_module
from tests.unit.cell.boot.elf_files import elf_file, kernel_module

if TYPE_CHECKING:
    from collections.abc import Mapping

FILES: Final[Mapping[str, bytes]] = {
    "virtio_net": kernel_module(name="virtio_net", depends="virtio,net-failover", license="GPL"),
    "net_failover": kernel_module(name="net_failover", depends="failover"),
    "failover": kernel_module(name="failover", depends=""),
    "virtio": kernel_module(name="virtio", depends="virtio_ring"),
    "virtio_ring": kernel_module(name="virtio_ring"),
    "lonely": kernel_module(depends="gone"),
    "egg": kernel_module(depends="hen"),
    "hen": kernel_module(depends="egg"),
    "text": b"not a module",
    "program": elf_file({".text": b"x"}),
}

NAMES: Final[Mapping[str, str | None]] = {
    "kernel/drivers/char/virtio-rng.ko": "virtio_rng",
    "tun.ko": "tun",
    "kernel/fs/ext4/ext4.ko.xz": "ext4",
    "kernel/fs/ext4/ext4.ko.gz": "ext4",
    "kernel/fs/ext4/ext4.ko.zst": None,
    "modules.builtin": None,
    "kernel/fs/ext4/": None,
    "ext4.ko.xz.bak": None,
}

IMPOSSIBLE: Final[Mapping[str, tuple[str, str]]] = {
    "a module that is not there": ("nothing", "no module `nothing`"),
    "a dependency that is not there": ("lonely", "no module `gone`"),
    "a ring of modules": ("egg", "have no end"),
    "a file that is no ELF file": ("text", "ELF"),
    "a program": ("program", "no kernel module"),
}


def test_each_module_comes_behind_what_it_needs() -> None:
    """Dependencies come first, once each, whether they are written with a dash or an underscore."""
    order = in_load_order(["virtio_net", "virtio"], FILES.get, frozenset())
    names = [module.name for module in order]
    assert sorted(names) == ["failover", "net_failover", "virtio", "virtio_net", "virtio_ring"]
    for before, behind in (("virtio_ring", "virtio"), ("virtio", "virtio_net"), ("failover", "net_failover")):
        assert names.index(before) < names.index(behind)
    assert all(module.content == FILES[module.name] for module in order)


def test_what_the_kernel_has_built_in_is_left_out() -> None:
    """A built-in module is no file, and nothing it needs is looked for."""
    built_in = built_in_modules("kernel/drivers/virtio/virtio.ko\nkernel/net/core/failover.ko\nnonsense\n")
    assert built_in == {"virtio", "failover"}
    order = in_load_order(["virtio", "virtio_net"], FILES.get, built_in)
    assert [module.name for module in order] == ["net_failover", "virtio_net"]


@pytest.mark.parametrize(("wanted", "words"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_modules_that_cannot_be_loaded_are_refused(wanted: str, words: str) -> None:
    """Whatever a guest could not load is an error while it is put together, in words."""
    with pytest.raises(ValueError, match=words):
        in_load_order([wanted], FILES.get, frozenset())


def test_a_key_may_stand_several_times() -> None:
    """Aliases and parameters come a line each, and all are kept in their order."""
    section = b"alias=one\0\0alias=two\0author=A=B\0nonsense\0"
    info = module_info(elf_file({".modinfo": section}))
    assert info == {"alias": ("one", "two"), "author": ("A=B",)}


@pytest.mark.parametrize(("path", "name"), NAMES.items())
def test_names_come_from_paths(path: str, name: str | None) -> None:
    """The kernel writes a module's name with underscores, and packed files keep it."""
    assert module_name(path) == name


def test_packed_modules_are_unpacked() -> None:
    """A module is the same whether it came packed or not; a damaged one is refused."""
    plain = FILES["virtio"]
    assert unpack_module("a.ko", plain) == plain
    assert unpack_module("a.ko.xz", lzma.compress(plain)) == plain
    assert unpack_module("a.ko.gz", gzip.compress(plain)) == plain
    for path in ("a.ko.xz", "a.ko.gz"):
        with pytest.raises(ValueError, match="damaged"):
            unpack_module(path, b"\xff" * 100)
