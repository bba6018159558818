"""The house rules that a linter does not know: sizes, docstrings, mirrored names, what a start may cost."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import pytest
from pip._internal.models.index import PyPI

from sandhold.cli.main import sbx
from sandhold.version import VERSION
from tests.range import coverage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPOSITORY: Final = Path(__file__).parents[1]
SOURCE: Final = REPOSITORY / "src" / "sandhold"
TESTS: Final = REPOSITORY / "tests"

MODULE_LINES_MAX: Final = 400
FUNCTION_LINES_MAX: Final = 60
START_S_MAX: Final = 60.0  # far beyond any start; it only keeps a hanging one from hanging the tests

VAGUE_NAMES: Final = frozenset(
    {"core", "common", "utils", "util", "manager", "managers", "helper", "helpers", "types", "handler", "handlers"}
)

MAY_NAME_A_REGISTRY: Final = (
    "src/sandhold/policy/presets.toml",
    "README.md",
    "tests/walkthrough/",
    "tests/unit/policy/",
)

MIRRORS_A_ROOM: Final = frozenset(
    {"tests/unit/policy/test_against_reference.py"}  # the whole room against a second, slower reading of its rules
)

NOT_OURS: Final = frozenset({"build", "dist"})  # and every hidden folder but the checks themselves

NO_MODULES: Final = frozenset({"host", "30m"})  # words in backticks in the table of rooms

SHOWS_HELP: Final = ("README.md", "docs/commands.md")

SLOW_MODULES: Final = (
    "asyncio",
    "concurrent.futures",
    "cryptography",
    "dns",
    "email",
    "h2",
    "http",
    "hypothesis",
    "importlib.metadata",
    "multiprocessing",
    "rich",
    "ssl",
    "textual",
    "unittest",
    "urllib.request",
)

QUICK_COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "help is shown": ("--help",),
    "sandboxes are listed": ("ls",),
    "rules are listed": ("policy", "ls"),
}

SOURCE_NAMED: Final = re.compile(
    r"(?<![/\w])((?:model|policy|wire|egress|cell|linux|store|agents|session|cli)/(?:[a-z0-9_]+/)?[a-z0-9_]+\.(?:py|toml))\b"
)
TEST_NAMED: Final = re.compile(r"\b(tests/[a-z0-9_/]+\.py)(?:::([a-z0-9_]+))?")

_LIST_MODULES_AT_EXIT: Final = """
import atexit, json, os, sys
atexit.register(lambda: open(os.environ["MODULES_FILE"], "w").write(json.dumps(sorted(sys.modules))))
sys.argv[0] = "sbx"
from sandhold.__main__ import main
sys.exit(main())
"""


def python_files(folder: Path) -> list[Path]:
    """Return every module below a folder, in a fixed order."""
    return sorted(folder.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a path as the repository knows it."""
    return path.relative_to(REPOSITORY).as_posix()


def text_files() -> Iterator[tuple[str, str]]:
    """Yield name and text of every file of the repository that is text."""
    for folder, folders, files in os.walk(REPOSITORY):
        folders[:] = sorted(name for name in folders if name == ".ci" or not name.startswith((".", "__")))
        folders[:] = [name for name in folders if name not in NOT_OURS]
        for name in sorted(files):
            path = Path(folder, name)
            try:
                yield name_of(path), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a module, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def public_parts(
    tree: ast.Module,
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield what needs a docstring: the module, its public classes and functions, and the public methods of those."""
    yield "the module", tree
    bodies: list[tuple[str, list[ast.stmt]]] = [("", tree.body)]
    while bodies:
        prefix, body = bodies.pop()
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                bodies.append((f"{prefix}{node.name}.", node.body))


def run_sbx(arguments: tuple[str, ...], folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run `sbx` with an empty state folder; return what it did and the modules that it had imported at its end."""
    modules_file = folder / "modules.json"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "COLUMNS": "80",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(SOURCE.parent),
        "MODULES_FILE": str(modules_file),
    }
    done = subprocess.run(
        [sys.executable, "-c", _LIST_MODULES_AT_EXIT, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_S_MAX,
        check=False,
    )
    return done, json.loads(modules_file.read_text())


def test_modules_are_short() -> None:
    """A module has at most 400 lines."""
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in python_files(SOURCE)}
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES_MAX} == {}


def test_functions_are_short() -> None:
    """A function has at most 60 lines, its docstring included."""
    too_long = {
        f"{name_of(path)}:{function.name}": lines
        for path in [*python_files(SOURCE), *python_files(TESTS)]
        for function in functions(ast.parse(path.read_text()))
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert too_long == {}


def test_everything_public_says_what_it_is() -> None:
    """Every module, public class and public function has a docstring."""
    silent = [
        f"{name_of(path)}: {what}"
        for path in python_files(SOURCE)
        if path.name != "__init__.py"
        for what, node in public_parts(ast.parse(path.read_text()))
        if not ast.get_docstring(node)
    ]
    assert silent == []


def test_every_test_states_its_rule() -> None:
    """Every test has a docstring."""
    silent = [
        f"{name_of(path)}: {function.name}"
        for path in python_files(TESTS)
        for function in functions(ast.parse(path.read_text()))
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert silent == []


def test_packages_are_only_folders() -> None:
    """`__init__.py` is empty: importing a room does nothing."""
    assert [name_of(path) for path in python_files(SOURCE) if path.name == "__init__.py" and path.read_text()] == []


def test_names_say_something() -> None:
    """No module or folder has a name that could hold anything."""
    parts = {part.removesuffix(".py") for path in python_files(SOURCE) for part in path.relative_to(SOURCE).parts}
    assert parts & VAGUE_NAMES == set()


def test_unit_tests_mirror_the_source() -> None:
    """`tests/unit/ROOM/test_MODULE.py` tests `src/sandhold/ROOM/MODULE.py`."""
    unit = TESTS / "unit"
    orphans = [
        name_of(path)
        for path in unit.rglob("test_*.py")
        if name_of(path) not in MIRRORS_A_ROOM
        and not (SOURCE / path.parent.relative_to(unit) / path.name.removeprefix("test_")).is_file()
    ]
    assert orphans == []


def test_no_path_of_a_developer_machine_is_written_down() -> None:
    """The repository works wherever it is cloned: nothing in it names where this clone is, nor whose it is."""
    clone = str(Path(__file__).resolve().parents[1])
    places = {f"{Path.home()}/.", *([clone] if clone.count("/") > 1 else [])}  # `/src` would be found everywhere
    assert [(name, place) for name, text in text_files() for place in places if place in text] == []


def test_registries_are_named_only_in_policy() -> None:
    """Where packages come from is the user's configuration: only the default groups and their examples name it."""
    hosts = registry_hosts()
    assert all("." in host for host in hosts)
    named = [
        (name, host)
        for name, text in text_files()
        if not name.startswith(MAY_NAME_A_REGISTRY)
        for host in hosts
        if host in text
    ]
    assert named == []


def registry_hosts() -> set[str]:
    """Return the hosts that this machine's pip and, when it is installed, npm would ask."""
    hosts = {PyPI.netloc, PyPI.file_storage_domain}
    npm = shutil.which("npm")
    if npm is not None:
        asked = subprocess.run(
            [npm, "config", "get", "registry"], capture_output=True, text=True, timeout=60, check=True
        )
        hosts |= set(re.findall(r"https?://([^/:\s]+)", asked.stdout))
    return hosts - {"localhost"}


@pytest.mark.parametrize("arguments", QUICK_COMMANDS.values(), ids=QUICK_COMMANDS)
def test_a_start_imports_only_what_it_needs(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """A command that only looks does not pay for the event loop, TLS, HTTP/2 or the screen."""
    done, modules = run_sbx(arguments, tmp_path)
    imported = [slow for slow in SLOW_MODULES if any(name == slow or name.startswith(slow + ".") for name in modules)]
    assert imported == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", SHOWS_HELP)
def test_documents_show_the_real_help(document: str, tmp_path: Path) -> None:
    """Each block after `<!-- output of: sbx ... -->` in a document is what that command prints."""
    blocks = help_blocks(document)
    assert blocks
    for arguments, shown in blocks.items():
        done, _ = run_sbx(tuple(arguments.split()), tmp_path)
        assert done.stdout == shown, "`scripts/update-help` writes it anew"


def test_every_command_is_documented() -> None:
    """`docs/commands.md` shows the help of every command there is, and of no other."""
    commands = {f"{' '.join(words)} --help" for words in commands_of(sbx, ()) if words}
    assert commands == set(help_blocks("docs/commands.md"))


def help_blocks(document: str) -> dict[str, str]:
    """Return what a document shows as the output of `sbx` by the arguments of it."""
    text = (REPOSITORY / document).read_text()
    return dict(re.findall(r"<!-- output of: sbx (.+?) -->\n```text\n(.*?)```\n", text, flags=re.DOTALL))


def commands_of(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command below a command, itself first."""
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands_of(below, (*words, name))


def test_the_package_has_one_version() -> None:
    """What pip calls the version is what `sbx --version` prints."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_the_architecture_lists_every_module() -> None:
    """The table of rooms in ARCHITECTURE.md names each module of a room, and no other."""
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    listed = {
        room: {word for word in re.findall(r"`(\w+)`", modules) if word not in NO_MODULES}
        for room, modules in re.findall(r"^\| `([\w/]+)/` \| (.*) \|$", text, flags=re.MULTILINE)
    }
    rooms = sorted({path.parent for path in python_files(SOURCE)} - {SOURCE})
    assert listed == {
        room.relative_to(SOURCE).as_posix(): {path.stem for path in room.glob("*.py")} - {"__init__"} for room in rooms
    }


def test_documents_name_only_source_that_exists() -> None:
    """A module that a document names is there."""
    missing = {
        (name, module)
        for name, text in text_files()
        if name.endswith(".md")
        for module in SOURCE_NAMED.findall(text)
        if not (SOURCE / module).is_file()
    }
    assert missing == set()


def test_documents_name_only_tests_that_exist() -> None:
    """A promise that names its test has one."""
    missing = {
        (name, file, function)
        for name, text in text_files()
        if name.endswith(".md")
        for file, function in TEST_NAMED.findall(text)
        if function not in names_of_tests(REPOSITORY / file)
    }
    assert missing == set()


def test_the_coverage_table_is_current() -> None:
    """SECURITY.md has a row for each way out that was thought of, as `tests/range/` has it, and each row is held."""
    assert coverage.unheld() == []
    shown = (REPOSITORY / "SECURITY.md").read_text().partition(coverage.BEGIN)[2].partition(coverage.END)[0]
    assert shown == coverage.table(), "`scripts/update-coverage` writes it anew"


def names_of_tests(path: Path) -> set[str]:
    """Return the tests of a file, and the empty name for the file itself; nothing when there is no such file."""
    if not path.is_file():
        return set()
    return {"", *(function.name for function in functions(ast.parse(path.read_text())))}
