"""The product's own story, command by command, on the real Python package index."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.installation import Installation, at_terminal
from tests.walkthrough.story import INDEX, tell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.isolation import Kind


@pytest.fixture
def lab(sbx: Installation, project: Path, isolation: Kind) -> Installation:
    """Create `sbxlab` of each kind for the project, as the story begins."""
    assert sbx.ok("create", *isolation.flags, "--name", "sbxlab", "shell", ".", folder=project).strip() == "sbxlab"
    return sbx


def test_the_walk_through(lab: Installation, project: Path) -> None:
    """What the README tells happens, in its order."""
    tell(lab, project)


def test_the_log_is_live(lab: Installation) -> None:
    """On a terminal, the log of a running sandbox shows each attempt as it happens and ends when the sandbox stops."""
    lab.ok("run", "-d", "sbxlab")
    with at_terminal(lab, "policy", "log", "sbxlab") as terminal:
        lab.ok("exec", "sbxlab", "curl", "-sI", f"https://{INDEX}/simple/")
        terminal.expect("ALLOWED")
        assert INDEX in terminal.expect("200")
        lab("exec", "sbxlab", "curl", "-sI", "https://denied.example.com/")
        terminal.expect("BLOCKED")
        terminal.expect("denied.example.com")
        lab.ok("stop", "sbxlab")
        assert terminal.wait() == 0


def test_now_applies_at_once(lab: Installation) -> None:
    """`--now` changes what a running sandbox may reach, for denying, removing and allowing alike."""
    lab.ok("run", "-d", "sbxlab")
    assert lab.ok("exec", "sbxlab", "curl", "-sI", f"https://{INDEX}/simple/").startswith("HTTP/2 200")
    lab.ok("policy", "deny", "network", INDEX, "--now")
    assert "older" not in lab.ok("ls")
    assert lab.ok("exec", "sbxlab", "curl", "-sI", f"https://{INDEX}/simple/").startswith("HTTP/2 403")
    rule = lab.ok("policy", "ls").splitlines()[-1].split()[0]
    lab.ok("policy", "rm", "network", "--id", rule, "--now")  # the id with its `local:`
    assert lab.ok("exec", "sbxlab", "curl", "-sI", f"https://{INDEX}/simple/").startswith("HTTP/2 200")


@pytest.fixture
def host_service() -> Iterator[int]:
    """Serve one HTTP answer after another on the host's loopback; gives the port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(0.2)
        is_done = threading.Event()

        def serve() -> None:
            while not is_done.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(5)
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nyes")

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        is_done.set()
        thread.join()


def test_a_service_of_the_host(lab: Installation, host_service: int) -> None:
    """A service on the host's loopback is reached once `localhost:PORT` is allowed, by its name, no other port is."""
    url = f"http://host.docker.internal:{host_service}/"
    ask = ("exec", "sbxlab", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}")
    lab.ok("run", "-d", "sbxlab")
    assert lab.ok(*ask, url) == "403"
    lab.ok("policy", "allow", "network", f"localhost:{host_service}", "--now")
    assert lab.ok(*ask, url) == "200"
    assert lab.ok(*ask, f"http://host.sbx.internal:{host_service}/") == "200"
    assert lab(*ask, f"http://host.docker.internal:{host_service + 1 if host_service < 65535 else 1024}/").out != "200"
    assert (
        lab(*ask, f"http://127.0.0.1:{host_service}/").out == "000"
    )  # the sandbox's own loopback, where nobody listens
