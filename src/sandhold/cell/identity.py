"""Who is who: the ids inside a cell and the ids of the host that they are.

Rules:

1. Root of the host gives every cell a range of ids that nobody on the host has: inside 0 to 65535 are
   `ROOT_BASE + 65536 * slot` and on. The outer user namespace is the host's own.
2. An ordinary user gives the agent (1000) their own id, and every other id one of their subordinate ids. The outer user
   namespace is a new one with that map, the inner one below it has the same ids.
3. Without subordinate ids or their helpers, the agent's id is the only one there is: no root inside, no packages.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from sandhold.cell.spec import AGENT_UID
from sandhold.linux.users import IdRange, Maps, helpers_missing, map_around, subordinate_range

IDS: Final = 65536
ROOT_BASE: Final = 1_000_000_000  # above what distributions, directory services and subordinate ranges hand out
SLOTS_MAX: Final = 40_000  # the last range ends below 2**32 - 2**30, clear of the ids that mean nobody


@dataclass(frozen=True, slots=True)
class Identity:
    """The maps of one cell. `outer` is None when the outer user namespace is the host's own or has one id.

    `base` is the first id of the cell's range on the host, None for an ordinary user. `notes` says what is missing.
    """

    outer: Maps | None
    inner: Maps
    base: int | None
    is_single: bool
    notes: tuple[str, ...]


def identity_for(slot: int) -> Identity:
    """Return the maps for the user who runs this, by rules 1 to 3.

    Raises:
        ValueError: when the slot has no range.
    """
    if not 0 <= slot < SLOTS_MAX:
        raise ValueError(f"slot {slot} is not in 0 to {SLOTS_MAX - 1}")
    if os.geteuid() == 0:
        base = ROOT_BASE + IDS * slot
        ids = (IdRange(0, base, IDS),)
        return Identity(None, Maps(ids, ids), base, is_single=False, notes=())
    missing, maps = _subordinate_maps()
    if maps is None:
        one = (IdRange(AGENT_UID, 0, 1),)
        note = f"no root and no package installation inside: {missing}"
        return Identity(None, Maps(one, one), None, is_single=True, notes=(note,))
    same = Maps(_same_ids(maps.users), _same_ids(maps.groups))
    return Identity(maps, same, None, is_single=False, notes=())


def _subordinate_maps() -> tuple[str, Maps | None]:
    helper = helpers_missing()
    if helper is not None:
        return f"`{helper}` is not installed (package `uidmap`)", None
    uid = os.geteuid()
    users = subordinate_range("/etc/subuid", uid)
    groups = subordinate_range("/etc/subgid", uid)
    if users is None or groups is None or min(users[1], groups[1]) <= AGENT_UID:
        return "this user has no range in `/etc/subuid` and `/etc/subgid`", None
    return "", Maps(map_around(AGENT_UID, uid, *users), map_around(AGENT_UID, os.getegid(), *groups))


def _same_ids(outer: tuple[IdRange, ...]) -> tuple[IdRange, ...]:
    return tuple(IdRange(line.inside, line.inside, line.count) for line in outer)
