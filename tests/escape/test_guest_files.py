"""Root of a guest talks to the file server of its workspace in other ways than its own kernel does (9p, with other
versions and names), and gets no more than the folder, nor more into it than anybody may put there."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

import pytest

from tests.isolation import MICROVM, microvm_lacks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.installation import Installation

pytestmark = pytest.mark.skipif(bool(microvm_lacks()), reason=microvm_lacks() or "nothing is missing")

VERSIONS: Final = ("9p2000.L", "9p2000.u")
CANARY: Final = "canary-of-the-host"

MOUNT: Final = """
cd /; umount {folder}; mkdir -p /tmp/again
again() {{ mount -t 9p -o trans=virtio,access=any,version={version},uname=root,aname="$1" ws0 /tmp/again; }}
"""

NAMES: Final = """
for name in "" / /.. ../.. .. /etc {secret} {folder}; do
    again "$name" || echo "mount refused: $name"
    echo "$name: $(ls -A /tmp/again | tr '\\n' ' ')"
    cd /tmp/again; cat ../secret.txt ../../secret.txt up/secret.txt exact ./{secret}; cd /
    umount /tmp/again
done
"""

MADE: Final = """
again ""; cd /tmp/again
mknod c c 1 3; mknod b b 254 0; mknod p p; cp -a /dev/null copied; install -m 6755 /bin/true installed
rm -rf plain deep link opened node; touch plain
chmod 4755 plain; chmod 2777 .; mkdir -m 2777 deep; ln -s /etc/shadow link
python3 -c "
import os, socket
def attempt(action, *words):
    try: action(*words)
    except OSError: pass
os.umask(0)
attempt(lambda: os.close(os.open('opened', os.O_CREAT | os.O_WRONLY, 0o6777)))
attempt(os.mknod, 'node', 0o106777)
attempt(os.mknod, 'device', 0o020666, os.makedev(1, 5))
attempt(socket.socket(socket.AF_UNIX).bind, 'sock')
for number in (1, 9, 99):
    attempt(os.mkdir, 'x' * 255 + str(number))
    attempt(os.open, 'deep/../' * number + '../' * number + 'secret.txt', os.O_RDWR)
"
echo tried; cd /; umount /tmp/again
"""


@pytest.fixture(scope="module")
def lab(module_sbx: Installation, module_project: Path) -> Iterator[Installation]:
    """Run a microVM whose folder has links of the host's own in it."""
    secret = module_sbx.home / "secret.txt"
    secret.write_text(CANARY)
    (module_project / "up").symlink_to("..")
    (module_project / "exact").symlink_to(secret)
    module_sbx.ok("create", *MICROVM.quickest, "--memory", "1g", "--name", "lab", "shell", ".", folder=module_project)
    module_sbx.ok("run", "-d", "lab")
    yield module_sbx
    module_sbx.ok("rm", "-f", "lab")


def as_root(lab: Installation, folder: Path, script: str, version: str) -> str:
    """Run a script as root of the guest, with the workspace's file server free to be mounted again."""
    words = {"folder": folder, "version": version, "secret": lab.home / "secret.txt"}
    done = lab("exec", "-u", "root", "lab", "bash", "-c", MOUNT.format(**words) + script.format(**words))
    return done.out + done.err


@pytest.mark.parametrize("version", [VERSIONS[0], pytest.param(VERSIONS[1], marks=pytest.mark.long)])
def test_it_gives_no_more_than_the_folder(lab: Installation, module_project: Path, version: str) -> None:
    """Whatever is asked for as the root of the tree, the workspace is what comes, and nothing above or beside it."""
    said = as_root(lab, module_project, NAMES, version)
    assert CANARY not in said
    assert "mount refused" not in said
    shown = " ".join(sorted(path.name for path in module_project.iterdir()))
    assert said.count(f": {shown} \n") == 8


@pytest.mark.parametrize("version", [VERSIONS[0], pytest.param(VERSIONS[1], marks=pytest.mark.long)])
def test_it_takes_nothing_that_means_something_outside(lab: Installation, module_project: Path, version: str) -> None:
    """No device, pipe, socket or set-id bit comes to be in the folder, and what does is its owner's."""
    assert "tried" in as_root(lab, module_project, MADE, version)
    found = {path: path.lstat() for path in module_project.rglob("*")}
    assert module_project / "plain" in found
    kinds = {stat.S_IFMT(each.st_mode) for each in found.values()}
    assert kinds <= {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}
    assert [path for path, each in found.items() if not path.is_symlink() and each.st_mode & 0o6000] == []
    assert {each.st_uid for each in found.values()} == {module_project.stat().st_uid}
    assert (lab.home / "secret.txt").read_text() == CANARY
    assert lab.ok("exec", "lab", "echo", "alive") == "alive\n"
