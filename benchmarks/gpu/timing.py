"""Times device work, with events on a GPU and with the clock on a CPU, and measures the device's
ceilings: a large copy, and a large matrix product."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_WARM_UPS = 3
_BUDGET_S = 0.2
"""For the timed runs of one case: a lease measures many cases in a few minutes."""
_MAX_RUNS = 50
_CACHE_BYTES = 256 << 20
"""Written between runs: several times a last-level cache, so that inputs are never cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    copy_bytes_per_s: float
    """Bytes read plus bytes written of a device-to-device copy."""
    matmul_flops_per_s: float
    """bf16 with float32 accumulation, on random data: zeros run faster."""

    def floor_s(self, num_bytes: float, flops: float) -> float:
        """No implementation that moves and computes this much is faster."""
        return max(num_bytes / self.copy_bytes_per_s, flops / self.matmul_flops_per_s)


def measure_ceilings(device: str) -> Ceilings:
    size, copied = (8192, 4 << 30) if device != "cpu" else (256, 1 << 20)
    source = torch.ones(copied, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    return Ceilings(
        copy_bytes_per_s=2 * copied / median_s(lambda: target.copy_(source), device, cold=False),
        matmul_flops_per_s=2 * size**3 / median_s(lambda: left @ right, device, cold=False),
    )


def median_s(
    run: Callable[[], object], device: str, *, cold: bool = True, captured: bool = True
) -> float:
    """Median seconds of `run`. `cold`: its inputs are not in the cache when it starts. `captured`:
    as a CUDA graph, as decode steps run it, so that the host's launches do not count."""
    if device == "cpu":
        started_at = time.monotonic()
        run()
        return time.monotonic() - started_at
    for _ in range(_WARM_UPS):
        run()
    launch = _captured(run) if captured else run
    flush = torch.empty(_CACHE_BYTES, dtype=torch.int8, device=device) if cold else None
    spans: list[float] = []
    while len(spans) < _MAX_RUNS and (len(spans) < 3 or sum(spans) < _BUDGET_S):
        if flush is not None:
            # While it runs, the host queues what follows, so the device has no gap there.
            flush.zero_()
        start, end = _event(), _event()
        start.record()
        launch()
        end.record()
        end.synchronize()
        spans.append(start.elapsed_time(end) / 1e3)
    return statistics.median(spans)


def _captured(run: Callable[[], object]) -> Callable[[], None]:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    return graph.replay


def _event() -> torch.cuda.Event:
    # torch has no annotations there.
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
