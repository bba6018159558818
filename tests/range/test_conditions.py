"""Families N and O: a host whose network changes, runs out of ports or is full, while sandboxes run."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from sandhold.model.event import Why
from tests.installation import wait_until
from tests.range.world import GOOD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.range.field import Field

NEW_ADDRESS: Final = "11.7.0.77"
MOVING: Final = "moving.allowed.test"
PORT_RANGE: Final = "net.ipv4.ip_local_port_range"
FEW_PORTS: Final = "40000 40003"
LINE: Final = "tbf rate 20mbit burst 32k latency 50ms"
FLOWS: Final = 32
TRIES: Final = 5
FETCH: Final = "http('good.test', 80)"


def on_the_host(field: Field, *argv: str) -> str:
    """Run a program in the host's network."""
    done = subprocess.run([*field.house.enter(mounts=False), *argv], check=True, capture_output=True, text=True)
    return done.stdout


@contextmanager
def host_with(field: Field, begin: str, end: str) -> Iterator[None]:
    """Change the host's network with one command of ip(8), and back with others, one a line."""
    on_the_host(field, "ip", *begin.split())
    try:
        yield
    finally:
        for line in end.splitlines():
            on_the_host(field, "ip", *line.split())


def wait_recorded(field: Field, before: int, **wanted: object) -> None:
    """Wait until a record that says all this has come after so many others."""

    def is_there() -> bool:
        return any(wanted.items() <= _flat(each).items() for each in field.sbx.records("shut")[before:])

    wait_until(is_there, f"a record with {wanted}: {field.sbx.records('shut')[before:]}")


def _flat(record: dict[str, Any]) -> dict[str, object]:
    return {key: value for key, value in record.items() if not isinstance(value, list | dict)}


def test_an_address_that_becomes_the_hosts_own(field: Field) -> None:
    """An address that the host gets while a sandbox runs is in the floor from then on, and when it goes, no more."""
    code = f"http({MOVING!r}, 80)"
    field.seen()
    assert field.inside("shut", code) == "200"
    assert f"tcp {NEW_ADDRESS}:80" in field.seen()
    before = len(field.sbx.records("shut"))
    with host_with(field, f"address add {NEW_ADDRESS}/32 dev inet0", f"address del {NEW_ADDRESS}/32 dev inet0"):
        field.outside(code)
        assert "house tcp 80" in field.seen(), "the control is broken"
        assert field.inside("shut", code) == "403"
        assert [each for each in field.seen() if not each.startswith("dns ")] == []
        wait_recorded(field, before, host=MOVING, decision="deny", reason="address-floor")
    assert field.inside("shut", code) == "200"


def test_a_network_that_goes_and_comes_back(field: Field) -> None:
    """Without a link nothing is answered but with an error that says so; when it is back, everything is as it was."""
    assert field.inside("shut", FETCH) == "200"
    field.seen()
    before = len(field.sbx.records("shut"))
    back = "link set inet0 up\nroute add default via 11.0.0.1\naddress replace 2600:1::2/64 dev inet0 nodad"
    with host_with(field, "link set inet0 down", back):
        assert field.inside("shut", FETCH) in ("502", "504")
        assert field.inside("shut", "http('evil.test', 80)") == "403"
        wait_recorded(field, before, kind="connection", host="evil.test", decision="deny")
        assert field.seen() == []
    on_the_host(field, "ip", "-6", "route", "replace", "default", "via", "2600:1::1")
    wait_until(lambda: field.inside("shut", FETCH) == "200", "the network is back")
    assert field.inside("shut", "http('evil.test', 80)") == "403"


def test_another_nameserver(field: Field) -> None:
    """A host that is told of another nameserver asks that one, for every type of question, while sandboxes run."""
    resolv_conf = field.sbx.home / "resolv.conf"
    before = resolv_conf.read_text()
    question = "dns('9.9.9.9', 'good.test', 15)"
    assert field.inside("shut", question) == "code 0 records 0"
    try:
        resolv_conf.write_text("nameserver 127.0.0.77\noptions timeout:1 attempts:1\n")
        wait_until(lambda: field.inside("shut", FETCH) in ("502", "504"), "what the old one answered is kept no longer")
        field.seen()
        assert field.inside("shut", question) == "code 2 records 0"
        assert field.inside("shut", FETCH) in ("502", "504")
        assert field.seen() == [], "the nameserver of the old network is asked"
    finally:
        resolv_conf.write_text(before)
    assert field.inside("shut", question) == "code 0 records 0"
    assert field.inside("shut", FETCH) == "200"


def test_no_port_is_left(field: Field) -> None:
    """When others use up every port of the host towards a far end, a sandbox is told so, on record, and it goes on."""
    whole = on_the_host(field, "sysctl", "-n", PORT_RANGE)
    before = len(field.sbx.records("shut"))
    try:
        on_the_host(field, "sysctl", "-q", "-w", f"{PORT_RANGE}={FEW_PORTS}")
        assert "Cannot assign" in field.outside(f"hold({GOOD!r}, 80, 8)")
        assert field.inside("shut", FETCH) == "503"
        detail = "every port of this host towards it is in use"
        wait_recorded(field, before, kind="closed", why=Why.UPSTREAM_UNREACHABLE, detail=detail)
    finally:
        field.outside("calm()")
        on_the_host(field, "sysctl", "-q", "-w", f"{PORT_RANGE}={' '.join(whole.split())}")
    assert field.inside("shut", FETCH) == "200"


def test_a_full_line_is_shared(field: Field) -> None:
    """While one sandbox fills the line on many connections, another one's requests are answered all the same."""

    def errand_s() -> float:
        start = time.monotonic()
        assert field.inside("shut", FETCH) == "200"
        return time.monotonic() - start

    on_the_host(field, "tc", "qdisc", "add", "dev", "inet0", "root", *LINE.split())
    try:
        alone = median(errand_s() for _ in range(TRIES))
        assert field.inside("wide", f"flood('good.test', 9000, {FLOWS})") == f"flooding on {FLOWS}"
        wait_until(lambda: _refused(field) > FLOWS, "the line is full")
        beside = median(errand_s() for _ in range(TRIES))
        was_refused = _refused(field)
        wait_until(lambda: _refused(field) > was_refused, "the line is full still")
    finally:
        field.inside("wide", "calm()")
        on_the_host(field, "tc", "qdisc", "del", "dev", "inet0", "root")
    sys.stdout.write(f"beside {FLOWS} floods: {beside:.2f} s, alone {alone:.2f} s\n")


def _refused(field: Field) -> int:
    """Count the packets that found no room on the line so far (tc-tbf(8))."""
    shown = re.search(r"dropped (\d+)", on_the_host(field, "tc", "-s", "qdisc", "show", "dev", "inet0"))
    assert shown is not None
    return int(shown[1])
