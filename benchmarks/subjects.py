"""The proxies that are compared, each with the configuration that makes its work as equal to ours as it can be.

Those that can are told to allow one host and to write a line of log for each connection. haproxy's and nginx's are
forwarders to one fixed place: they read no CONNECT and decide nothing, and stand for what C can do without any of it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.processes import NotMeasuredError, end, running, wait_listening
from benchmarks.world import ADDRESS, HTTP_PORT, NAME, TUNNEL_PORT, WORK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.world import World

CLIENT_TIMEOUT_S: Final = (
    150.0  # the client ends by itself after its `seconds`; this only keeps a stuck one from hanging
)
CLIENT_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to send load through.

    `tunnels` and `requests` are where the client connects for each (`ADDRESS:PORT`; None: it does not do that), `via`
    what it says first (`client.c`), `pids` the processes whose cost is counted, `client` the words that run the client,
    `share` how much of the full load it gets, so that the slowest do not take all the time.
    """

    name: str
    tunnels: str | None
    requests: str | None
    via: str
    pids: tuple[int, ...]
    client: tuple[str, ...]
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client said at its end; times in microseconds."""

    done: int
    failures: int
    bytes: int
    seconds: float
    p50: float
    p99: float


class Load:
    """A client that is running."""

    def __init__(self, subject: Subject, cpu: int, mode: str, **settings: object) -> None:
        words = [f"{key}={value}" for key, value in ({"seconds": CLIENT_SECONDS, "cpu": cpu} | settings).items()]
        self.process = subprocess.Popen(
            [*subject.client, mode, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.is_over = False

    def wait_ready(self) -> None:
        """Wait for the line that says that every tunnel is open.

        Raises:
            NotMeasuredError: when it ended before.
        """
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line == b"ready\n":
                return
        self.answer()

    def answer(self) -> Answer:
        """Let it end and return what it measured.

        Raises:
            NotMeasuredError: when it failed, or too much of its load did.
        """
        self.is_over = True
        try:
            out, problem = self.process.communicate(timeout=CLIENT_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            end(self.process)
            raise NotMeasuredError("the client did not end") from error
        lines = out.decode("utf-8", "replace").splitlines()
        if self.process.returncode or not lines or not lines[-1].startswith("{"):
            raise NotMeasuredError(problem.decode("utf-8", "replace").strip()[-200:] or "the client said nothing")
        answer = Answer(**json.loads(lines[-1]))
        if answer.failures:
            raise NotMeasuredError(f"{answer.failures} failed: {problem.decode('utf-8', 'replace').strip()[-200:]}")
        return answer

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.is_over:
            end(self.process)
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()


def direct() -> Subject:
    """Return what there is without anything between."""
    return Subject("direct", f"{ADDRESS}:{TUNNEL_PORT}", f"{ADDRESS}:{HTTP_PORT}", "none", (), (str(WORK / "client"),))


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy that we start: its command line, and files for it by name (`{folder}`, `{port}`, `{port2}` filled in).

    One with the port 0 chooses its own.
    """

    name: str
    argv: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()
    port: int = 0
    via: str = "connect"
    share: float = 1.0
    environment: tuple[tuple[str, str], ...] = ()

    @contextlib.contextmanager
    def started(self, world: World) -> Iterator[Subject]:
        """Run it on the processor of what is measured.

        Raises:
            NotMeasuredError: when it is not there, or does not start.
        """
        folder = world.disk / self.name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        known = {"folder": str(folder), "port": str(self.port), "port2": str(self.port + 1), "work": str(WORK)}
        for name, text in self.files:
            (folder / name).write_text(_fill(text, known))
        argv = [_fill(word, known) for word in self.argv]
        environment = {name: _fill(value, known) for name, value in self.environment}
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder), **environment}
        log = folder / "log"
        with running(world.on_subject_cpu(*argv), log, environment=environment, folder=folder) as process:
            port = wait_listening(process, log, self.port or None)
            second = port if self.via == "connect" else port + 1
            yield Subject(
                self.name,
                f"127.0.0.1:{port}",
                f"127.0.0.1:{second}",
                self.via,
                (process.pid,),
                (str(WORK / "client"),),
                self.share,
            )


def _fill(text: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        text = text.replace("{" + name + "}", value)
    return text


_SQUID: Final = f"""
http_port 127.0.0.1:{{port}}
acl allowed dstdomain {NAME}
http_access allow allowed
http_access deny all
access_log stdio:{{folder}}/access.log
cache_log {{folder}}/cache.log
pid_filename {{folder}}/pid
coredump_dir {{folder}}
cache deny all
cache_mem 8 MB
max_filedescriptors 16384
shutdown_lifetime 1 seconds
visible_hostname bench
"""

_HAPROXY: Final = f"""
global
    maxconn 6000
    nbthread 1
    log stdout format raw local0
defaults
    log global
    option {{splice}}
    timeout connect 5s
    timeout client 300s
    timeout server 300s
listen tunnels
    mode tcp
    option tcplog
    bind 127.0.0.1:{{port}}
    server far {ADDRESS}:{TUNNEL_PORT}
listen requests
    mode http
    option httplog
    bind 127.0.0.1:{{port2}}
    server far {ADDRESS}:{HTTP_PORT}
"""

_NGINX: Final = f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes 1;
worker_rlimit_nofile 40000;
user root;
pid {{folder}}/pid;
error_log {{folder}}/error.log;
events {{ worker_connections 20000; }}
stream {{
    log_format line '$time_iso8601 $remote_addr $upstream_addr $status $bytes_sent';
    access_log {{folder}}/stream.log line;
    proxy_timeout 300s;
    server {{ listen 127.0.0.1:{{port}} backlog=4096; proxy_pass {ADDRESS}:{TUNNEL_PORT}; }}
}}
http {{
    access_log {{folder}}/http.log;
    keepalive_requests 1000000;
    upstream far {{ server {ADDRESS}:{HTTP_PORT}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{{port2}};
        location / {{ proxy_pass http://far; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
"""

_TINYPROXY: Final = f"""
Listen 127.0.0.1
Port {{port}}
Timeout 300
MaxClients 16384
Allow 127.0.0.1
ConnectPort {TUNNEL_PORT}
LogFile "{{folder}}/access.log"
LogLevel Connect
Filter "{{folder}}/filter"
FilterDefaultDeny Yes
"""

_PRIVOXY: Final = """
listen-address 127.0.0.1:{port}
confdir {folder}
logdir {folder}
logfile access.log
debug 1
actionsfile rules.action
max-client-connections 16384
keep-alive-timeout 300
socket-timeout 300
connection-sharing 1
"""

# codex starts its proxy beside the command that it runs in its sandbox, and ends it with that.
_CODEX: Final = f"""
[features.network_proxy]
enabled = true
[permissions.bench.filesystem]
":root" = "read"
[permissions.bench.network]
enabled = true
enable_socks5 = false
allow_local_binding = true
mode = "full"
[permissions.bench.network.domains]
"{NAME}" = "allow"
"""


def _haproxy(name: str, splice: str, port: int) -> Peer:
    """Return haproxy as it is told to decide itself whether to splice or copy, or made to splice in every case."""
    config = _HAPROXY.replace("{splice}", splice)
    return Peer(name, ("haproxy", "-db", "-f", "{folder}/haproxy.cfg"), (("haproxy.cfg", config),), port, "none")


PEERS: Final = (
    Peer("squid", ("squid", "-N", "-f", "{folder}/squid.conf"), (("squid.conf", _SQUID),), 4100),
    _haproxy("haproxy", "splice-auto", 4110),
    _haproxy("haproxy, spliced", "splice-response", 4112),
    Peer("nginx", ("nginx", "-p", "{folder}", "-c", "{folder}/nginx.conf"), (("nginx.conf", _NGINX),), 4120, "none"),
    Peer(
        "tinyproxy",
        ("tinyproxy", "-d", "-c", "{folder}/tinyproxy.conf"),
        (("tinyproxy.conf", _TINYPROXY), ("filter", NAME.replace(".", r"\.") + "\n")),
        4130,
        share=0.25,
    ),
    Peer(
        "privoxy",
        ("privoxy", "--no-daemon", "{folder}/config"),
        (("config", _PRIVOXY), ("rules.action", "{ +block{not allowed} }\n/\n{ -block }\n" + NAME + "\n")),
        4140,
        share=0.5,
    ),
    Peer(
        "mitmproxy",
        (
            *("{work}/venv/bin/mitmdump", "--listen-host", "127.0.0.1", "--listen-port", "{port}"),
            *("--ignore-hosts", ".*:443", "--set", "flow_detail=1", "--set", "confdir={folder}"),
        ),
        port=4150,
        share=0.1,
    ),
    Peer(
        "proxy.py",
        (
            *("{work}/venv/bin/proxy", "--hostname", "127.0.0.1", "--port", "{port}", "--num-workers", "1"),
            *("--timeout", "300", "--log-file", "{folder}/access.log", "--data-dir", "{folder}"),
        ),
        port=4160,
        share=0.25,
    ),
    Peer(
        "sandbox-runtime",
        (
            "{work}/npm/node_modules/.bin/node",
            str(WORK.parent / "srt_proxy.mjs"),
            "{work}/npm/node_modules/@anthropic-ai/sandbox-runtime/dist/sandbox/http-proxy.js",
            "{port}",
            NAME,
        ),
        port=4170,
        share=0.5,
    ),
    Peer(
        "codex",
        (
            *("{work}/npm/node_modules/.bin/node", "{work}/npm/node_modules/@openai/codex/bin/codex.js"),
            *("sandbox", "-P", "bench", "--", "sleep", "86400"),
        ),
        (("config.toml", _CODEX),),
        share=0.5,
        environment=(("CODEX_HOME", "{folder}"),),
    ),
)


@contextlib.contextmanager
def started(
    world: World, ours: Sequence[Callable[[World], contextlib.AbstractContextManager[Subject]]], fail: Fail
) -> Iterator[list[Subject]]:
    """Run ours and every peer side by side; one that does not start is reported, and left out."""
    with contextlib.ExitStack() as stack:
        subjects = [direct()]
        starts = [("sandhold", start) for start in ours] + [(peer.name, peer.started) for peer in PEERS]
        for name, start in starts:
            try:
                subjects.append(stack.enter_context(start(world)))
            except (NotMeasuredError, OSError) as error:
                fail(name, str(error))
        yield subjects


if TYPE_CHECKING:
    Fail = Callable[[str, str], None]


def log_of(world: World, name: str) -> Path:
    """Return where a peer's words went."""
    return world.disk / name / "log"
