"""A folder of the host inside a sandbox: the same path, the user's files, and nothing that means anything outside.

All tests share one running sandbox of each kind; each works in a folder of its own.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.installation import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.installation import Installation
    from tests.isolation import Kind

USERS = ("agent", "root")


@pytest.fixture(scope="module")
def lab(module_sbx: Installation, module_project: Path, isolation: Kind) -> Iterator[Installation]:
    """Run a sandbox with the project, and beside it a folder that is only for reading."""
    shown = module_sbx.home / "shown"
    shown.mkdir(exist_ok=True)
    (shown / "page").write_text("read me\n")
    words = (*isolation.quickest, "--name", "lab", "shell", ".", f"{shown}:ro")
    module_sbx.ok("create", *words, folder=module_project)
    module_sbx.ok("run", "-d", "lab")
    yield module_sbx
    module_sbx.ok("rm", "-f", "lab")


@pytest.fixture
def folder(module_project: Path, request: pytest.FixtureRequest) -> Path:
    """Make an empty folder of the project for one test; it is the user's."""
    path = module_project / f"test-{abs(hash(request.node.name))}"
    path.mkdir()
    return path


def inside(lab: Installation, folder: Path, script: str, user: str = "agent") -> str:
    """Run a script in the folder and return all it said."""
    done = lab("exec", "-u", user, "lab", "bash", "-c", f"cd {folder} || exit 9\n{script}")
    assert done.status != 9, done.err
    return done.out + done.err


def modes(folder: Path) -> dict[str, int]:
    """Return type and mode of everything below a folder of the host, links not followed."""
    return {path.relative_to(folder).as_posix(): path.lstat().st_mode for path in folder.rglob("*")}


@pytest.mark.short
def test_it_stands_at_the_same_path(lab: Installation, module_project: Path) -> None:
    """A command starts in the folder that the user is in, and what is there is the user's own."""
    assert lab.ok("exec", "lab", "pwd", folder=module_project) == f"{module_project}\n"
    assert lab.ok("exec", "lab", "cat", "hello.txt", folder=module_project) == "hello from the host\n"


@pytest.mark.short
def test_changes_are_seen_at_once_on_both_sides(lab: Installation, folder: Path) -> None:
    """What the host writes is read inside by the next command, sizes and times included, and the other way round."""
    for number in range(3):
        (folder / "note").write_text("x" * number + f"{number}\n")
        assert inside(lab, folder, "cat note; stat -c %s note") == "x" * number + f"{number}\n{number + 2}\n"
    inside(lab, folder, "echo from inside > note; touch -d @1000000000 note; mkdir -p deep/er; echo x > deep/er/file")
    assert (folder / "note").read_text() == "from inside\n"
    assert (folder / "note").stat().st_mtime == 1_000_000_000
    assert (folder / "deep/er/file").read_text() == "x\n"
    (folder / "note").unlink()
    assert inside(lab, folder, "ls") == "deep\n"


@pytest.mark.short
def test_files_belong_to_the_user_outside(lab: Installation, folder: Path) -> None:
    """Whatever the agent makes belongs to who the folder belongs to; what root inside makes belongs to no user."""
    inside(lab, folder, "touch file; mkdir deep; ln -s file link; ln file hard")
    owner = folder.stat()
    for name in ("file", "deep", "link", "hard"):
        assert ((folder / name).lstat().st_uid, (folder / name).lstat().st_gid) == (owner.st_uid, owner.st_gid)
    inside(lab, folder, "touch roots; chown 0:0 file; chown 1000:1000 file", "root")
    assert (folder / "file").stat().st_uid == owner.st_uid
    assert (folder / "roots").stat().st_uid == owner.st_uid or (folder / "roots").stat().st_uid >= 65536


@pytest.mark.short
def test_a_read_only_folder_stays_as_it_is(lab: Installation) -> None:
    """No user inside changes anything in a folder given with `:ro`, nor by mounting it again."""
    shown = lab.home / "shown"
    before = (modes(shown), shown.stat().st_mtime, (shown / "page").stat())
    tries = (
        f"cat {shown}/page; echo x > {shown}/page; touch {shown}/page; chmod 777 {shown}/page; rm -f {shown}/page;"
        f"mv {shown}/page {shown}/other; ln {shown}/page {shown}/hard; mknod {shown}/pipe p; mkdir {shown}/new;"
        f"mount -o remount,rw {shown}; mount -o remount,rw,bind {shown}; echo x > {shown}/page"
    )
    for user in USERS:
        assert inside(lab, lab.home / "project", tries, user).startswith("read me\n")
    assert (shown / "page").read_text() == "read me\n"
    after = (modes(shown), shown.stat().st_mtime, (shown / "page").stat())
    assert [before[0], before[1], before[2].st_mode, before[2].st_mtime] == [
        after[0], after[1], after[2].st_mode, after[2].st_mtime
    ]  # fmt: skip


LINKS: Final[Mapping[str, str]] = {
    "an absolute link": "{secret}",
    "a relative link": "../../secret.txt",
    "a link to a link": "theirs-0",
    "a link through the processes": "/proc/1/root{secret}",
    "a link to a folder above": "../..",
    "a link to the host's root": "/",
}


@pytest.mark.short
def test_no_link_leads_out(lab: Installation, folder: Path) -> None:
    """A link in a workspace is followed inside, where there is nothing else of the host, whoever made it and whoever
    follows it."""
    secret = lab.home / "secret.txt"
    secret.write_text("canary-of-the-host")
    targets = [target.format(secret=secret) for target in LINKS.values()]
    script = "".join(f"ln -s '{target}' ours-{number}\n" for number, target in enumerate(targets))
    for number, target in enumerate(targets):
        (folder / f"theirs-{number}").symlink_to(target)
    script += f"for link in ours-* theirs-*; do for name in $link $link/secret.txt $link{secret}; do\n"
    script += "cat $name; echo changed >$name; rm -f $link/secret.txt; done; done; echo tried; true"
    for user in USERS:
        said = inside(lab, folder, script, user)
        assert "canary-of-the-host" not in said
        assert "tried" in said
    assert secret.read_text() == "canary-of-the-host"


RACE: Final = """
import os, sys, threading
secret, stop, seen = sys.argv[1], threading.Event(), set()
os.makedirs("real", exist_ok=True)
open("real/secret.txt", "w").write("harmless")
os.symlink(os.path.dirname(secret), "evil")
os.rename("real", "place")
def swap():
    while not stop.is_set():
        os.rename("place", "real"); os.rename("evil", "place")
        os.rename("place", "evil"); os.rename("real", "place")
thread = threading.Thread(target=swap)
thread.start()
for _ in range(int(sys.argv[2])):
    for action in (lambda: open("place/secret.txt").read(), lambda: open("place/secret.txt", "a").close(),
                   lambda: os.listdir("place"), lambda: os.mkdir("place/made")):
        try: seen.add(str(action()))
        except OSError: pass
stop.set(); thread.join()
print(seen)
"""


@pytest.mark.parametrize("user", USERS)
def test_swapping_a_folder_for_a_link_gains_nothing(
    lab: Installation, folder: Path, user: str, isolation: Kind
) -> None:
    """A thread that swaps a folder for a link to the host's, while others go through it, never gets there."""
    secret = lab.home / "secret.txt"
    secret.write_text("canary-of-the-host")
    (folder / "race.py").write_text(RACE)
    said = inside(lab, folder, f"python3 race.py {secret} {60 if isolation.is_microvm else 2000}", user)
    assert "harmless" in said
    assert "canary" not in said
    assert not (lab.home / "made").exists()
    assert secret.read_text() == "canary-of-the-host"


SET_ID: Final = """
import os
def attempt(action):
    try: action()
    except OSError: pass
def create(path, mode): os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))
create("plain", 0o755)
create("exchanged", 0o755)
fd = os.open("plain", os.O_RDWR)
attempt(lambda: create("made", 0o4755))
attempt(lambda: os.mknod("node", 0o104755))
attempt(lambda: os.mkdir("folder", 0o2755))
attempt(lambda: os.chmod("plain", 0o4755))
attempt(lambda: os.fchmod(fd, 0o6755))
attempt(lambda: os.chmod(f"/proc/self/fd/{fd}", 0o4755))
attempt(lambda: os.chmod(".", 0o2777))
os.umask(0); attempt(lambda: create("open", 0o6777))
"""


@pytest.mark.short
@pytest.mark.parametrize("user", USERS)
def test_no_set_id_bit_reaches_the_host(lab: Installation, folder: Path, user: str) -> None:
    """However a set-user-id or set-group-id bit is asked for, no file of the host has one."""
    (folder / "ask.py").write_text(SET_ID)
    inside(lab, folder, "python3 ask.py; install -m 4755 /bin/true installed; cp -p /usr/bin/sudo . ; true", user)
    found = modes(folder)
    assert "plain" in found
    assert [name for name, mode in found.items() if stat.S_ISREG(mode) and mode & 0o6000] == []
    assert not folder.stat().st_mode & stat.S_ISGID


NODES: Final = """
mknod character c 1 3
mknod disk b 254 0
cp -a /dev/null copied
mknod -m 666 new c 1 5 && mv new moved
mknod /tmp/made c 1 3 && mv /tmp/made from-elsewhere
tar -C / -c dev/null | tar -x
echo tried
"""


@pytest.mark.short
@pytest.mark.parametrize("user", USERS)
def test_no_device_reaches_the_host(lab: Installation, folder: Path, user: str) -> None:
    """Nothing that anybody inside makes in a workspace is a device outside."""
    assert "tried" in inside(lab, folder, NODES, user)
    assert [name for name, mode in modes(folder).items() if stat.S_ISCHR(mode) or stat.S_ISBLK(mode)] == []


def test_a_pipe_of_the_host_holds_nothing_up(lab: Installation, folder: Path) -> None:
    """Opening a pipe or a socket that lies in a workspace ends or fails, and the workspace works meanwhile."""
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "sock", Path.cwd()))
        script = (
            "timeout 3 cat pipe & timeout 3 sh -c 'echo x > pipe' & timeout 3 cat sock; echo goes on > file; cat file"
        )
        said = inside(lab, folder, f"{script}; wait")
    assert "goes on\n" in said
    assert (folder / "file").read_text() == "goes on\n"


@pytest.mark.namespaces_only(
    "the 9p server of QEMU 7.2 makes a pipe and then fails to say so; outside workspaces it works"
)
def test_pipes_and_sockets_work_inside(lab: Installation, folder: Path) -> None:
    """Programs inside talk through a pipe that they make in a workspace, as build tools do."""
    assert inside(lab, folder, "mkfifo p && (echo through the pipe > p & cat p)") == "through the pipe\n"


def test_large_files_arrive_whole(lab: Installation, folder: Path) -> None:
    """Megabytes are the same on both sides, in both directions."""
    data = os.urandom(8 << 20)
    (folder / "large").write_bytes(data)
    said = inside(lab, folder, "sha256sum < large; cp large copy; cat copy copy > twice; sync; sha256sum < copy")
    assert said.split() == [hashlib.sha256(data).hexdigest(), "-"] * 2
    assert hashlib.sha256((folder / "twice").read_bytes()).digest() == hashlib.sha256(data * 2).digest()


NAMES: Final = (
    "with blank", "with\nnewline", "ünïcödé", "quote'\"", "-dash", "back\\slash", "comma,comma", "x" * 255, "日本語",
)  # fmt: skip


def test_every_name_passes(lab: Installation, folder: Path) -> None:
    """Names with blanks, newlines, quotes and every alphabet are the same on both sides, up to 255 bytes."""
    for name in NAMES:
        (folder / name).write_text("outside")
    script = "import os\nfor name in os.listdir('.'):\n    os.mkdir('in-' + name if len(name) < 250 else 'in'); "
    script += "assert open(name).read() == 'outside' or name == 'names.py'\n"
    (folder / "names.py").write_text(script)
    assert inside(lab, folder, "python3 names.py") == ""
    made = {path.name for path in folder.iterdir() if path.is_dir()}
    assert made == {f"in-{name}" if len(name) < 250 else "in" for name in (*NAMES, "names.py")}


WORK: Final = """
import fcntl, mmap, os
with open("file", "w+b") as file:
    file.truncate(8192)
    fcntl.flock(file, fcntl.LOCK_EX)
    with mmap.mmap(file.fileno(), 8192) as memory:
        memory[4096:4100] = b"mmap"
    fcntl.flock(file, fcntl.LOCK_UN)
    os.fsync(file.fileno())
with open("appended", "ab") as file:
    for number in range(10):
        file.write(b"%d" % number); file.flush()
os.rename("appended", "renamed")
os.link("renamed", "hard")
assert os.stat("hard").st_nlink == 2 and os.path.samefile("hard", "renamed")
os.unlink("renamed")
gone = open("hard", "rb"); os.unlink("hard"); assert gone.read() == b"0123456789"
os.truncate("file", 5000)
os.mkdir("full"); open("full/x", "w").close()
try: os.rmdir("full"); raise SystemExit("a full folder was removed")
except OSError: pass
os.chmod("file", 0o640)
print(oct(os.stat("file").st_mode & 0o777), sorted(os.listdir(".")))
"""


@pytest.mark.short
def test_programs_find_a_file_system(lab: Installation, folder: Path) -> None:
    """Maps, locks, appends, renames, hard links, open files without a name and modes work as on a disk."""
    (folder / "work.py").write_text(WORK)
    assert inside(lab, folder, "python3 work.py") == "0o640 ['file', 'full', 'work.py']\n"
    assert (folder / "file").read_bytes() == bytes(4096) + b"mmap" + bytes(900)
    assert (folder / "file").stat().st_mode & 0o777 == 0o640


def test_git_works_on_both_sides(lab: Installation, folder: Path) -> None:
    """A repository that the host made is committed to inside, and the host's git finds it clean and whole."""

    def git(*words: str) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(["git", *words], cwd=folder, env=environment, check=True, capture_output=True, text=True)
        return done.stdout

    git("init", "-q")
    inside(
        lab, folder, "echo work > file; git add file; git -c user.name=A -c user.email=a@good.test commit -qm inside"
    )
    assert git("log", "--format=%s") == "inside\n"
    assert git("status", "--porcelain") == ""
    assert "error" not in git("fsck")


def test_a_file_that_grows_on_the_host_is_followed(lab: Installation, folder: Path) -> None:
    """A program that waits for a file of the host sees it appear."""
    waiter = lab.start(
        "exec", "lab", "bash", "-c", f"cd {folder}; touch ready; until test -s go; do sleep 0.1; done; cat go"
    )
    wait_until((folder / "ready").exists, "the program waits")
    (folder / "go").write_text("went\n")
    assert waiter.communicate(timeout=60)[0] == "went\n"
