"""What a shipped agent needs to sign in, read from its file alone.

A shipped file is what `agents/parsing.py` says (the tests read each), so the parts that are wanted are taken as they
stand; with all that checks a user's own file, reading it takes as long as starting a command.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

_FOLDER: Final = os.path.dirname(__file__)  # noqa: PTH120  pathlib is a tenth of a short command


class ShippedAgent(NamedTuple):
    """An agent by what it needs to sign in; `variables` names those that its file sets."""

    name: str
    keys: tuple[str, ...]
    login: tuple[str, ...]
    variables: tuple[str, ...]


def read_shipped(name: str) -> ShippedAgent:
    """Read the file of a shipped agent.

    Raises:
        OSError: when there is none.
    """
    with open(_file(name), "rb") as file:  # noqa: PTH123
        data = file.read()
    if b"keys" not in data:
        return ShippedAgent(name, (), (), ())
    import tomllib  # noqa: PLC0415  only where the file has something to say

    table = tomllib.loads(data.decode("utf-8"))
    return ShippedAgent(name, tuple(table["keys"]), tuple(table.get("login", ())), tuple(table.get("environment", ())))


def _file(name: str) -> str:
    return f"{_FOLDER}/{name}.toml"
