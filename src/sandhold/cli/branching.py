"""`sbx run --branch NAME`: the agent works on a branch of its own, and the user is told how to take its work over."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from sandhold.cli import output
from sandhold.session import creation
from sandhold.session.building.templates import ensure_template
from sandhold.session.workspace import branches
from sandhold.store import sandboxes

if TYPE_CHECKING:
    from sandhold.model.sandbox import Sandbox
    from sandhold.paths import Paths
    from sandhold.store.database import Database


def found_or_made(paths: Paths, database: Database, wanted: creation.Wanted, branch: str) -> Sandbox:
    """Return the sandbox for that branch, made with its worktree when there is none.

    Raises:
        SbxError: when there is no such repository, branch or sandbox to be had.
    """
    planned = branches.plan(wanted, branch, paths)
    again = sandboxes.find(database, planned.sandbox.name)
    if again is not None:
        branches.expect_same(planned, again, paths)
        return again
    ensure_template(paths, planned.sandbox.template, time.time(), output.progress)
    output.end_progress()
    made = branches.make(planned, paths, os.environ)
    try:
        sandbox = creation.make(database, paths, made)
    except sandboxes.NameTakenError:
        branches.release(paths, made.name)
        raise
    output.say(f"`{sandbox.name}` works on the branch `{branch}`, in `{sandbox.workspace}`")
    return sandbox


def say_how_to_review(paths: Paths, sandbox: str) -> None:
    """Say how to look at the work on a sandbox's branch; nothing when it has none."""
    branch = branches.find(paths, sandbox)
    for sentence in branches.advice(branch) if branch is not None else ():
        output.hint(sentence)


def say_kept(kept: str | None) -> None:
    """Say which worktree outlives its sandbox, and why."""
    if kept is not None:
        output.warn(f"kept `{kept}`: it holds work that is in no commit of its branch")
        output.hint("a new sandbox of the same name and branch goes on with it")
