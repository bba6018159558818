"""Runs inside a sandbox and on the host: does one step of file work in a folder, and says how long that took.

usage: python3 filework.py FOLDER STEP COUNT

STEP     prepare  makes what the others need: an archive, a repository with COUNT files, a package to install
         unpack   unpacks the archive of COUNT/10 files
         status   asks git what has changed in the repository
         install  lets pip install the package of COUNT/50 modules, compiled, into a new folder
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
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
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    began = time.perf_counter()
    work[step](folder)
    wall_s = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(each.ru_utime + each.ru_stime for each in used)
    shutil.rmtree(folder / "out")
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s}))


def prepare(folder: Path, count: int) -> None:
    """Make everything once."""
    repository = folder / "repository"
    write_files(repository, count)
    subprocess.run([*GIT, "init", "-q"], cwd=repository, check=True)
    subprocess.run([*GIT, "add", "."], cwd=repository, check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "all"], cwd=repository, check=True)
    source = folder / "source"
    write_files(source / "pack", count // 10)
    with tarfile.open(folder / "archive.tar", "w") as archive:
        archive.add(source / "pack", "pack")
    shutil.rmtree(source)
    write_files(source / "pack", count // 50)
    write_wheel(folder / "pack-1.0-py3-none-any.whl", source)
    shutil.rmtree(source)
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


def unpack(folder: Path) -> None:
    """Unpack the archive."""
    subprocess.run(["tar", "-xf", str(folder / "archive.tar"), "-C", str(folder / "out")], check=True)


def status(folder: Path) -> None:
    """Ask git what has changed; nothing has, and it looks at every file."""
    done = subprocess.run([*GIT, "status", "--porcelain"], cwd=folder / "repository", check=True, capture_output=True)
    assert not done.stdout, done.stdout[:200]


def install(folder: Path) -> None:
    """Let pip install the package."""
    words = ["-m", "pip", "install", "-q", "--isolated", "--no-index", "--no-deps", "--root-user-action=ignore"]
    wheel = str(folder / "pack-1.0-py3-none-any.whl")
    subprocess.run([sys.executable, *words, "--target", str(folder / "out"), wheel], check=True)


if __name__ == "__main__":
    main()
