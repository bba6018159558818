"""A template as a disk image, made for real as root and as an ordinary user, and read by the format's own tools."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from sandhold.linux.process import find_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host.conftest import Person

pytestmark = pytest.mark.skipif(find_program("mkfs.erofs") is None, reason="`mkfs.erofs` is not installed")

MAKE: Final = """
import json, os, sys
from pathlib import Path
from sandhold.cell import tree
from sandhold.cell.boot.root_image import image_key, make_root_image
from sandhold.cell.spec import Template, TemplateKind

home, layered = Path(sys.argv[1]), sys.argv[2] == "layered"
opaque = "trusted.overlay.opaque" if os.geteuid() == 0 else "user.overlay.opaque"
TREES = {
    "base": '''
        mkdir -m 0755 rootfs rootfs/etc rootfs/kept rootfs/emptied rootfs/home
        echo base >rootfs/etc/base; echo old >rootfs/etc/changed; echo gone >rootfs/etc/deleted
        echo below >rootfs/emptied/below; echo x >rootfs/kept/file
        echo s >rootfs/kept/sudo; chmod 4755 rootfs/kept/sudo
        ln -s ../etc/base rootfs/kept/link; ln rootfs/kept/file rootfs/kept/second
        install -d -o 1000 -g 1000 -m 0700 rootfs/home/agent; mkfifo rootfs/kept/pipe
    ''',
    "tool": f'''
        mkdir -m 0755 layer layer/etc layer/emptied layer/opt
        echo new >layer/etc/changed; mknod layer/etc/deleted c 0 0
        setfattr -n {opaque} -v y layer/emptied 2>/dev/null || python3 -I -c '
import os, sys; os.setxattr("layer/emptied", sys.argv[1], b"y")' {opaque}
        echo above >layer/emptied/above; echo tool >layer/opt/tool
    ''',
}
for name, script in TREES.items():
    (home / name).mkdir()
    (home / name / "template.json").write_text(json.dumps({"name": name}))
    tree.as_owner("sh", "-euc", 'cd "$0"; umask 022; ' + script, str(home / name))
layers = (home / "tool/layer",) if layered else ()
template = Template(TemplateKind.DIRECTORY, home / "base/rootfs", layers)
place = home / "place, with: odd 'signs"
place.mkdir()
image = make_root_image(template, place)
for name in TREES:
    tree.delete_tree(home / name)
print(json.dumps([str(image), image.stat().st_uid == os.geteuid()]))
"""


def made_by(person: Person, kind: str) -> tuple[str, bool]:
    done = subprocess.run(
        [*person.prefix, person.python, "-c", MAKE, str(person.folder("trees")), kind],
        env={"PYTHONPATH": str(person.library), "PATH": "/usr/bin:/bin"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    image, is_theirs = json.loads(done.stdout)
    return image, is_theirs


def look(image: str, path: str) -> dict[str, int]:
    """Return the owners that `dump.erofs` finds of one file of the image; nothing when the file is not there."""
    done = subprocess.run(["dump.erofs", f"--path={path}", image], capture_output=True, text=True, check=False)
    if done.returncode != 0 or "Uid" not in done.stdout:
        return {}
    words = done.stdout.replace("\n", " ").split()
    return {name: int(words[words.index(f"{name}:") + 1]) for name in ("Uid", "Gid")}


def content(image: str, folder: Path) -> Path:
    target = folder / "content"
    subprocess.run(["fsck.erofs", f"--extract={target}", image], check=True, capture_output=True)
    return target


def test_owners_in_the_image_are_those_inside(person: Person) -> None:
    """Whoever makes the image: root's files are 0's in it and the agent's are 1000's."""
    image, is_theirs = made_by(person, "plain")
    assert is_theirs
    assert look(image, "/kept/sudo")["Uid"] == 0
    assert (look(image, "/home/agent")["Uid"], look(image, "/home/agent")["Gid"]) == (1000, 1000)
    assert look(image, "/etc/deleted")
    assert not look(image, "/opt/tool")


def test_layers_are_merged_as_a_cell_shows_them(person: Person, tmp_path: Path) -> None:
    """What a layer deleted is gone, what it emptied is empty, what it changed is changed; no mark is left."""
    image, _ = made_by(person, "layered")
    merged = content(image, tmp_path)
    files = {path.relative_to(merged).as_posix() for path in merged.rglob("*") if not path.is_dir()}
    assert files == {
        "etc/base", "etc/changed", "emptied/above", "opt/tool",
        "kept/file", "kept/second", "kept/sudo", "kept/link", "kept/pipe",
    }  # fmt: skip
    assert (merged / "etc/changed").read_text() == "new\n"
    assert (merged / "kept/link").readlink().as_posix() == "../etc/base"
