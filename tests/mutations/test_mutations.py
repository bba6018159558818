"""Every layer is needed: with any one of them taken away, a test that names what it is for fails.

Each row of `mutations.toml` is tried on a copy of the source.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY: Final = Path(__file__).parents[2]
MUTATIONS: Final[dict[str, dict[str, Any]]] = tomllib.loads(
    Path(__file__).with_name("mutations.toml").read_text("utf-8")
)
SAMPLE: Final = ("let allow beat deny", "skip the server name", "let datagrams out")
RUN_S: Final = 300.0  # for the tests of one row; they take seconds
FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (tests/\S+::\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what a test needs of the repository."""
    folder = tmp_path_factory.mktemp("mutations") / "repository"
    leave = shutil.ignore_patterns("__pycache__", "mutations")
    for name in ("src", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=leave)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    return folder


def test_each_mutation_still_fits() -> None:
    """What a row replaces stands in the source exactly once, and its tests are there."""
    for name, row in MUTATIONS.items():
        assert (REPOSITORY / "src" / "sandhold" / row["file"]).read_text("utf-8").count(row["old"]) == 1, name
        for test in row["tests"]:
            path, _, function = node(test).partition("::")
            assert f"def {function}(" in (REPOSITORY / path).read_text("utf-8"), test


@pytest.mark.parametrize("name", SAMPLE)
def test_a_missing_layer_is_noticed(copy: Path, name: str) -> None:
    """A few layers, each of which makes a test fail when it is taken away."""
    assert_noticed(copy, MUTATIONS[name])


@pytest.mark.long
def test_nothing_fails_while_every_layer_is_there(copy: Path) -> None:
    """On the copy as it is, the tests that the rows name pass: a failure means the missing layer."""
    tests = sorted({node(test) for row in MUTATIONS.values() for test in row["tests"]})
    assert run(copy, tests) == []


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in MUTATIONS if name not in SAMPLE])
def test_every_missing_layer_is_noticed(copy: Path, name: str) -> None:
    """Every layer makes a test fail when it is taken away."""
    assert_noticed(copy, MUTATIONS[name])


def assert_noticed(copy: Path, row: dict[str, Any]) -> None:
    """Take a layer away and see a test fail."""
    with mutated(copy / "src" / "sandhold" / row["file"], row["old"], row["new"]):
        failed = run(copy, [node(test) for test in row["tests"]])
    assert failed != []


@contextmanager
def mutated(path: Path, old: str, new: str) -> Iterator[None]:
    """Replace a text for the length of a `with`; what comes of it is Python still."""
    whole = path.read_text("utf-8")
    changed = whole.replace(old, new)
    assert changed != whole
    compile(changed, str(path), "exec")
    path.write_text(changed, "utf-8")
    try:
        yield
    finally:
        path.write_text(whole, "utf-8")


def run(copy: Path, tests: list[str]) -> list[str]:
    """Run tests of the copy on its own source; returns those that failed."""
    options = ["-q", "-rfE", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-m", ""]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=copy,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    failed = FAILED.findall(done.stdout)
    assert done.returncode == (1 if failed else 0), done.stdout + done.stderr
    return failed


def node(test: str) -> str:
    """Write a test of a row as pytest names it."""
    module, _, function = test.partition(":")
    return f"tests/{module}.py::test_{function}"
