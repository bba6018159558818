"""An agent's file, read into an `Agent` or refused with the line and the key that is wrong.

    description = "what it is"
    command = ["tool", "--no-questions"]            # in front of the user; `ARGS` of `sbx run` come after
    headless = ["tool", "run", "{prompt}"]          # for one prompt, which comes last where `{prompt}` does not stand
    unattended = ["--no-questions"]                 # switches its own questions off: the sandbox is the boundary
    hosts = ["api.example.com"]                     # allow rules of its own, for what no default group covers
    login = [".tool/auth.json"]                     # where its login lives in the home
    keys = ["EXAMPLE_API_KEY"]                      # variables, one of which it needs when it has no login
    instructions = ".tool/INSTRUCTIONS.md"          # where in the home it reads what it is told

    [template]                                      # what a template for it has beyond the base
    npm = ["tool@1.2.3"]
    scripts = ["tool"]                              # packages of those whose install scripts must run
    node = "24.1.0"                                 # when the base's is too old
    apt = ["ripgrep"]

    [environment]
    TOOL_NO_UPDATES = "1"

    [files]                                         # placed in the home where they are absent
    ".tool/settings.json" = '{"trusted": "{workspace}"}'

Rules:

1. `description` and `command` must be there; a key that is not above is an error.
2. What `unattended` names stands in `command` and in `headless`: that there are no questions is seen, not promised.
3. Paths are below the home: relative, without `..`.
4. Packages of `npm` are pinned to one version.
5. Each of `hosts` is a resource that a rule can allow, by the grammar of `policy/syntax.py`.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, TypeGuard

from sandhold.errors import SbxError
from sandhold.model.rule import Effect
from sandhold.model.sandbox_name import SANDBOX_NAME
from sandhold.policy.syntax import RuleSyntaxError, parse_resource

AGENT_NAME: Final = SANDBOX_NAME
PROMPT: Final = "{prompt}"
WORKSPACE: Final = "{workspace}"
TEXT_BYTES_MAX: Final = 64 * 1024  # one argument or variable holds 128 KiB (execve(2)), and paths make a text longer

_KEYS: Final = (
    "description", "command", "headless", "unattended", "hosts", "login", "keys", "instructions", "template",
    "environment", "files",
)  # fmt: skip
_TEMPLATE_KEYS: Final = ("npm", "scripts", "node", "apt")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NPM: Final = re.compile(r"(?:@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*@[0-9][0-9A-Za-z.+-]*")
_NPM_NAME: Final = re.compile(r"(?:@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*")
_NODE: Final = re.compile(r"[0-9]+(?:\.[0-9]+){0,2}")
_APT: Final = re.compile(r"[a-z0-9][a-z0-9.+-]+")
_TEMPLATE_TAKEN: Final = frozenset({"debian", "host"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is installed over the base template: `npm` as `name@version`, `node` a version, `apt` package names."""

    npm: tuple[str, ...]
    scripts: tuple[str, ...]
    node: str | None
    apt: tuple[str, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """All of it, a line each, by which a template can tell whether it was built from this very recipe."""
        return (
            *(f"npm {package}" for package in self.npm),
            *(f"scripts of {package}" for package in self.scripts),
            *([] if self.node is None else [f"node {self.node}"]),
            *(f"apt {package}" for package in self.apt),
        )


@dataclass(frozen=True, slots=True)
class Agent:
    """A program that runs inside. Paths are below the home inside; `recipe` is None when the base has all it needs."""

    name: str
    description: str
    command: tuple[str, ...]
    headless: tuple[str, ...] = ()
    unattended: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    login: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    instructions: str | None = None
    recipe: Recipe | None = None
    environment: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()

    def headless_command(self, prompt: str) -> tuple[str, ...]:
        """Return the command line for one prompt; empty when the agent has none."""
        if not self.headless or PROMPT in self.headless:
            return tuple(prompt if word == PROMPT else word for word in self.headless)
        return (*self.headless, prompt)


def parse_agent(name: str, shown: str, data: bytes) -> Agent:
    """Read an agent's file by rules 1 to 5; `shown` is how messages call the file.

    Raises:
        SbxError: when it breaks one; the message names the file, the line and the key.
    """
    try:
        text = data.decode("utf-8")
        table = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SbxError(f"`{shown}`: {error}") from error
    return _File(shown, text).agent(name, table)


@dataclass(frozen=True, slots=True)
class _File:
    """The file as its errors need it."""

    shown: str
    text: str

    def agent(self, name: str, table: dict[str, object]) -> Agent:
        self.refuse_unknown(table, _KEYS)
        description = table.get("description")
        if not isinstance(description, str) or not description.strip():
            raise self.error("description", "is not a text")
        command = self.words(table, "command")
        if not command:
            raise self.error("command", "is not a list of words")
        agent = Agent(
            name=name,
            description=description,
            command=command,
            headless=self.words(table, "headless"),
            unattended=self.words(table, "unattended"),
            hosts=self.words(table, "hosts"),
            login=tuple(self.path("login", path) for path in self.words(table, "login")),
            keys=self.words(table, "keys", _VARIABLE, "the name of a variable"),
            instructions=self.instructions(table),
            recipe=self.recipe(name, table),
            environment=self.environment(table),
            files=tuple((self.path("files", path), text) for path, text in self.pairs(table, "files")),
        )
        self.check_unattended(agent)
        self.check_hosts(agent)
        return agent

    def recipe(self, name: str, table: dict[str, object]) -> Recipe | None:
        template = self.table(table, "template")
        if template is None:
            return None
        if name in _TEMPLATE_TAKEN:
            raise self.error("template", f"cannot be: `{name}` is the name of a template that is no agent's")
        self.refuse_unknown(template, _TEMPLATE_KEYS)
        node = template.get("node")
        if node is not None and (not isinstance(node, str) or not _NODE.fullmatch(node)):
            raise self.error("node", 'is not a version such as "24.1.0"')
        npm = self.words(template, "npm", _NPM, "a package pinned to one version, `name@1.2.3`")
        scripts = self.words(template, "scripts", _NPM_NAME, "the name of a package")
        return Recipe(npm, scripts, node, self.words(template, "apt", _APT, "the name of a package"))

    def environment(self, table: dict[str, object]) -> tuple[tuple[str, str], ...]:
        pairs = self.pairs(table, "environment")
        for variable, _ in pairs:
            if not _VARIABLE.fullmatch(variable):
                raise self.error(variable, "cannot name a variable")
        return pairs

    def instructions(self, table: dict[str, object]) -> str | None:
        value = table.get("instructions")
        if value is not None and not isinstance(value, str):
            raise self.error("instructions", "is not a path")
        return None if value is None else self.path("instructions", value)

    def check_unattended(self, agent: Agent) -> None:
        """Rule 2; a command that starts through a shell names the flag inside one of its words."""
        for flag in agent.unattended:
            for key, words in (("command", agent.command), ("headless", agent.headless)):
                if words and not any(flag in word.split() for word in words):
                    raise self.error("unattended", f"names `{flag}`, which does not stand in `{key}`")

    def check_hosts(self, agent: Agent) -> None:
        """Rule 5."""
        for resource in agent.hosts:
            try:
                parse_resource(resource, Effect.ALLOW)
            except RuleSyntaxError as error:
                raise self.error("hosts", f"has `{resource}`: {error}") from error

    def words(
        self, table: dict[str, object], key: str, form: re.Pattern[str] | None = None, what: str = ""
    ) -> tuple[str, ...]:
        value = table.get(key, [])
        if not _is_words(value):
            raise self.error(key, "is not a list of words")
        for word in value:
            if form is not None and not form.fullmatch(word):
                raise self.error(key, f"has `{word}`, which is not {what}")
        return tuple(value)

    def pairs(self, table: dict[str, object], key: str) -> tuple[tuple[str, str], ...]:
        found = []
        for name, value in (self.table(table, key) or {}).items():
            if not isinstance(value, str) or "\0" in value or len(value.encode()) > TEXT_BYTES_MAX:
                raise self.error(name, f"is not a text of at most {TEXT_BYTES_MAX} bytes")
            found.append((name, value))
        return tuple(found)

    def table(self, table: dict[str, object], key: str) -> dict[str, object] | None:
        value = table.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, "is not a table")
        return value

    def path(self, key: str, text: str) -> str:
        """Rule 3."""
        path = PurePosixPath(text)
        if path.is_absolute() or not path.parts or ".." in path.parts or str(path) != text or "\0" in text:
            raise self.error(key, f"has `{text}`, which is not a path below the home")
        return text

    def refuse_unknown(self, table: dict[str, object], known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                raise self.error(key, f"is unknown; the keys here are {', '.join(f'`{each}`' for each in known)}")

    def error(self, key: str, problem: str) -> SbxError:
        """Return the error for a key; its line is the first that starts with it, 1 where none does."""
        key_at = re.compile(rf'\s*\[?\s*["\']?{re.escape(key)}\b')
        lines = enumerate(self.text.splitlines(), start=1)
        line = next((number for number, line in lines if key_at.match(line)), 1)
        return SbxError(f"`{self.shown}`, line {line}: `{key}` {problem}")


def _is_words(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(word, str) and word and "\0" not in word for word in value)
