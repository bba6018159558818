"""How a template lies on disk, and whether one is whole without another: with few modules, for commands that only start
what is there."""

from __future__ import annotations

import json
import os
from typing import Final

HOST_TEMPLATE: Final = "host"
DESCRIPTION: Final = "template.json"
DESCRIPTION_VERSION: Final = 1
DESCRIPTION_BYTES_MAX: Final = 65_536  # a page of package names; more is no description of ours
ROOT: Final = "rootfs"
KIND_OF_ROOT: Final = "directory"  # `TemplateKind.DIRECTORY`, without the rest of what a cell is


def stands_alone(folder: str, name: str) -> bool:
    """Whether the template of that name in a folder is whole and lies over no other, as far as its description says."""
    if name == HOST_TEMPLATE:
        return True
    try:
        with open(f"{folder}/{name}/{DESCRIPTION}", "rb") as file:  # noqa: PTH123  for commands that load few modules
            fields = json.loads(file.read(DESCRIPTION_BYTES_MAX))
    except (OSError, ValueError):
        return False
    if not isinstance(fields, dict) or fields.get("version") != DESCRIPTION_VERSION:
        return False
    return fields.get("kind") == KIND_OF_ROOT and os.path.isdir(f"{folder}/{name}/{ROOT}")  # noqa: PTH112
