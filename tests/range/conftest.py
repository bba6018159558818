"""One range for all its tests: it takes seconds to make."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.installation import Installation
from tests.range import field as ranges

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def field(template_folder: Path) -> Iterator[ranges.Field]:
    """Make the range."""
    if os.geteuid() != 0:
        pytest.skip("links between network namespaces can only be made by root")
    home = Path(tempfile.mkdtemp(prefix="sbx-range-"))
    home.chmod(0o755)
    project = home / "project"
    project.mkdir()
    yield from ranges.build(Installation(home, template_folder), project)
    shutil.rmtree(home)
