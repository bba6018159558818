"""A cell whose root is a folder of its own, as root and as an ordinary user."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.tree import give_to_template

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.conftest import OpenCell, Person

SLOT = 30_001
PROGRAMS = ("sh", "cat", "chmod", "id", "ls", "stat", "touch", "rm")
UNPACK = "import sys; from pathlib import Path; from sandhold.cell.tree import {0}; {0}(*map(Path, sys.argv[1:]))"


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _small_root(file: Path) -> None:
    """Write a root file system with a few of this machine's programs, what they need, and a set-user-id `id`."""
    needed: dict[str, Path] = {}
    for name in PROGRAMS:
        path = Path(f"/usr/bin/{name}") if Path(f"/usr/bin/{name}").exists() else Path(f"/bin/{name}")
        needed[f"usr/bin/{name}"] = path
        linked = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True).stdout
        needed |= {library.lstrip("/"): Path(library) for library in re.findall(r"(/\S+) \(0x", linked)}
    with tarfile.open(file, "w") as archive:
        for name, path in needed.items():
            _add(archive, name, path.read_bytes(), 0o755)
        _add(archive, "usr/bin/id-as-root", needed["usr/bin/id"].read_bytes(), 0o4755)
        _add(archive, "etc/group", b"root:x:0:\nagent:x:1000:\nextra:x:77:agent,other\nbad:x:99999999:agent\n", 0o644)
        _add(archive, "root/.keep", b"", 0o644)
        closed = tarfile.TarInfo("root")
        closed.type, closed.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(closed)
    file.chmod(0o644)


def _as_person(person: Person, function: str, *paths: Path) -> None:
    subprocess.run(
        [*person.prefix, person.python, "-c", UNPACK.format(function), *map(str, paths)],
        env={"PYTHONPATH": str(person.library), "PATH": "/usr/bin:/bin"},
        check=True,
        cwd="/",
    )


@pytest.fixture
def template(person: Person) -> Iterator[Path]:
    """Unpack the small root in the person's home."""
    archive = person.home / "small.tar"
    _small_root(archive)
    tree = person.home / "template"
    _as_person(person, "unpack", archive, tree)
    yield tree
    _as_person(person, "delete_tree", tree)
    archive.unlink()


@pytest.fixture
def cell(person: Person, template: Path) -> Iterator[OpenCell]:
    """Open a cell on the small root with a workspace below a folder that is closed inside."""
    opened = person.start(kind="directory", root=str(template), mounts=[[str(person.folder("work")), False]])
    yield opened
    opened.close()


def test_the_template_is_the_root_and_stays_as_it_is(person: Person, cell: OpenCell, template: Path) -> None:
    """What root inside changes goes to the layer; the template, which other sandboxes start from, is not touched."""
    before = sorted(str(path) for path in template.rglob("*")) if person.kind == "root" else []
    status, output = cell.run("ls", "/usr/bin")
    assert (status, output.split()) == (0, sorted([*PROGRAMS, "id-as-root"]))
    assert cell.run("sh", "-c", "echo changed > /etc/group && rm /usr/bin/touch", user="root") == (0, "")
    assert cell.run("cat", "/etc/group") == (0, "changed\n")
    assert (template / "usr/bin/touch").exists()
    assert b"extra" in (template / "etc/group").read_bytes()
    assert not before or sorted(str(path) for path in template.rglob("*")) == before


def test_the_agent_reaches_its_workspace_below_a_closed_folder(person: Person, cell: OpenCell) -> None:
    """A workspace under `/root` is usable though root's home in the template is closed to the agent."""
    work = person.home / "work"
    assert cell.run("touch", "made", folder=str(work)) == (0, "")
    assert (work / "made").stat().st_uid == person.uid


def test_set_user_id_programs_of_the_template_work(cell: OpenCell) -> None:
    """A program of root's with the bit runs as root inside: that is how `sudo` gets there."""
    assert cell.run("id-as-root", "-u") == (0, "0\n")
    assert cell.run("stat", "-c", "%u %a", "/usr/bin/id-as-root") == (0, "0 4755\n")


def test_the_agent_has_the_groups_that_the_root_gives_it(cell: OpenCell) -> None:
    """Supplementary groups are those of the root's own `/etc/group`; a number that is none is left out."""
    status, output = cell.run("id", "-G")
    assert (status, sorted(output.split())) == (0, ["1000", "77"])


def test_a_group_file_that_is_a_trap_hangs_nothing(cell: OpenCell) -> None:
    """A device in place of `/etc/group` gives no groups, and commands still start."""
    trap = "rm /etc/group; chmod 755 /etc; : > /etc/group; chmod 000 /etc/group"
    assert cell.run("sh", "-c", trap, user="root")[0] == 0
    assert cell.run("id", "-G") == (0, "1000\n")


def test_no_device_works_on_the_layer(cell: OpenCell) -> None:
    """Nothing in the root or the layer is a device, whatever its node says."""
    mounts = cell.run("cat", "/proc/self/mounts")[1].splitlines()
    root = next(line.split()[3].split(",") for line in mounts if line.split()[1] == "/")
    assert "nodev" in root


@pytest.fixture
def layer(person: Person, template: Path) -> Iterator[Path]:
    """Make a layer of what root changes in a cell over the small root: a file made, one changed, one deleted."""
    change = "echo new > /usr/bin/new; echo changed > /etc/group; rm /usr/bin/touch; chmod 4755 /usr/bin/new"
    made = person.home / "made"
    opened = person.start(kind="directory", root=str(template), layer=str(made))
    try:
        assert opened.run("sh", "-c", change, user="root") == (0, "")
    finally:
        opened.close()
    moved = person.home / "moved"
    _as_person(person, "move_tree", made / "root.upper", moved)
    if person.kind == "root":
        give_to_template(moved, SLOT)
    yield moved
    _as_person(person, "delete_tree", moved)
    _as_person(person, "delete_tree", made)


def test_a_layer_lies_over_the_template(person: Person, template: Path, layer: Path) -> None:
    """Another sandbox, whose ids may be others, sees what a layer adds, changes and deletes, and owns it as inside."""
    order = {"kind": "directory", "root": str(template), "layers": [str(layer)], "slot": SLOT + 1}
    opened = person.start(**order)
    try:
        status, output = opened.run("ls", "/usr/bin")
        assert (status, output.split()) == (0, sorted([*(set(PROGRAMS) - {"touch"}), "id-as-root", "new"]))
        assert opened.run("cat", "/usr/bin/new", "/etc/group") == (0, "new\nchanged\n")
        assert opened.run("stat", "-c", "%u %a", "/usr/bin/new", "/usr/bin/cat") == (0, "0 4755\n0 755\n")
        assert opened.run("sh", "-c", "echo mine > /usr/bin/new && rm /etc/group", user="root") == (0, "")
        assert opened.run("cat", "/usr/bin/new") == (0, "mine\n")
    finally:
        opened.close()
    assert (layer / "usr/bin/new").read_text() == "new\n"
    assert (layer / "etc/group").read_text() == "changed\n"


def test_the_uppermost_layer_counts(person: Person, template: Path, layer: Path) -> None:
    """Of two layers that have a file, the one named first is seen."""
    upper = person.folder("upper")
    (upper / "etc").mkdir()
    (upper / "etc/group").write_text("uppermost\n")
    opened = person.start(kind="directory", root=str(template), layers=[str(upper), str(layer)])
    try:
        assert opened.run("cat", "/etc/group", "/usr/bin/new") == (0, "uppermost\nnew\n")
    finally:
        opened.close()
