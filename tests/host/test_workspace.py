"""What an agent could leave in a workspace for its owner to run: read-only inside, or reported at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandhold.session.log import LOG_BYTES_MAX, LOG_NAME
from tests.installation import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.installation import Installation
    from tests.isolation import Kind

GIT = ("git", "-c", "user.name=ada", "-c", "user.email=ada@example.com", "-c", "init.defaultBranch=main")


def git(folder: Path, *words: str) -> str:
    """Run git on the host, in a repository of the test's own."""
    return subprocess.run([*GIT, "-C", str(folder), *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(sbx: Installation, project: Path, isolation: Kind) -> Path:
    """Make the project a repository with a nested one in it, and a sandbox `lab` for it."""
    return make_repository(sbx, project, isolation)


def make_repository(sbx: Installation, project: Path, isolation: Kind) -> Path:
    """Make both repositories, owned by an ordinary user where the tests are root's, and the sandbox."""
    for folder in (project, project / "vendor" / "lib"):
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet")
        (folder / "readme").write_text("read me\n")
        git(folder, "add", "readme")
        git(folder, "commit", "--quiet", "-m", "first")
    if os.geteuid() == 0:
        for path in [project, *project.rglob("*")]:
            os.chown(path, 1000, 1000, follow_symlinks=False)
    sbx.ok("create", *isolation.quickest, "--name", "lab", "shell", ".", folder=project)
    return project


def inside(sbx: Installation, script: str, name: str = "lab") -> str:
    """Run a script inside to its end; returns all that it said."""
    settings = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b.test GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b.test;"
    done = sbx("exec", name, "bash", "-c", f"{settings} exec 2>&1; {script}; true")
    assert done.status == 0, done
    return done.out


def changed(sbx: Installation, name: str = "lab") -> list[tuple[str, str]]:
    """Wait for the session's end and return what it put on record as changed."""
    wait_until(lambda: sbx.records(name)[-1]["kind"] == "session-stopped", "the session's end is on record")
    record = sbx.records(name)[-2]
    return [(each["what"], each["path"]) for each in record["files"]] if record["kind"] == "workspace-changed" else []


ATTEMPTS = {
    "write a hook": "echo evil > .git/hooks/pre-commit",
    "append to the configuration": "echo evil >> .git/config",
    "set what git runs": "git config core.fsmonitor evil",
    "rename the hooks away": "mv .git/hooks .git/old && mkdir .git/hooks && echo evil > .git/hooks/pre-commit",
    "rename the repository away": "mv .git .old && cp -r .old .git && echo evil > .git/hooks/pre-commit",
    "delete the configuration": "rm -f .git/config && echo evil > .git/config",
    "rename a file over it": "echo evil > new && mv -f new .git/config",
    "exchange the folders": "mkdir h && echo evil > h/pre-commit && mv --exchange h .git/hooks",
    "through another link to it": "ln .git/config cfg && echo evil > cfg",
    "through a link to the folder": "ln -s .git/hooks h && echo evil > h/pre-commit",
    "as root": "sudo -n sh -c 'echo evil > .git/hooks/pre-commit; umount .git/hooks; echo evil > .git/hooks/x'",
    "as root, made writable again": "sudo -n mount -o remount,bind,rw .git/hooks; echo evil > .git/hooks/x",
    "a hook of a nested repository": "echo evil > vendor/lib/.git/hooks/pre-commit",
    "the nested repository renamed away": "cd vendor/lib && mv .git .old && mkdir -p .git/hooks",
}


@pytest.fixture(scope="module")
def shared(module_sbx: Installation, module_project: Path, isolation: Kind) -> Iterator[tuple[Installation, Path]]:
    """Make one repository that every attempt is made on: none of them may change it."""
    yield module_sbx, make_repository(module_sbx, module_project / isolation.name, isolation)
    module_sbx.ok("rm", "-f", "lab")


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_hooks_and_configuration(shared: tuple[Installation, Path], attempt: str) -> None:
    """No way from inside, root's neither, changes git's hooks or configuration, so that none is reported."""
    sbx, folder = shared
    before = git_files(folder)
    assert len(before) >= 2
    inside(sbx, attempt)
    assert git_files(folder) == before
    assert [path for _, path in changed(sbx) if "/.git/" in path] == []


def git_files(folder: Path) -> dict[str, bytes]:
    """Return what is in the hooks and configurations of every repository below a folder."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.parent.name == "hooks"]
    return {str(path): path.read_bytes() for path in [*found, *folder.rglob(".git/config")]}


def test_work_goes_on(sbx: Installation, repository: Path) -> None:
    """Adding, committing, branching, merging, stashing and tagging work; what git cannot note it says, and goes on."""
    script = """set -e; echo more > more; git add more; git commit -qm more; git checkout -qb topic; echo x >> more
    git commit -qam topic; git checkout -q main; git merge -q topic; git tag v1; echo y >> more; git stash -q; git gc -q
    git checkout -qb tracking --track main; git branch -D topic; echo worked"""
    said = inside(sbx, script)
    assert said.splitlines()[-1] == "worked"
    assert "could not write config file .git/config" in said
    assert git(repository, "log", "--format=%s", "main").split() == ["topic", "more", "first"]
    assert changed(sbx) == []


@pytest.mark.short
def test_hooks_that_are_not_there_yet(sbx: Installation, repository: Path) -> None:
    """A repository without hooks gets an empty folder for them, its owner's, that nothing inside can fill."""
    hooks = repository / ".git" / "hooks"
    for path in hooks.iterdir():
        path.unlink()
    hooks.rmdir()
    assert "Read-only file system" in inside(sbx, "echo evil > .git/hooks/pre-commit")
    assert (list(hooks.iterdir()), hooks.stat().st_uid) == ([], repository.stat().st_uid)


def test_what_is_made_later_is_reported(sbx: Installation, repository: Path) -> None:
    """A repository that did not exist, a nested one put in another's place, and other files that run are named at the
    end, their names escaped."""
    script = """git init -q fresh; echo evil > fresh/.git/hooks/post-checkout; echo evil > .envrc; echo all: > Makefile
    mv vendor/lib vendor/old; mkdir -p vendor/lib/.git/hooks; echo evil > vendor/lib/.git/hooks/pre-commit
    echo x > "$(printf 'a\\033[31m\\nb.mk')"; echo ../evil > .git/commondir; rm .git/commondir"""
    sbx.ok("run", "-d", "lab")
    inside(sbx, script)
    said = sbx("stop", "lab").err
    found = changed(sbx)
    for path in ("fresh/.git/hooks/post-checkout", ".envrc", "Makefile", "vendor/lib/.git/hooks/pre-commit"):
        assert ("new", f"{repository}/{path}") in found or ("changed", f"{repository}/{path}") in found
        assert f"{repository}/{path}" in said
    assert "\x1b" not in said
    assert "a\\x1b[31m\\x0ab.mk" in said
    assert "Makefile (new): a build runs it" in said


def test_what_the_host_replaces_is_covered_again(sbx: Installation, repository: Path) -> None:
    """Git on the host rewrites a configuration while a sandbox runs: the new one is read-only inside too."""
    sbx.ok("run", "-d", "lab")
    for number in range(3):
        before = covered(sbx)
        git(repository, "config", "user.name", f"somebody {number}")
        if os.geteuid() == 0:
            os.chown(repository / ".git" / "config", 1000, 1000)
        wait_until(lambda before=before: covered(sbx) > before, "it is covered again")
        assert "Read-only file system" in inside(sbx, "echo evil >> .git/config")
        assert "busy" in inside(sbx, "echo evil > new; LC_ALL=C mv -f new .git/config")
    assert "evil" not in (repository / ".git" / "config").read_text()
    assert "somebody 2" in inside(sbx, "git config user.name")


def test_a_full_log_is_put_aside_while_a_session_runs(sbx: Installation, repository: Path) -> None:
    """A session does not wait for its end to begin its log anew, and says in the new one what it has to say."""
    sbx.ok("run", "-d", "lab")
    log = sbx.state / "sandboxes" / "lab" / LOG_NAME
    with log.open("ab") as file:
        file.write(b"x" * LOG_BYTES_MAX)
    git(repository, "config", "user.name", "somebody")
    wait_until(lambda: log.stat().st_size < LOG_BYTES_MAX and covered(sbx), "it speaks in a log of its own")
    assert LOG_BYTES_MAX <= log.with_suffix(".log.1").stat().st_size < LOG_BYTES_MAX * 2
    sbx.ok("stop", "lab")


def test_hooks_and_repositories_that_the_host_replaces(sbx: Installation, repository: Path) -> None:
    """Hooks that are replaced on the host are read-only inside, and so is all of a repository that is."""
    sbx.ok("run", "-d", "lab")
    for path in (repository / ".git" / "hooks", repository / "vendor" / "lib" / ".git"):
        before = covered(sbx)
        subprocess.run(["cp", "-a", path, f"{path}.new"], check=True)
        path.rename(f"{path}.old")
        Path(f"{path}.new").rename(path)
        wait_until(lambda before=before: covered(sbx) > before, "it is covered again")
    for name in (".git/hooks/pre-commit", "vendor/lib/.git/hooks/pre-commit", "vendor/lib/.git/config"):
        assert "Read-only file system" in inside(sbx, f"echo evil > {name}")


def test_work_in_a_new_repository_goes_on(sbx: Installation, repository: Path) -> None:
    """A repository that is made inside stays its maker's while the session runs, and is guarded from the next start."""
    sbx.ok("run", "-d", "lab")
    git(repository, "config", "user.name", "somebody")
    wait_until(lambda: covered(sbx), "the other one is covered")
    said = inside(sbx, "git clone -q . fresh && cd fresh && git remote add other ../vendor/lib && git remote")
    assert said.split() == ["origin", "other"]
    sbx.ok("stop", "lab")
    assert "could not" in inside(sbx, "cd fresh && git remote add third ../vendor/lib")


def covered(sbx: Installation) -> int:
    """How often the session says that it covered something again."""
    return sbx.ok("logs", "lab").count("read-only again that were replaced")


def test_a_session_that_was_killed_reports_all_the_same(sbx: Installation, repository: Path) -> None:
    """What changed before a session was killed is on record once the next command comes by."""
    sbx.ok("run", "-d", "lab")
    inside(sbx, "echo all: > Makefile")
    marker = json.loads((sbx.state / "sandboxes" / "lab" / "session.json").read_text())
    os.kill(marker["pid"], signal.SIGKILL)
    wait_until(lambda: "lost" in sbx.ok("ls"), "the session is gone")
    assert "Makefile (new)" in sbx("stop", "lab").err
    assert changed(sbx) == [("new", f"{repository}/Makefile")]


@pytest.mark.short
def test_patterns_of_the_users_own(sbx: Installation, repository: Path, isolation: Kind) -> None:
    """`--protect` makes more read-only, with everything above it fixed in place; `--no-protect` leaves git's to the
    agent, and the report says what it did with them."""
    (repository / "ci" / "jobs").mkdir(parents=True)
    (repository / "ci" / "jobs" / "deploy").write_text("deploy\n")
    (repository / "Makefile").write_text("all:\n")
    for path in ("ci", "ci/jobs", "ci/jobs/deploy", "Makefile"):
        os.chown(repository / path, 1000, 1000)
    flags = ("--protect", "ci/jobs/**", "--protect", "Makefile", "--no-protect")
    sbx.ok("create", *isolation.quickest, "--name", "own", *flags, "shell", ".", folder=repository)
    script = """echo evil > ci/jobs/deploy; mv ci old; mv ci/jobs ci/old; echo evil > Makefile; mv Makefile m
    rm Makefile; echo evil > .git/hooks/pre-commit; git config core.pager evil"""
    said = inside(sbx, script, "own")
    assert ((repository / "ci/jobs/deploy").read_text(), (repository / "Makefile").read_text()) == (
        "deploy\n",
        "all:\n",
    )
    assert said.count("Device or resource busy") >= 3
    assert changed(sbx, "own") == [
        ("changed", f"{repository}/.git/config"),
        ("new", f"{repository}/.git/hooks/pre-commit"),
    ]
    assert sbx("create", "--name", "bad", "--protect", "../x", "shell", ".", folder=repository).status == 2


def test_what_cannot_be_covered_is_said(sbx: Installation, repository: Path) -> None:
    """Hooks that are a link cannot be mounted over: that is said, and what is put in their place is reported."""
    (repository / ".git" / "hooks").rename(repository / "shared")
    (repository / ".git" / "hooks").symlink_to("../shared")
    if os.geteuid() == 0:
        os.chown(repository / ".git" / "hooks", 1000, 1000, follow_symlinks=False)
    sbx.ok("run", "-d", "lab")
    assert any("is a link" in note for note in json.loads(sbx.ok("inspect", "lab"))["notes"])
    inside(sbx, "rm .git/hooks && mkdir .git/hooks && echo evil > .git/hooks/pre-commit")
    assert ".git/hooks/pre-commit (new)" in sbx("stop", "lab").err


def test_a_read_only_folder_stays_where_it_is(sbx: Installation, project: Path, isolation: Kind) -> None:
    """A `:ro` folder inside a writable one is read-only under every name: what lies above it cannot be renamed."""
    docs = project / "a" / "docs"
    docs.mkdir(parents=True)
    (docs / "page").write_text("read me\n")
    if os.geteuid() == 0:
        for path in (project, project / "a", docs):
            os.chown(path, 1000, 1000)
    sbx.ok("create", *isolation.quickest, "--name", "lab", "shell", ".", f"{docs}:ro", folder=project)
    inside(sbx, "mv a b; mkdir -p a/docs; echo evil > a/docs/page; ln -s a/docs l; echo evil > l/page; mv a/docs a/d")
    assert ((docs / "page").read_text(), sorted(path.name for path in (project / "a").iterdir())) == (
        "read me\n",
        ["docs"],
    )


def _link_repository(folder: Path) -> None:
    (folder / ".git").symlink_to(folder.parent / "elsewhere")


def _link_hooks(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (folder / ".git" / "hooks").symlink_to(folder.parent / "elsewhere")


LINKS = {"a link where the repository was": _link_repository, "a link where the hooks were": _link_hooks}


@pytest.mark.parametrize("plant", LINKS.values(), ids=LINKS)
def test_links_left_by_an_earlier_session(
    sbx: Installation, project: Path, plant: Callable[[Path], None], isolation: Kind
) -> None:
    """A link that an earlier session left leads neither our mounts nor the folders that we make astray."""
    elsewhere = sbx.home / "elsewhere"
    (elsewhere / "hooks").mkdir(parents=True)
    plant(project)
    before = sorted(path.name for path in elsewhere.rglob("*"))
    sbx.ok("create", *isolation.quickest, "--name", "lab", "shell", ".", folder=project)
    sbx.ok("exec", "lab", "true")
    assert sorted(path.name for path in elsewhere.rglob("*")) == before
    assert os.access(elsewhere / "hooks", os.W_OK)
