"""Installations for tests: each with its own state, all with one set of templates, because those take a minute each."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.installation import Installation
from tests.isolation import kinds_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.isolation import Kind


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that asks for `isolation`, by itself or through a fixture, against every kind of cell."""
    if "isolation" in metafunc.fixturenames:
        metafunc.parametrize("isolation", kinds_for(metafunc.definition), indirect=True, scope="module")


@pytest.fixture(scope="module")
def isolation(request: pytest.FixtureRequest) -> Kind:
    """Be one kind of cell after the other."""
    kind: Kind = request.param
    return kind


@pytest.fixture(scope="session")
def template_folder() -> Path:
    """Keep the templates that tests build from one run to the next, per user: they only hold public packages."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sandhold-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def sbx(template_folder: Path) -> Iterator[Installation]:
    """Make an installation with nothing in it; whatever it runs is stopped and deleted afterwards."""
    yield from _installation(template_folder)


@pytest.fixture
def project(sbx: Installation) -> Path:
    """Make a project's folder with a file in it."""
    return _project(sbx)


@pytest.fixture(scope="module")
def module_sbx(template_folder: Path) -> Iterator[Installation]:
    """Make an installation that all tests of a module share."""
    yield from _installation(template_folder)


@pytest.fixture(scope="module")
def module_project(module_sbx: Installation) -> Path:
    """Make a project's folder that all tests of a module share."""
    return _project(module_sbx)


def _installation(template_folder: Path) -> Iterator[Installation]:
    home = Path(tempfile.mkdtemp(prefix="sbx-test-"))
    home.chmod(0o755)
    installation = Installation(home, template_folder)
    yield installation
    for name in installation("ls", "-q").out.split():
        installation("rm", "-f", name)
    shutil.rmtree(home)


def _project(installation: Installation) -> Path:
    folder = installation.home / "project"
    folder.mkdir()
    (folder / "hello.txt").write_text("hello from the host\n")
    return folder
