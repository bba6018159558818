"""The names of sandboxes."""

from __future__ import annotations

import pytest

from sandhold.model.sandbox_name import default_name, is_sandbox_name

DEFAULT_NAMES = {
    "a plain folder": ("project", "shell-project"),
    "capitals and blanks": ("My Project", "shell-my-project"),
    "letters that names do not have": ("日本", "shell-folder"),
    "the root, which has no name": ("", "shell-folder"),
    "a hidden folder": (".dotfiles", "shell-dotfiles"),
    "a long one is cut": ("x" * 100, "shell-" + "x" * 57),
}


@pytest.mark.parametrize(("folder", "name"), DEFAULT_NAMES.values(), ids=DEFAULT_NAMES)
def test_the_default_name(folder: str, name: str) -> None:
    """A sandbox is called after its agent and its folder, in the letters that names have."""
    assert default_name("shell", folder) == name
    assert is_sandbox_name(name)


NO_NAMES = {
    "nothing": "",
    "a way elsewhere": "../lab",
    "an option": "-i",
    "too long": "a" * 64,
    "capitals": "Lab",
    "a line behind it": "lab\n",
}


@pytest.mark.parametrize("text", NO_NAMES.values(), ids=NO_NAMES)
def test_what_names_no_sandbox(text: str) -> None:
    """A name has up to 63 small letters, digits and `_.-`, and starts with one of the first two."""
    assert not is_sandbox_name(text)
