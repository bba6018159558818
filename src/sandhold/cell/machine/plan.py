"""The plan that a machine is furnished by, as it crosses from the session to the guest agent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from sandhold.cell.plan import PlannedFile, PlannedSeed

LAYER_SERIAL: Final = "sbxlayer"
ROOT_SERIAL: Final = "sbxroot"
PORT_NAME: Final = "sbx"
SEED_BYTES: Final = 32  # what the kernel's generator wants


@dataclass(frozen=True, slots=True)
class GuestMount:
    """A workspace: the folder inside and the name of the machine's 9p device that serves it."""

    path: str
    tag: str
    is_read_only: bool


@dataclass(frozen=True, slots=True)
class GuestAddress:
    """An address of the guest's network card with its prefix, and the gateway on that link."""

    address: str
    prefix: int
    gateway: str


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """Everything the guest agent needs. `seed` is fresh randomness in hex.

    `files` and `seeds` are as in a cell's plan, `tmp_bytes` is the size of each temporary folder.
    """

    name: str
    seed: str
    pids: int
    tmp_bytes: int
    ipv4: GuestAddress
    ipv6: GuestAddress
    mounts: tuple[GuestMount, ...]
    files: tuple[PlannedFile, ...]
    seeds: tuple[PlannedSeed, ...]


def to_bytes(plan: GuestPlan) -> bytes:
    """Write a plan as JSON."""
    return json.dumps(asdict(plan), separators=(",", ":")).encode("ascii")


def from_bytes(data: bytes) -> GuestPlan:
    """Read what `to_bytes` wrote."""
    raw = json.loads(data)
    return GuestPlan(
        name=raw["name"],
        seed=raw["seed"],
        pids=raw["pids"],
        tmp_bytes=raw["tmp_bytes"],
        ipv4=GuestAddress(**raw["ipv4"]),
        ipv6=GuestAddress(**raw["ipv6"]),
        mounts=tuple(GuestMount(**one) for one in raw["mounts"]),
        files=tuple(PlannedFile(**one) for one in raw["files"]),
        seeds=tuple(PlannedSeed(**one) for one in raw["seeds"]),
    )
