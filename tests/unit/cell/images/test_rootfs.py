"""What a root file system is made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from sandhold.cell.images import rootfs
from sandhold.cell.images.rootfs import FALLBACK_SUITE, Source

if TYPE_CHECKING:
    from collections.abc import Mapping

DEBIAN: Final = 'ID=debian\nVERSION_CODENAME=bookworm\nNAME="Debian GNU/Linux"\n'

HOSTS: Final[Mapping[str, tuple[str, tuple[str, ...], str, str | None]]] = {
    "a Debian host gives its own release and list": (
        DEBIAN,
        ("apt/sources.list.d/debian.sources", "apt/sources.list"),
        "bookworm",
        "apt/sources.list.d/debian.sources",
    ),
    "the older place of the list is known": (DEBIAN, ("apt/sources.list",), "bookworm", "apt/sources.list"),
    "a host without a list leaves it to mmdebstrap": (DEBIAN, (), "bookworm", None),
    "quotes round a value are not part of it": (
        'ID="debian"\nVERSION_CODENAME="trixie"\n',
        ("apt/sources.list",),
        "trixie",
        "apt/sources.list",
    ),
    "another distribution's list is not Debian's": (
        "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n",
        ("apt/sources.list",),
        FALLBACK_SUITE,
        None,
    ),
    "Debian without a release name is no release": ("ID=debian\n", ("apt/sources.list",), FALLBACK_SUITE, None),
    "an empty os-release says nothing": ("", ("apt/sources.list",), FALLBACK_SUITE, None),
}


@pytest.mark.parametrize(("release", "files", "suite", "list_file"), HOSTS.values(), ids=HOSTS)
def test_source_is_the_hosts_own(
    release: str, files: tuple[str, ...], suite: str, list_file: str | None, tmp_path: Path
) -> None:
    """Packages come from where the host's own come from, when the host is Debian."""
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text(release)
    for name in files:
        (tmp_path / name).write_text("")
    assert rootfs.host_source(tmp_path) == Source(suite, tmp_path / list_file if list_file else None)


def test_a_host_that_does_not_say_what_it_is_gets_the_fallback(tmp_path: Path) -> None:
    """Without `os-release` the release is Debian's stable one."""
    assert rootfs.host_source(tmp_path) == Source(FALLBACK_SUITE, None)


@pytest.mark.parametrize("is_root", [True, False], ids=["root", "an ordinary user"])
def test_the_command_names_no_mirror(*, is_root: bool) -> None:
    """Only the host's own list says where packages come from."""
    command = rootfs.mmdebstrap_command(Source("trixie", None), Path("/build/rootfs"), is_root=is_root)
    assert not [word for word in command if "://" in word]
    assert command[-2:] == ("trixie", "/build/rootfs")


def test_an_ordinary_user_makes_an_archive() -> None:
    """Only root can make files that belong to others in place."""
    made = {
        is_root: rootfs.mmdebstrap_command(Source("trixie", Path("/list")), Path("/build/out"), is_root=is_root)
        for is_root in (True, False)
    }
    assert "--mode=root" not in made[False]
    assert {"--mode=unshare", "--format=tar"} <= set(made[False])
    assert {"--mode=root", "--format=directory"} <= set(made[True])
    assert made[True][-1] == made[False][-1] == "/list"


def test_the_marker_of_a_managed_python_is_required() -> None:
    """A tree whose Python does not follow PEP 668 fails its build."""
    command = rootfs.mmdebstrap_command(Source("trixie", None), Path("/build/rootfs"), is_root=True)
    assert [word for word in command if word.startswith("--customize-hook=ls ") and "EXTERNALLY-MANAGED" in word]
