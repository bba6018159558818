"""A denied host stays denied however it is asked for; each attempt works before the rule, fails after it, and is on
record."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.installation import Installation
    from tests.isolation import Kind

INDEX = "pypi.org"
FILES = "files.pythonhosted.org"
STATUS = "-s -o /dev/null --max-time 20 -w %{http_code}"

TLS = """
import socket, ssl, sys
host, server_name = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with context.wrap_socket(socket.create_connection((host, 443), 20), server_hostname=server_name) as sock:
    sock.sendall(b"GET /simple/ HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n" % server_name.encode())
    print(sock.recv(4096).split()[1].decode())
"""
RESOLVER = """
import socket, struct, sys
name, server = sys.argv[1:]
labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
query = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!HH", 1, 1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(20)
    sock.sendto(query, (server, 53))
    print(socket.inet_ntoa(sock.recv(512)[-4:]))
"""


@dataclass(frozen=True)
class Attempt:
    """One way to ask: a script for `bash -c`, with `{address}` for the host's real address. `works_open` says whether
    it gets its 200 when nothing denies it; `blocked` is what the record then names as the host. What `ends_a_guest`
    leaves root of a guest, whose network is its own to break, without any."""

    script: str
    works_open: bool = True
    blocked: str = INDEX
    user: str = "agent"
    ends_a_guest: bool = False


ATTEMPTS = {
    "as usual": Attempt(f"curl {STATUS} https://{INDEX}/simple/"),
    "with proxy variables unset": Attempt(f"env -u HTTPS_PROXY -u https_proxy curl {STATUS} https://{INDEX}/simple/"),
    "with no proxy for anything": Attempt(f"NO_PROXY='*' curl --noproxy '*' {STATUS} https://{INDEX}/simple/"),
    "through the proxy on offer": Attempt(
        f"HTTPS_PROXY=http://gateway.sbx.internal:3128 curl {STATUS} https://{INDEX}/simple/"
    ),
    "through a proxy elsewhere": Attempt(
        f"HTTPS_PROXY=http://192.0.2.7:3128 curl {STATUS} https://{INDEX}/simple/",
        works_open=False,
        blocked="192.0.2.7",
    ),
    "by its address": Attempt(f"curl -k {STATUS} https://{{address}}/simple/", works_open=False, blocked="{address}"),
    "by its address with its name": Attempt(
        f"curl {STATUS} --resolve {INDEX}:443:{{address}} https://{INDEX}/simple/",
        works_open=False,
        blocked="{address}",
    ),
    "in plain HTTP": Attempt(f"curl {STATUS} http://{INDEX}/simple/", works_open=False),
    "on another port": Attempt(f"curl {STATUS} https://{INDEX}:8443/simple/", works_open=False),
    "in another case": Attempt(f"curl {STATUS} https://{INDEX.title()}/simple/"),
    "with a trailing dot": Attempt(f"curl {STATUS} https://{INDEX}./simple/"),
    "over IPv6": Attempt(f"curl -6 {STATUS} https://{INDEX}/simple/"),
    "under the name of an allowed host": Attempt(f"python3 -c '{TLS}' {INDEX} {FILES}", works_open=False),
    "behind an allowed host": Attempt(f"python3 -c '{TLS}' {FILES} {INDEX}", works_open=False),
    "with the Host of another": Attempt(f"curl {STATUS} -H 'Host: {FILES}' http://{INDEX}/", works_open=False),
    "with a resolver of its own": Attempt(
        f"address=$(python3 -c '{RESOLVER}' {INDEX} 9.9.9.9); "
        f"curl {STATUS} --resolve {INDEX}:443:$address https://{INDEX}/simple/"
    ),
    "as root": Attempt(f"curl {STATUS} https://{INDEX}/simple/", user="root"),
    "through sudo": Attempt(f"sudo -n curl {STATUS} https://{INDEX}/simple/"),
    "after rewriting names and routes as root": Attempt(
        "ip route del default; ip link set lo down; ip addr add 192.0.2.1/24 dev lo; "
        f"curl {STATUS} https://{INDEX}/simple/",
        user="root",
        ends_a_guest=True,
    ),
    "from new namespaces": Attempt(
        f"for new in -r -rm; do unshare $new true && exec unshare $new curl {STATUS} https://{INDEX}/simple/; done; "
        f"curl {STATUS} https://{INDEX}/simple/"
    ),
}


@pytest.fixture(scope="module")
def lab(module_sbx: Installation, module_project: Path, isolation: Kind) -> Iterator[Installation]:
    """Run two sandboxes of a kind for all attempts: `open` has the default policy, `shut` denies the index besides."""
    for name in ("open", "shut"):
        module_sbx.ok("create", *isolation.flags, "--name", name, "shell", ".", folder=module_project)
    module_sbx.ok("policy", "deny", "network", INDEX, "--sandbox", "shut")
    for name in ("open", "shut"):
        module_sbx.ok("run", "-d", name)
    yield module_sbx
    module_sbx.ok("stop", "open", "shut")
    assert "unbroken" in module_sbx.ok("policy", "log", "shut", "--verify")
    module_sbx.ok("rm", "-f", "open", "shut")


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_a_denied_host_stays_denied(lab: Installation, attempt: Attempt, isolation: Kind) -> None:
    """Whatever the attempt, no 200 comes back, and a record says which host was refused by which rule or reason."""
    if attempt.ends_a_guest and isolation.is_microvm:
        pytest.skip("this leaves a guest without a network: `tests/escape/test_guests.py` has what follows")
    address = socket.getaddrinfo(INDEX, 443, socket.AF_INET)[0][4][0]
    script = attempt.script.replace("{address}", str(address))
    before = len(lab.records("shut"))
    said = lab("exec", "-u", attempt.user, "shut", "bash", "-c", script)
    assert "200" not in said.out.split(), said
    fresh = [record for record in lab.records("shut")[before:] if record.get("decision") == "deny"]
    blocked = attempt.blocked.replace("{address}", str(address))
    named = [blocked in (record["host"], *(claim["host"] for claim in record.get("claims", ()))) for record in fresh]
    assert any(named), (said, fresh)
    if attempt.works_open:
        control = lab("exec", "-u", attempt.user, "open", "bash", "-c", script)
        assert "200" in control.out.split(), control


@pytest.mark.namespaces_only("a guest's kernel has no filter to flush: `tests/escape/test_guests.py` looks for one")
def test_it_stays_denied_after_flushing_the_filter(lab: Installation) -> None:
    """Root inside, with the filter's own tool installed through the product, cannot touch the filter."""
    lab.ok("exec", "-u", "root", "shut", "bash", "-c", "apt-get update -q && apt-get install -q -y nftables")
    flushed = lab("exec", "-u", "root", "shut", "nft", "flush", "ruleset")
    assert flushed.status != 0
    said = lab("exec", "-u", "root", "shut", "bash", "-c", f"curl {STATUS} https://{INDEX}/simple/")
    assert said.out == "403"
