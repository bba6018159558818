"""What is left to a process beside a machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sandhold.cell.machine.confinement import confine

NOBODY = 65534


def confined(user: int | None, parent: int) -> dict[str, object]:
    """What a process says of itself once it is confined."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            stays = confine(user, parent)
            lines = [line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()]
            said = {"stays": stays, "owner": Path("/proc/self/mem").stat().st_uid, **dict(lines)}
            os.write(writer, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:  # noqa: PTH123  a descriptor
        told: dict[str, object] = json.loads(answer.read())
    os.waitpid(child, 0)
    return told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_is_nobody_without_groups() -> None:
    """It is the user it was told to be, has no group but that user's and no right of root's, and gains none."""
    said = confined(NOBODY, os.getpid())
    assert str(said["Uid"]).split() == str(said["Gid"]).split() == [str(NOBODY)] * 4
    assert (said["Groups"], str(said["CapEff"]).strip("\t0"), str(said["CapPrm"]).strip("\t0")) == ("\t ", "", "")
    assert said["NoNewPrivs"] == "\t1"
    assert (said["stays"], said["owner"]) == (True, 0)


def test_without_another_user_nothing_is_gained_either() -> None:
    """Who stays who it is gains no rights, and nobody of that user looks into it (proc(5): its memory is root's)."""
    said = confined(None, os.getpid())
    assert str(said["Uid"]).split() == [str(os.geteuid())] * 4
    assert (said["NoNewPrivs"], said["owner"]) == ("\t1", 0)


def test_whose_maker_is_gone_is_told() -> None:
    """A process that another one has made than it thinks does not go on."""
    assert confined(None, 1)["stays"] is False
