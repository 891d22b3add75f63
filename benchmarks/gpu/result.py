"""Everything one run measured, as it is written to JSON. Field names carry the units."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from benchmarks.gpu.ceilings import Ceilings
from benchmarks.gpu.handoff import HandoffRow
from benchmarks.gpu.operators import OperatorRow
from benchmarks.gpu.passes import PassRow
from benchmarks.serving.environment import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    environment: Environment
    device: str
    """The chip's name, or cpu where nothing but running was checked."""
    tests: str
    """The last line of pytest, or why there is none."""
    ceilings: Ceilings
    operators: tuple[OperatorRow, ...]
    passes: tuple[PassRow, ...]
    handoffs: tuple[HandoffRow, ...]
    skipped: tuple[str, ...]
    """What did not fit into the time."""

    def to_json(self) -> dict[str, object]:
        return {"benchmark": "gpu", **asdict(self)}
