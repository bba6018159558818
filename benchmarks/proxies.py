"""Load through every proxy, round by round: bulk, connections, connections beside bulk, requests."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks import sandbox
from benchmarks.processes import settled_cpu_seconds
from benchmarks.rounds import rounds, take
from benchmarks.subjects import Load, started
from benchmarks.world import HTTP_PORT, NAME, TUNNEL_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.figures import Figures
    from benchmarks.subjects import Answer, Subject
    from benchmarks.world import World

    Metrics = Mapping[str, float]
    Work = Callable[["Bench", Subject], Metrics]

GB: Final = 1_000_000_000
BULK_TUNNELS: Final = (1, 8, 64)
AT_ONCE: Final = 16
BUDGET_S: Final = 720.0  # of the half hour that everything may take
_TUNNELS: Final = f"{NAME}:{TUNNEL_PORT}"
_REQUESTS: Final = f"{NAME}:{HTTP_PORT}"


@dataclass(frozen=True, slots=True)
class Size:
    """How much load one run of each kind is, and how many rounds there are."""

    rounds: int
    bulk_bytes: int
    connections: int
    loaded_connections: int
    requests: int
    refusals: int


FULL: Final = Size(rounds=5, bulk_bytes=GB, connections=2000, loaded_connections=40, requests=5000, refusals=200)
QUICK: Final = Size(rounds=1, bulk_bytes=GB // 5, connections=200, loaded_connections=30, requests=500, refusals=20)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every work is given."""

    world: World
    size: Size

    def load(self, subject: Subject, mode: str, **settings: object) -> Load:
        """Start the client on its processor."""
        return Load(subject, self.world.load_cpu, mode, **settings)

    def costed(self, subject: Subject, mode: str, **settings: object) -> tuple[Answer, float]:
        """Run the client to its end; return its answer and the processor seconds that the subject spent on it."""
        before = settled_cpu_seconds(subject.pids)
        with self.load(subject, mode, **settings) as load:
            answer = load.answer()
        return answer, settled_cpu_seconds(subject.pids) - before


def compare(world: World, figures: Figures, size: Size, names: tuple[str, ...]) -> None:
    """Run every proxy at once, and the works called `names` through each in turn, as often as `size` says."""
    works = {name: work for name, work in WORKS.items() if name.partition("-")[0] in names}
    if not works:
        return
    bench = Bench(world, size)

    def cannot_start(subject: str, reason: str) -> None:
        for work in works:
            figures.fail(work, subject, reason)

    with started(world, (sandbox.proxied, sandbox.captured), cannot_start) as subjects:
        for _ in rounds(size.rounds, BUDGET_S):
            for name, work in works.items():
                for subject in subjects:
                    take(figures, name, subject.name, functools.partial(work, bench, subject))


def _bulk(tunnels: int) -> Work:
    def run(bench: Bench, subject: Subject) -> Metrics:
        each = int(bench.size.bulk_bytes * subject.share) // tunnels
        answer, cpu_s = bench.costed(
            subject, "bulk", to=subject.tunnels, via=subject.via, host=_TUNNELS, tunnels=tunnels, bytes=each
        )
        return {"cpu_s_per_gb": cpu_s / answer.bytes * GB, "gb_per_s": answer.bytes / GB / answer.seconds}

    return run


def _connect(bench: Bench, subject: Subject) -> Metrics:
    count = int(bench.size.connections * subject.share)
    way = {"to": subject.tunnels, "via": subject.via, "host": _TUNNELS, "count": count}
    single, cpu_s = bench.costed(subject, "connect", tunnels=1, **way)
    many, cpu_s_many = bench.costed(subject, "connect", tunnels=AT_ONCE, **way)
    return {
        "cpu_us": cpu_s / single.done * 1e6,
        "p50_us": single.p50,
        "p99_us": single.p99,
        "cpu_us_at_once": cpu_s_many / many.done * 1e6,
        "per_second": many.done / many.seconds,
    }


def _loaded(bench: Bench, subject: Subject) -> Metrics:
    count = int(bench.size.loaded_connections * subject.share)
    way = {"to": subject.tunnels, "via": subject.via, "host": _TUNNELS}
    with bench.load(subject, "bulk", tunnels=max(BULK_TUNNELS), **way) as bulk:
        bulk.wait_ready()
        with bench.load(subject, "connect", count=count, tunnels=1, **way) as load:
            answer = load.answer()
    return {"p50_us": answer.p50, "p99_us": answer.p99}


def _requests(bench: Bench, subject: Subject) -> Metrics:
    count = int(bench.size.requests * subject.share)
    way = {"to": subject.requests, "via": subject.via, "host": _REQUESTS, "count": count}
    answer, cpu_s = bench.costed(subject, "requests", tunnels=AT_ONCE, **way)
    return {"cpu_us": cpu_s / answer.done * 1e6, "per_second": answer.done / answer.seconds, "p50_us": answer.p50}


WORKS: Final[Mapping[str, Work]] = {
    **{f"bulk-{tunnels}": _bulk(tunnels) for tunnels in BULK_TUNNELS},
    "connect": _connect,
    "loaded": _loaded,
    "requests": _requests,
}
