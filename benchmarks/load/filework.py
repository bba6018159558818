"""Runs inside a sandbox and on the host: does one step of file work in a folder, and says how long that took.

usage: python3 filework.py FOLDER STEP COUNT

Each step works in a folder of its own and nothing is deleted: ext4 gives no inode out again within a minute of its
deletion and passes over all of those at each new file, so that whoever comes second would pay for the first.

STEP     prepare  makes what the others need: an archive, a repository with COUNT files, a package to install
         unpack   unpacks the archive of COUNT/10 files
         status   asks git what has changed in the repository
         install  lets pip install the package of COUNT/50 modules, compiled, into a new folder
"""

import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

PER_FOLDER = 100
BODY = "value = 1  # a line of a source file\n" * 40
GIT = ("git", "-c", "safe.directory=*", "-c", "user.name=n", "-c", "user.email=n@good.test", "-c", "gc.auto=0")


def main() -> None:
    """Do one step."""
    folder, step, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    work = {"unpack": unpack, "status": status, "install": install}
    if step == "prepare":
        prepare(folder, count)
        print(json.dumps({}))
        return
    if step == "status":
        # git keeps each file's owner in its index. Who that is differs inside and outside, and after each change of
        # sides git reads every file anew, once.
        status(folder, folder)
    fresh = Path(tempfile.mkdtemp(prefix=f"{step}-", dir=folder))
    began, used_s = time.perf_counter(), processor_s()
    work[step](folder, fresh)
    print(json.dumps({"wall_s": time.perf_counter() - began, "cpu_s": processor_s() - used_s}))


def processor_s() -> float:
    """Return the processor time of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def prepare(folder: Path, count: int) -> None:
    """Make everything once."""
    repository = folder / "repository"
    write_files(repository, count)
    subprocess.run([*GIT, "init", "-q"], cwd=repository, check=True)
    subprocess.run([*GIT, "add", "."], cwd=repository, check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "all"], cwd=repository, check=True)
    write_files(folder / "archived" / "pack", count // 10)
    with tarfile.open(folder / "archive.tar", "w") as archive:
        archive.add(folder / "archived" / "pack", "pack")
    write_files(folder / "packed" / "pack", count // 50)
    write_wheel(folder / "pack-1.0-py3-none-any.whl", folder / "packed")
    os.sync()


def write_files(folder: Path, count: int) -> None:
    """Write small source files, a hundred a folder."""
    for number in range(count):
        if number % PER_FOLDER == 0:
            below = folder / f"part{number // PER_FOLDER}"
            below.mkdir(parents=True)
        (below / f"module{number}.py").write_text(BODY)


def write_wheel(path: Path, source: Path) -> None:
    """Write a package as pip installs it, without a build."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for each in sorted(source.rglob("*.py")):
            wheel.write(each, each.relative_to(source))
        wheel.writestr("pack-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pack\nVersion: 1.0\n")
        wheel.writestr("pack-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("pack-1.0.dist-info/RECORD", "")


def unpack(folder: Path, fresh: Path) -> None:
    """Unpack the archive."""
    subprocess.run(["tar", "-xf", str(folder / "archive.tar"), "-C", str(fresh)], check=True)


def status(folder: Path, _fresh: Path) -> None:
    """Ask git what has changed; nothing has, and it looks at every file."""
    done = subprocess.run([*GIT, "status", "--porcelain"], cwd=folder / "repository", check=True, capture_output=True)
    assert not done.stdout, done.stdout[:200]


def install(folder: Path, fresh: Path) -> None:
    """Let pip install the package."""
    words = ["-m", "pip", "install", "-q", "--isolated", "--no-index", "--no-deps", "--root-user-action=ignore"]
    wheel = str(folder / "pack-1.0-py3-none-any.whl")
    # With `--target` pip would unpack into /tmp first: on one file system a rename follows, between two a copy of all.
    subprocess.run([sys.executable, *words, "--prefix", str(fresh), wheel], check=True)


if __name__ == "__main__":
    main()
