"""A cell's network is tried before it is used: with one part missing there is no cell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"

TRIAL = """
import sys
sys.path.insert(0, sys.argv[1])
from sandhold.cell.inside import network_inside as made
from sandhold.cell.network_trial import TrialSockets, try_network
from sandhold.linux.process import run_checked

old, new, command = sys.argv[2:]
assert old in made.RULESET
made._set_up_kernel()
run_checked(["ip", "-batch", "-"], stdin=made._LINKS.encode())
run_checked(["nft", "-f", "-"], stdin=made.RULESET.replace(old, new).encode())
if command:
    run_checked(command.split())
tcp4, tcp6, udp4, udp6, *_ = made._sockets()
one, two, three, four, route = made._trial_sockets()
try:
    try_network(TrialSockets((one, two), (three, four), route), (tcp4, tcp6), (udp4, udp6))
except OSError as error:
    print(error)
"""

HOLES = {
    "nothing": ("jump streams", "jump streams", "", ""),
    "IPv4 connections are not redirected": (
        "meta nfproto ipv4 meta l4proto tcp dnat ip to",
        "ip daddr 203.0.113.77 meta l4proto tcp dnat ip to",
        "",
        "a connection inside to 192.0.2.1 does not end at egress\n",
    ),
    "IPv6 connections are not redirected": (
        "meta nfproto ipv6 meta l4proto tcp dnat ip6 to",
        "ip6 daddr 2001:db8::77 meta l4proto tcp dnat ip6 to",
        "",
        "a connection inside to 2001:db8::1 does not end at egress\n",
    ),
    "there is another interface": (
        "jump streams",
        "jump streams",
        "ip link add leak type veth peer name other",
        "the sandbox's network has other interfaces than `lo`: lo, other, leak\n",
    ),
}


@pytest.mark.parametrize(("old", "new", "command", "said"), HOLES.values(), ids=HOLES)
def test_a_network_with_a_hole_is_refused(old: str, new: str, command: str, said: str) -> None:
    """A network that lets connections past us, or has a way out, is refused with what is wrong; a whole one is not."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    done = subprocess.run(
        ["unshare", *user, "--net", sys.executable, "-c", TRIAL, str(SOURCE), old, new, command],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == said


def test_queries_that_go_elsewhere_are_refused() -> None:
    """A network in which a query to a stranger's nameserver does not come to us is refused."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    old, new = "meta nfproto ipv4 udp dport 53 dnat", "ip daddr 203.0.113.77 udp dport 53 dnat"
    done = subprocess.run(
        ["unshare", *user, "--net", sys.executable, "-c", TRIAL, str(SOURCE), old, new, ""],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "a query inside to 192.0.2.1 does not end at egress\n"
