"""A cell's network on the real kernel: where connections end, what goes nowhere, and that it is counted."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.inside.network_inside import COUNTED_FLOWS_MAX

if TYPE_CHECKING:
    from tests.host.conftest import OpenCell, Person
    from tests.isolation import Kind

CONNECT = """
import socket, sys
for address, port in {targets!r}:
    socket.create_connection((address, port), 10).close()
"""

MAKE_NETWORK = """
import os, sys
library, closed = sys.argv[1:]
sys.path[:] = [closed + "/lib", closed + "/lib/lib-dynload", library]
from sandhold.session.left_out import leave_out
leave_out()
from sandhold.cell.inside import network_inside
from sandhold.linux.spares import Spares
with Spares() as spares:
    spares.make([network_inside.__name__])
    from sandhold.cell.identity import identity_for
    from sandhold.cell.network import open_network
    network = open_network(identity_for(1), spares.spawn)
    print(len((*network.sockets.tcp, *network.sockets.dns_udp, *network.sockets.dns_tcp)))
    network.close()
"""


@pytest.mark.short
def test_every_connection_ends_at_the_listener_with_its_destination(cell: OpenCell) -> None:
    """A connection to any address, IPv4 or IPv6, is ours, and we learn where it was headed."""
    targets = [("203.0.113.9", 443), ("203.0.113.9", 22), ("2001:db8::9", 443), ("169.254.169.254", 80)]
    targets += [("10.0.0.1", 5432), ("fe80::1%lo", 80), ("64:ff9b::7f00:1", 25)]
    cell.python(CONNECT.format(targets=[target for target in targets if "%" not in target[0]]))
    got = cell.ask(do="captured")
    assert sorted(got) == sorted(["tcp", address, port] for address, port in targets if "%" not in address)


TARGETS = [("203.0.113.9", 443), ("2001:db8::9", 443), ("10.200.0.1", 3128)]
READ = "\nimport sys; [kept.recv(1) for kept in [socket.create_connection(at, 10) for at in TARGETS]]"


def test_whose_a_connection_is(person: Person) -> None:
    """The user inside who made a connection is known by the id inside, for captured and for explicit ones."""
    with contextlib.closing(person.start()) as cell:
        argv = ["/usr/bin/python3", "-I", "-c", f"import socket; TARGETS = {TARGETS!r}{READ}"]
        for user, number in (("agent", 1000), ("root", 0)):
            got = cell.ask(do="owners", argv=argv, user=user)
            assert sorted(got["found"]) == sorted([address, number] for address, _ in TARGETS)


def test_whose_a_connection_is_without_subordinate_ids(lonely: Person) -> None:
    """Where the agent's id is the only one, it is the one that is named."""
    with contextlib.closing(lonely.start()) as cell:
        argv = ["/usr/bin/python3", "-I", "-c", f"import socket; TARGETS = {TARGETS!r}{READ}"]
        assert sorted(cell.ask(do="owners", argv=argv)["found"]) == sorted([address, 1000] for address, _ in TARGETS)


def test_an_explicit_client_reaches_the_same_listener(cell: OpenCell) -> None:
    """A connection to the gateway's own address is headed for the gateway."""
    cell.python(CONNECT.format(targets=[("10.200.0.1", 3128), ("fd5b:78::1", 3128)]))
    assert cell.ask(do="captured") == [["tcp", "10.200.0.1", 3128], ["tcp", "fd5b:78::1", 3128]]


def test_a_burst_of_connections_waits(cell: OpenCell) -> None:
    """Hundreds of connections made at once are all kept until they are taken."""
    code = "import socket; kept = [socket.create_connection(('203.0.113.1', 80), 20) for _ in range(400)]"
    cell.python(code)
    assert len(cell.ask(do="captured")) == 400


@pytest.mark.parametrize("server", ["10.200.0.1", "9.9.9.9", "127.0.0.53", "fd5b:78::1", "2001:db8::53"])
def test_a_query_to_any_server_is_answered_by_ours(cell: OpenCell, server: str, isolation: Kind) -> None:
    """A datagram to port 53 arrives at our socket, and its answer comes from the server that was asked."""
    if isolation.is_microvm and server.startswith("127."):
        pytest.skip("a guest's loopback is its own: nothing sent there leaves it")
    family = "AF_INET6" if ":" in server else "AF_INET"
    code = (
        f"import socket; s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.settimeout(20)\n"
        f"s.connect(('{server}', 53)); s.send(b'question'); assert s.recv(99) == b'question'\n"
        f"u = socket.socket(socket.{family}, socket.SOCK_DGRAM); u.settimeout(20)\n"
        f"u.sendto(b'again', ('{server}', 53)); assert u.recvfrom(99)[1][0] == '{server}'"
    )
    answer = cell.ask(do="answer", argv=["/usr/bin/python3", "-I", "-c", code])
    assert answer == {"status": 0, "asked": ["question", "again"]}


def test_queries_over_tcp_end_at_their_own_listener(cell: OpenCell) -> None:
    """A connection to port 53 of any server is one for the nameserver."""
    cell.python(CONNECT.format(targets=[("9.9.9.9", 53), ("2001:db8::53", 53)]))
    assert cell.ask(do="captured") == [["dns", "9.9.9.9", 53], ["dns", "2001:db8::53", 53]]


def test_other_datagrams_go_nowhere_and_are_counted(cell: OpenCell, isolation: Kind) -> None:
    """UDP to anything but port 53 is refused at once (a guest's leaves its card, and no further), and each packet is in
    the totals with its destination."""
    code = """
import socket
for address, port, times in (("203.0.113.9", 443, 3), ("2001:db8::9", 123, 2), ("224.0.0.251", 5353, 1)):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(times):
        try: s.sendto(b"x", (address, port)); {sent}
        except PermissionError: pass
"""
    assert [each for each in cell.ask(do="dropped") if each[0] == "udp"] == []
    cell.python(code.format(sent="pass" if isolation.is_microvm else "raise SystemExit('sent')"))
    assert sorted(each for each in cell.ask(do="dropped") if each[0] == "udp" or not isolation.is_microvm) == [
        ["udp", "2001:db8::9", 123, 2], ["udp", "203.0.113.9", 443, 3], ["udp", "224.0.0.251", 5353, 1]
    ]  # fmt: skip


def test_more_destinations_than_are_told_apart_are_one_number(cell: OpenCell, isolation: Kind) -> None:
    """Every packet is counted; those beyond what the counters tell apart are counted for the address as a whole. What a
    machine sends in a burst may be lost before it has left that, while it asks for the gateway's address."""
    code = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1000, 3500):
    try: s.sendto(b"x", ("203.0.113.9", port))
    except PermissionError: pass
"""
    cell.python(code)
    counts = cell.ask(do="dropped")
    assert len(counts) <= 1100
    assert len(counts) > 1 if isolation.is_microvm else ["203.0.113.9", 1000] in [count[1:3] for count in counts]
    arrived = sum(count[3] for count in counts)
    assert 0 < arrived <= 2500 if isolation.is_microvm else arrived == 2500
    beyond = [count[:3] for count in counts if count[2] is None]
    assert beyond == ([["udp", "203.0.113.9", None]] if arrived > COUNTED_FLOWS_MAX else [])


def test_two_cells_do_not_meet(person: Person) -> None:
    """A server inside one cell is not reached from another, by any of the addresses they share."""
    first = person.start(layer=str(person.home / "one"))
    second = person.start(layer=str(person.home / "two"), slot=7)
    try:
        server = "import socket,time; s=socket.create_server(('0.0.0.0', 8080)); time.sleep(600)"
        first.ask(do="leave", argv=["/usr/bin/python3", "-I", "-c", server])
        code = "import socket\nfor at in '10.200.0.1', '127.0.0.1': print(socket.socket().connect_ex((at, 8080)))"
        assert second.python(code).split() == ["111", "111"]
    finally:
        first.close()
        second.close()


def test_a_network_that_cannot_be_made_leaves_no_cell(person: Person) -> None:
    """When the template is missing nothing runs, and the error says what is missing."""
    with pytest.raises(OSError, match="No such file"):
        person.start(kind="directory", root=str(person.home / "no-template"))
    ours = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False)
    assert "launch" not in ours.stdout


def test_a_network_is_made_with_what_was_loaded_before(ordinary: Person) -> None:
    """The maker of a network reads no module once it has other rights: a Python may be its user's group's alone."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a folder that only a group may read")
    closed = Path(tempfile.mkdtemp(prefix="sbx-closed-"))
    os.chown(closed, 0, ordinary.uid)
    closed.chmod(0o750)
    where = [*ordinary.prefix, ordinary.python, "-I", "-c", "import os; print(os.path.dirname(os.__file__))"]
    (closed / "lib").symlink_to(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    make = [*ordinary.prefix, ordinary.python, "-I", "-c", MAKE_NETWORK, str(ordinary.library), str(closed)]
    done = subprocess.run(make, capture_output=True, text=True, check=False, timeout=60)
    shutil.rmtree(closed)
    assert done.stdout == "6\n", done.stderr
