"""The stored policy as egress enforces it: an index that is always there, and denies everything when it must."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from sandhold.errors import SbxError
from sandhold.model.rule import Generation
from sandhold.policy.decide import unreadable_policy
from sandhold.policy.index import PolicyIndex
from sandhold.store.database import read_only
from sandhold.store.generations import generation
from sandhold.store.rules import load_policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandhold.model.rule import Rule
    from sandhold.store.database import Database

    BroughtRules = Callable[[Database], tuple[Rule, ...]]

NO_GENERATION = Generation(0)
"""Stands where not even the number of the generation could be read."""


def load_index(database: Database, sandbox: str | None, brought: BroughtRules = lambda _: ()) -> PolicyIndex:
    """Arrange the policy for one sandbox; one that cannot be read denies everything with `POLICY_UNREADABLE`.

    `brought` returns the rules that agents bring; when it raises `SbxError`, the policy cannot be read.
    """
    try:
        return PolicyIndex(load_policy(database, brought(database)), sandbox)
    except SbxError:
        return unreadable_policy(_generation_or_none(database))


def read_index(path: Path, sandbox: str | None, brought: BroughtRules = lambda _: ()) -> PolicyIndex:
    """Open the database, arrange the policy, close it again: what a running session calls on `--now`.

    A database that cannot be opened, or is gone, denies everything too.
    """
    try:
        if not path.is_file():
            return unreadable_policy(NO_GENERATION)
        with closing(read_only(path)) as database:
            return load_index(database, sandbox, brought)
    except SbxError:
        return unreadable_policy(NO_GENERATION)


def _generation_or_none(database: Database) -> Generation:
    try:
        return generation(database)
    except SbxError:
        return NO_GENERATION
