"""The script that installs an agent."""

from __future__ import annotations

import shlex

from sandhold.agents.parsing import Recipe
from sandhold.session.building.agent_templates import INSTALLED, script_for

WHOLE = Recipe(npm=("@maker/tool@1.2.3", "other@4.5.6"), scripts=("@maker/tool",), node="24.1.0", apt=("jq", "ripgrep"))


def _commands(recipe: Recipe, *, pull: bool = False) -> list[list[str]]:
    return [shlex.split(line) for line in script_for(recipe, pull=pull).splitlines()]


def test_no_package_runs_its_scripts_unasked() -> None:
    """Every installation is without scripts; those that the file names, and node's own, run afterwards."""
    commands = _commands(WHOLE)
    assert all("--ignore-scripts" in words for words in commands if words[:2] == ["npm", "install"])
    rebuilt = [words[-1] for words in commands if words[:2] == ["npm", "rebuild"]]
    assert rebuilt == ["node", "@maker/tool"]
    assert ["npm", "rebuild"] not in [words[:2] for words in _commands(Recipe(("a@1",), (), None, ()))]


def test_versions_are_pinned_unless_pulled() -> None:
    """The file's versions are installed; `--pull` takes the newest of the same packages, node stays as it is."""
    assert [words[-2:] for words in _commands(WHOLE) if "other@4.5.6" in words] == [list(WHOLE.npm)]
    pulled = _commands(WHOLE, pull=True)
    assert [words[-2:] for words in pulled if "other@latest" in words] == [["@maker/tool@latest", "other@latest"]]
    assert any("node@24.1.0" in words for words in pulled)


def test_the_first_failure_ends_it() -> None:
    """What was not installed whole is not a template; the mark comes after every installation."""
    commands = _commands(WHOLE)
    assert commands[0] == ["set", "-eu"]
    mark = commands.index(["echo", INSTALLED])
    assert commands[mark + 1] == ["npm", "ls", "--global", "--depth=0", "--parseable", "--long"]
    assert not [words for words in commands[mark + 2 :] if words[0] not in ("apt-get", "rm")]
