"""Patterns match paths from their end, and the data of what runs by itself is whole."""

from __future__ import annotations

import pytest

from sandhold.errors import SbxError
from sandhold.session.workspace.patterns import auto_run, matches, parse_pattern

MATCHES = {
    "a name anywhere": ("Makefile", "src/deep/Makefile", True),
    "a name that only ends so": ("Makefile", "src/NotMakefile", False),
    "a folder and a name": (".git/hooks", "vendor/x/.git/hooks", True),
    "the same at the top": (".git/hooks", ".git/hooks", True),
    "another folder": (".git/hooks", "vendor/hooks", False),
    "from the top": ("/scripts/*.sh", "scripts/a.sh", True),
    "from the top, deeper": ("/scripts/*.sh", "lib/scripts/a.sh", False),
    "a glob is for one name": ("*.sh", "a/b.sh", True),
    "a glob crosses no slash": ("/a*z", "ab/cz", False),
    "a glob in a folder's name": (".github/*/deploy.yml", ".github/workflows/deploy.yml", True),
    "a dot is a dot": ("a.b", "acb", False),
}


@pytest.mark.parametrize(("text", "path", "expected"), MATCHES.values(), ids=MATCHES)
def test_matching(text: str, path: str, *, expected: bool) -> None:
    """A pattern matches the paths that its names end, and no others."""
    *folder, name = path.split("/")
    pattern = parse_pattern(text)
    assert (pattern.fits_folder(folder) and matches(pattern.name, name)) is expected


@pytest.mark.parametrize("text", ["", "/", "..", "../x", "a//b", "a/../b", ".", "**", "a\nb", "x" * 300])
def test_what_is_no_pattern(text: str) -> None:
    """What is empty, leads out of the folder, or would be all of it is refused."""
    with pytest.raises(SbxError, match="no pattern"):
        parse_pattern(text)


RUNS = {
    "a hook": (".git/hooks/pre-commit", "git runs it"),
    "a sample of a hook, which git does not run": (".git/hooks/pre-commit.sample", None),
    "a hook of a nested repository": ("vendor/x/.git/hooks/post-checkout", "git runs it"),
    "a submodule's configuration": (".git/modules/lib/config", "git runs it"),
    "the file that leads a repository elsewhere": (".git/commondir", "git runs it"),
    "an editor's task, deep": (".vscode/sub/tasks.json", "an editor"),
    "an action": (".github/actions/a/b/action.yml", "continuous integration"),
    "a tool's configuration that is code": ("web/vite.config.ts", "a test run or a tool"),
    "a virtual environment's interpreter": (".venv/bin/python", "a test run or a tool"),
    "a build file anywhere": ("a/b/c/Makefile", "a build"),
    "an agent's instructions": ("CLAUDE.md", "another agent"),
    "a source file": ("src/main.py", None),
    "a file called like a hook elsewhere": ("hooks/pre-commit", None),
    "an object": (".git/index", None),
}


@pytest.mark.parametrize(("path", "why"), RUNS.values(), ids=RUNS)
def test_what_runs_by_itself(path: str, why: str | None) -> None:
    """What git, shells, builds, editors and CI run by themselves is known with its reason; nothing else is."""
    *folder, name = path.split("/")
    rules, deep = auto_run().rules_in((), ())
    for count in range(1, len(folder) + 1):
        rules, deep = auto_run().rules_in(folder[:count], deep)
    found = auto_run().why(name, rules)
    assert found is None if why is None else found is not None and found.startswith(why)


def test_folders_that_are_not_looked_into() -> None:
    """Objects of a repository and installed packages are left out; hooks are not."""
    assert auto_run().is_skipped("objects", ("vendor", ".git"))
    assert auto_run().is_skipped("node_modules", ("web",))
    assert not auto_run().is_skipped("hooks", (".git",))
    assert not auto_run().is_skipped("objects", ("src",))
