"""What was promised: ratios within one run, ours over a peer's, and a few absolute figures."""

from __future__ import annotations

from typing import Final

from benchmarks.figures import Figure, Target

_OURS: Final = "sandhold"


def _over(what: str, work: str, metric: str, peer: str, at_most: float) -> Target:
    return Target(f"{what}, over {peer}'s", Figure(work, _OURS, metric), at_most, Figure(work, peer, metric))


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
        for peer, at_most in (("haproxy", 0.7), ("squid", 0.5), ("sandbox-runtime", 0.25))
    ),
    *(
        _over(f"connect, request, close, {how}: CPU", "connect", metric, peer, at_most)
        for metric, how in (("cpu_us", "one by one"), ("cpu_us_at_once", "16 at once"))
        for peer, at_most in (("squid", 0.75), ("sandbox-runtime", 0.5))
    ),
    _over("new connection beside 64 bulk tunnels, p50", "loaded", "p50_us", "squid", 0.5),
)
