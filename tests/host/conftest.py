"""Cells opened as each kind of user that a test can be here: root, an ordinary one, one without subordinate ids."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import sandhold
from sandhold.cell.boot.boot_files import boot_files
from sandhold.cell.images.templates import find_template
from tests.installation import Installation, change_users

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.isolation import Kind

WAIT_S = 60
DRIVER = Path(__file__).with_name("cell_driver.py")
MACHINE: Final = {"kind": "directory", "memory": 1 << 30, "cpus": 1}
"""What the cell of a machine is asked for beside the files it boots from; its root is an image, not a folder."""
NEEDED_RANGE = 2_000_000_000  # where a test's own subordinate ids start, above those that `useradd` hands out


class OpenCell:
    """A driver process and its cell."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.notes: list[str] = []

    def ask(self, **request: object) -> Any:
        """Send one request and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the driver ended"
        return json.loads(line)

    def run(self, *argv: str, user: str = "agent", folder: str = "/", signum: int = 0) -> tuple[int, str]:
        """Run a command inside and return its status and output."""
        answer = self.ask(do="run", argv=list(argv), user=user, folder=folder, signum=signum)
        return answer["status"], answer["output"]

    def python(self, code: str, user: str = "agent", folder: str = "/") -> str:
        """Run Python inside and return what it printed."""
        status, output = self.run("/usr/bin/python3", "-I", "-c", code, user=user, folder=folder)
        assert status == 0, output
        return output.strip()

    def close(self) -> None:
        """Let the driver kill its cell and end."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        assert self.process.stdout is not None
        self.process.stdout.read()
        self.process.stdout.close()
        self.process.wait(WAIT_S)


@dataclass
class Person:
    """A user of the host: how to start a program as them, their home, a Python for them and a copy of the package."""

    kind: str
    prefix: list[str]
    uid: int
    home: Path
    python: str
    library: Path

    def folder(self, name: str) -> Path:
        """Make a folder in their home that is theirs."""
        path = self.home / name
        path.mkdir(exist_ok=True)
        os.chown(path, self.uid, self.uid)
        return path

    def start(self, **order: object) -> OpenCell:
        """Open a cell; its layer is `layer` in their home unless the order says otherwise."""
        order = {"layer": str(self.home / "layer"), "mounts": [], **order}
        process = subprocess.Popen(
            [*self.prefix, self.python, str(self.library / "cell_driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(self.library), "PATH": "/usr/bin:/bin", "CANARY": "sbx-environment-canary"},
            cwd="/",
        )
        cell = OpenCell(process)
        answer = cell.ask(**order)
        if "failed" in answer:
            cell.close()
            raise OSError(answer["failed"])
        cell.notes = answer["notes"]
        return cell


@pytest.fixture(scope="session")
def library() -> Iterator[Path]:
    """Copy the package to where every user may read it."""
    folder = Path(tempfile.mkdtemp(prefix="sbx-library-"))
    folder.chmod(0o755)
    assert sandhold.__file__ is not None
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(sandhold.__file__).parent, folder / "sandhold", ignore=ignored)
    shutil.copy(DRIVER, folder)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def ordinary(library: Path) -> Iterator[Person]:
    """Make an ordinary user with subordinate ids; when the tests are not run by root, it is who runs them."""
    yield from _ordinary(library, "ordinary")


@pytest.fixture(scope="session")
def lonely(library: Path) -> Iterator[Person]:
    """Make an ordinary user without subordinate ids."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a user without subordinate ids")
    yield from _ordinary(library, "lonely")


@pytest.fixture(params=["root", "ordinary"])
def person(request: pytest.FixtureRequest, library: Path) -> Iterator[Person]:
    """Be root, then an ordinary user, each with an empty home's worth of folders."""
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("needs root")
        home = Path(tempfile.mkdtemp(prefix="sbx-root-", dir=Path.home()))
        someone = Person("root", [], 0, home, sys.executable, library)
    else:
        someone = request.getfixturevalue("ordinary")
    before = set(someone.home.iterdir())
    yield someone
    for path in set(someone.home.iterdir()) - before:
        subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=os.geteuid() == 0)
    if someone.kind == "root":
        someone.home.rmdir()


@pytest.fixture(scope="session")
def machine(template_folder: Path) -> Iterator[dict[str, object]]:
    """Have what a machine boots from where every user may read it; gives what a cell is asked for to be one."""
    folder = Path(tempfile.mkdtemp(prefix="sbx-boot-", dir=template_folder.parent))
    Installation(folder, template_folder).ok("template", "build", "--microvm", "debian")
    data = template_folder / "sandhold"
    files = boot_files(data / "vm", find_template(data / "templates", "debian"), lambda *_: None)
    place = Path(tempfile.mkdtemp(prefix="sbx-boot-"))
    place.chmod(0o755)
    copies = [place / path.name for path in (files.kernel, files.initramfs, files.root_image)]
    for path, copy in zip((files.kernel, files.initramfs, files.root_image), copies, strict=True):
        shutil.copyfile(path, copy)
        copy.chmod(0o644)
    yield {**MACHINE, "boot": list(map(str, copies))}
    shutil.rmtree(place)
    shutil.rmtree(folder)


@pytest.fixture
def of_kind(isolation: Kind, request: pytest.FixtureRequest) -> dict[str, object]:
    """Return what a cell is asked for to be of each kind, one after the other."""
    return request.getfixturevalue("machine") if isolation.is_microvm else {}


@pytest.fixture
def cell(person: Person, of_kind: dict[str, object]) -> Iterator[OpenCell]:
    """Open a cell of each kind with one workspace, `work` in the person's home."""
    mounts, files = [[str(person.folder("work")), False]], [["/etc/hosts", "127.0.1.1 trial\n"]]
    opened = person.start(mounts=mounts, files=files, **of_kind)
    yield opened
    opened.close()


def _ordinary(library: Path, kind: str) -> Iterator[Person]:
    if os.geteuid() != 0:
        home = Path(tempfile.mkdtemp(prefix="sbx-home-", dir=Path.home()))
        yield Person(kind, [], os.geteuid(), home, sys.executable, library)
        shutil.rmtree(home, ignore_errors=True)
        return
    name = f"sbx{secrets.token_hex(4)}"
    change_users("useradd", "--create-home", "--user-group", name)
    try:
        home = Path(f"~{name}").expanduser()
        _subordinate_ids(name, wanted=kind == "ordinary")
        uid = home.stat().st_uid
        # `env` starts the program as this user: `setpriv` itself still has the rights of root when it does.
        prefix = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "env"]
        yield Person(kind, prefix, uid, home, _python_for(prefix), library)
    finally:
        change_users("userdel", "--remove", name)


def _subordinate_ids(name: str, *, wanted: bool) -> None:
    for file, option in (("/etc/subuid", "subuids"), ("/etc/subgid", "subgids")):
        lines = [line.split(":") for line in Path(file).read_text().splitlines()]
        mine = [(int(first), int(count)) for user, first, count in lines if user == name]
        if wanted and not mine:
            change_users("usermod", f"--add-{option}", f"{NEEDED_RANGE}-{NEEDED_RANGE + 65535}", name)
        for first, count in mine if not wanted else ():
            change_users("usermod", f"--del-{option}", f"{first}-{first + count - 1}", name)


def _python_for(prefix: list[str]) -> str:
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        try:
            if (
                subprocess.run([*prefix, candidate, "-c", check], check=False, stderr=subprocess.DEVNULL).returncode
                == 0
            ):
                return candidate
        except OSError:
            continue
    pytest.skip("an ordinary user can run no Python 3.11 on this machine")
