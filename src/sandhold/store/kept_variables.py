"""The variables that are kept with a sandbox: with a value, or by the name that they have on the host."""

from __future__ import annotations

import json


def text_of(environment: tuple[tuple[str, str], ...], host_variables: tuple[str, ...]) -> str:
    """Return both kinds of variables as one text; one of the host's has no value in it.

    It is ASCII: bytes of argv that are no UTF-8 come back as they went in.
    """
    return json.dumps([*environment, *((name, None) for name in host_variables)])


def read(text: str) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return the variables with their values and the names of the host's, as `text_of` wrote them."""
    if text == "[]":
        return (), ()  # as most have it
    variables = json.loads(text)
    valued = tuple((name, value) for name, value in variables if value is not None)
    return valued, tuple(name for name, value in variables if value is None)
