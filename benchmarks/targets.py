"""What was promised: ratios within one run, ours over a peer's, and a few absolute figures."""

from __future__ import annotations

from typing import Final

from benchmarks.figures import Figure, Target

_OURS: Final = "sandhold"


def _over(what: str, work: str, metric: str, peer: str, at_most: float) -> Target:
    return Target(f"{what}, over {peer}'s", Figure(work, _OURS, metric), at_most, Figure(work, peer, metric))


def _between(what: str, work: str, metric: str, subjects: tuple[str, str], at_most: float) -> Target:
    return Target(what, Figure(work, subjects[0], metric), at_most, Figure(work, subjects[1], metric))


TARGETS: Final = (
    *(
        _over(
            f"bulk, {tunnels} tunnel{'s' if tunnels > 1 else ''}, CPU s/GB",
            f"bulk-{tunnels}",
            "cpu_s_per_gb",
            peer,
            at_most,
        )
        for tunnels in (1, 64)
        for peer, at_most in (("haproxy", 0.7), ("haproxy, spliced", 0.7), ("squid", 0.5), ("sandbox-runtime", 0.25))
    ),
    *(
        _over(f"connect, request, close, {how}: CPU", "connect", metric, peer, at_most)
        for metric, how in (("cpu_us", "one by one"), ("cpu_us_at_once", "16 at once"))
        for peer, at_most in (("squid", 0.75), ("sandbox-runtime", 0.5))
    ),
    _over("new connection beside 64 bulk tunnels, p50", "loaded", "p50_us", "squid", 0.5),
    Target("denied HTTPS, host seen before: CPU", Figure("refusals", _OURS, "cpu_ms"), 1, unit="ms"),
    _between("decision, 1,000,000 rules over 10", "decisions", "hit_us", ("1000000 rules", "10 rules"), 10),
    Target("decision, 1,000,000 rules", Figure("decisions", "1000000 rules", "hit_us"), 10, unit="µs"),
    Target("idle session, all our processes (PSS)", Figure("memory", _OURS, "idle_mb"), 40, unit="MB"),
    Target("the same, as if nothing else ran", Figure("memory", _OURS, "alone_mb"), 40, unit="MB"),
    Target("and for 1,000 idle tunnels", Figure("memory", _OURS, "per_1000_mb"), 2, unit="MB"),
    *(
        _between(f"`sbx {how}`, over {peer}", "starts", "wall_ms", (f"sbx {how}", peer), at_most)
        for how in ("run, running", "exec, running", "run, stopped")
        for peer, at_most in (("bwrap", 3), ("sandbox-runtime", 1), ("codex sandbox", 1), ("runsc", 1))
    ),
    _between("`sbx ls` of 1,000 over `sbx --help`, CPU", "starts", "cpu_ms", ("sbx ls, 1000", "sbx --help"), 2),
    _between("`sbx --help` over `python -c pass`, CPU", "starts", "cpu_ms", ("sbx --help", "python -c pass"), 5),
    _between(
        "`policy log --limit 100`, 1,000,000 records over 1,000, CPU",
        "log",
        "cpu_ms",
        ("last 100, 1000000 records", "last 100, 1000 records"),
        2,
    ),
    *(
        _between(f"files inside over host: {step}", f"files-{step}", "wall_s", ("inside", "host"), 1.15)
        for step in ("unpack", "status", "install")
    ),
)
