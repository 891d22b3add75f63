"""Each kernel at served sizes: its time, the floor by bytes and FLOPs, and its peers.

Cases are made one by one, so that memory holds only one. Kernels are called directly and not
through the dispatch, so that `--dry` interprets them on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.gpu.ceilings import Ceilings
from benchmarks.gpu.timing import median_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    operator: str
    size: str
    run: Callable[[], object]
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
    seconds: float
    floor_s: float
    num_bytes: float
    flops: float
    peers_s: Mapping[str, float]

    @property
    def share(self) -> float:
        """The share of the floor's speed."""
        return self.floor_s / self.seconds


def measure(
    model: str, cases: Iterator[Case], ceilings: Ceilings, device: str
) -> Iterator[OperatorRow]:
    for case in cases:
        yield OperatorRow(
            model=model,
            operator=case.operator,
            size=case.size,
            seconds=median_s(case.run, device),
            floor_s=ceilings.floor_s(case.num_bytes, case.flops),
            num_bytes=case.num_bytes,
            flops=case.flops,
            peers_s={name: median_s(run, device) for name, run in case.peers.items()},
        )
