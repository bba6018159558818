"""A network with a hole in it: the session that made it sees so, and nothing of the sandbox's ever runs."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.load import processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.conftest import Lab

# A program of the host that does nearly what it is told, where it is looked for first.
NFT = '#!/bin/sh\nif [ "$1" = -f ]; then sed \'{change}\' | /usr/sbin/nft -f -; else exec /usr/sbin/nft "$@"; fi\n'
IP = (
    '#!/bin/sh\n/usr/sbin/ip "$@" || exit\n'
    '[ "$1" != -batch ] || exec /usr/sbin/ip link add leak type veth peer name other\n'
)
ALONE = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
HOLES = {
    "IPv4 connections go their own way": (
        "nft",
        NFT.format(change="s/meta nfproto ipv4 meta l4proto tcp dnat ip to/ip daddr 203.0.113.77 &/"),
        "a connection inside to 192.0.2.1 does not end at egress",
    ),
    "IPv6 connections go their own way": (
        "nft",
        NFT.format(change="s/meta nfproto ipv6 meta l4proto tcp dnat ip6 to/ip6 daddr 2001:db8::77 &/"),
        "a connection inside to 2001:db8::1 does not end at egress",
    ),
    "queries go their own way": (
        "nft",
        NFT.format(change="s/meta nfproto ipv4 udp dport 53 dnat/ip daddr 203.0.113.77 udp dport 53 dnat/"),
        "a query inside to 192.0.2.1 does not end at egress",
    ),
    "there is another link": ("ip", IP, "other interfaces than `lo`"),
}


@contextmanager
def another_program(name: str, text: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """Put a program in the place of one of the host's, in a mount namespace that nobody else sees; yields the words
    before a command that is to run there."""
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    holder = subprocess.Popen(
        [*ALONE, f"mount --bind {folder} /usr/local/sbin && echo mounted && read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "mounted\n"
    try:
        yield ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt")
    finally:
        holder.communicate("\n", timeout=60)


@pytest.mark.parametrize(("name", "text", "said"), HOLES.values(), ids=HOLES)
def test_nothing_starts_on_a_network_with_a_hole(lab: Lab, tmp_path: Path, name: str, text: str, said: str) -> None:
    """A session whose network came out otherwise than it was meant ends before anything runs inside, and says why."""
    if os.geteuid() != 0:
        pytest.skip("only root can put another program in the place of one of the host's")
    mark = lab.sbx.home / "project" / "mark"
    with another_program(name, text, tmp_path) as prefix:
        started = replace(lab, sbx=replace(lab.sbx, prefix=prefix)).sbx("run", "lab", "--", "-c", "touch mark")
    assert not mark.exists()
    assert lab.ends.accepted[lab.port] == 0
    assert [record["kind"] for record in lab.sbx.records("lab") if record["kind"] == "session-started"] == []
    assert (started.status, said in started.err) == (125, True), started
    assert lab.status() == "stopped"
    assert processes.parts(lab.sbx, "lab") == {}
    lab.sbx.ok("run", "lab", "--", "-c", "touch mark")
    assert mark.exists()
