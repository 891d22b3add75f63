"""Each kernel at served sizes: checked against float64, then timed, next to its floor and peers.

Cases are made one by one, so that memory holds only one. Kernels are called directly and not
through the dispatch, so that `--dry` interprets them on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.timing import Ceilings, median_s

REPEATS = 30
"""Runs that must give equal bits: a race in a kernel shows in some of them only."""
LIMITS = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 6e-3}
"""Largest relative RMS error, by the dtype of the inputs; as in tests/kernels/closeness.py, and for
float32 larger, since sums are as long as in a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    operator: str
    size: str
    run: Callable[[], object]
    """Gives the same result each time: it does not read its own output."""
    exact: Callable[[], Sequence[Tensor]]
    """The right result from the same inputs, in float64; or token ids."""
    limit: float
    """The largest relative RMS error; for token ids, the share that may differ."""
    seen: Callable[[Any], Sequence[Tensor]] = lambda out: [out]
    """The tensors to compare with `exact`, from the result of `run`: also those that it wrote."""
    num_bytes: float
    """The bytes that any implementation must move."""
    flops: float = 0.0
    peers: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    """Other libraries' kernels for the same work, if installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRow:
    model: str
    operator: str
    size: str
    error: float
    """The largest relative RMS error of its results against float64."""
    limit: float
    is_repeatable: bool
    """Whether all runs gave equal bits."""
    seconds: float | None
    """None if a result is wrong."""
    floor_s: float
    num_bytes: float
    flops: float
    peers_s: Mapping[str, float]

    @property
    def is_right(self) -> bool:
        return self.error <= self.limit and self.is_repeatable


def measure(
    model: str, case: Case, ceilings: Ceilings, device: str, *, repeats: int = REPEATS
) -> OperatorRow:
    error, is_repeatable = checked(case, repeats)
    is_right = error <= case.limit and is_repeatable
    return OperatorRow(
        model=model,
        operator=case.operator,
        size=case.size,
        error=error,
        limit=case.limit,
        is_repeatable=is_repeatable,
        seconds=median_s(case.run, device) if is_right else None,
        floor_s=ceilings.floor_s(case.num_bytes, case.flops),
        num_bytes=case.num_bytes,
        flops=case.flops,
        peers_s={
            name: median_s(run, device, captured=False)
            for name, run in (case.peers if is_right else {}).items()
        },
    )


def checked(case: Case, repeats: int) -> tuple[float, bool]:
    """The largest error of a result, and whether `repeats` runs give equal bits."""
    first = [tensor.clone() for tensor in case.seen(case.run())]
    pairs = zip(first, case.exact(), strict=True)
    error = max(_error(seen, exact) for seen, exact in pairs)
    for _ in range(repeats - 1):
        # Compared as bits: a NaN that is not written is a NaN each time.
        again = case.seen(case.run())
        if not all(torch.equal(_bits(a), _bits(b)) for a, b in zip(again, first, strict=True)):
            return error, False
    return error, True


def _error(seen: Tensor, exact: Tensor) -> float:
    """Relative RMS, which a single large element cannot hide behind. Infinite if the shapes differ
    or a number is NaN."""
    if seen.shape != exact.shape:
        return float("inf")
    if not exact.is_floating_point():
        return float((seen != exact).double().mean())
    difference = (seen.double() - exact).square().mean().sqrt()
    error = float(difference / exact.square().mean().sqrt().clamp(min=1e-300))
    return error if error == error else float("inf")


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8)
