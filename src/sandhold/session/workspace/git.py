"""Git as we call it ourselves: on repositories that an agent may have written to, and so never on their terms.

Rules:

1. No program that a repository, its attributes or its files name is run: no hook, file system monitor, filter, merge or
   diff driver, pager, editor, helper of credentials or transports. What configuration can name, the command line names
   first, which wins (git-config(1)).
2. Where filters would run (files are checked out or compared) git gets a repository of ours, with none but our own
   configuration, that borrows the objects: filters have names that nobody can list.
3. Nothing is fetched: no transport is allowed, not even for objects that a partial clone lacks.
4. Names that reach a command line are checked first, and paths come after `--`.
5. The configuration of the host and of its user is not read either.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.linux.process import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sandhold.linux.process import Completed

GIT_TIMEOUT_S: Final = 300.0  # a repository of millions of files is checked out in less; a pipe among them never ends
WORDS_MAX: Final = 500  # of what git says when it fails

_BRANCH: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_SETTINGS: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.attributesFile=/dev/null",
    "core.logAllRefUpdates=false",
    "core.pager=cat",
    "core.editor=false",
    "core.askPass=false",
    "core.sshCommand=false",
    "core.alternateRefsCommand=false",
    "credential.helper=",
    "protocol.allow=never",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "worktree.guessRemote=false",
    "worktree.useRelativePaths=false",
)
_ENVIRONMENT: Final = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": "false",
    "GIT_EDITOR": "false",
    "GIT_PAGER": "cat",
}


class GitError(SbxError):
    """Git refused, with its own words; or it is not there, or does not end."""


def check_branch_name(name: str) -> None:
    """Check a name for a branch: letters, digits and `. _ / -`, and git's own rules (git-check-ref-format(1)).

    Raises:
        SbxError: when it is none.
    """
    is_plain = _BRANCH.fullmatch(name) is not None and name != "HEAD"
    if not is_plain or _run(["git", "check-ref-format", f"refs/heads/{name}"], {}).status != 0:
        raise SbxError(
            f"`{name}` cannot name a branch",
            hint="use letters, digits and `. _ / -`, for example `fix-login`",
            status=EXIT_USAGE,
        )


def ask(git_dir: Path, *words: str, work: Mapping[str, str] | None = None) -> str | None:
    """Return what git says, without the last line's end; None when it exits with 1, which is how it says no.

    Raises:
        GitError: when it fails.
    """
    done = _run([*_program(git_dir), *words], work or {})
    if done.status == 1:
        return None
    return _said(words, done).decode("utf-8", "surrogateescape").removesuffix("\n")


def do(git_dir: Path, *words: str, work: Mapping[str, str] | None = None, timeout_s: float = GIT_TIMEOUT_S) -> bytes:
    """Run git, which must succeed, and return what it said.

    Raises:
        GitError: when it fails, or takes longer.
    """
    return _said(words, _run([*_program(git_dir), *words], work or {}, timeout_s=timeout_s))


def own_setting(git_dir: Path, key: str, home: str) -> str | None:
    """Return a setting as the user would find it in that repository, None when there is none.

    This is the one question that the user's own configuration answers; reading runs nothing.
    """
    environment = {**_ENVIRONMENT, "HOME": home}
    for name in ("GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_GLOBAL"):
        del environment[name]
    done = _run(["git", f"--git-dir={git_dir}", "config", "--get", key], {}, environment)
    text = done.stdout.decode("utf-8", "replace").strip()
    return text if done.status == 0 and text else None


@contextmanager
def borrowed(git_dir: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Make a repository of ours that has the objects of another and nothing else of it, by rule 2.

    Yields its folder and the variables to call git with.

    Raises:
        GitError: when it cannot be made.
    """
    kind = ask(git_dir, "rev-parse", "--show-object-format") or "sha1"
    import tempfile  # noqa: PLC0415  a session imports this module, and makes no folder like that

    with tempfile.TemporaryDirectory(prefix="sbx-git-") as folder:
        made = _run(
            ["git", "init", "--quiet", "--bare", "--template=", f"--object-format={kind}", "--", f"{folder}/own"], {}
        )
        _said(("init",), made)
        from_there = {"GIT_OBJECT_DIRECTORY": str(git_dir / "objects"), "GIT_INDEX_FILE": f"{folder}/index"}
        yield type(git_dir)(folder, "own"), from_there


def _program(git_dir: Path) -> list[str]:
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    return ["git", "--no-pager", "--no-optional-locks", "--literal-pathspecs", *settings, f"--git-dir={git_dir}"]


def _run(
    argv: list[str],
    work: Mapping[str, str],
    environment: Mapping[str, str] = _ENVIRONMENT,
    timeout_s: float = GIT_TIMEOUT_S,
) -> Completed:
    try:
        return run(argv, timeout_s=timeout_s, env={**environment, **work})
    except FileNotFoundError:
        raise GitError("git is not installed", hint="install it: `sudo apt-get install git`") from None
    except (OSError, TimeoutError) as error:
        raise GitError(f"git did not answer: {error}") from error


def _said(words: tuple[str, ...], done: Completed) -> bytes:
    if done.status != 0:
        text = done.stderr.decode("utf-8", "replace").strip()[-WORDS_MAX:]
        raise GitError(f"`git {words[0]}` failed: {text or f'status {done.status}'}")
    return done.stdout
