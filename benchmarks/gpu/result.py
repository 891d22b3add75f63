"""All measurements of one run, as written to JSON. Field names include the units."""

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
    """The chip's name, or cpu if the run only checked that everything works."""
    tests: str
    """The last line of pytest, or why there is none."""
    ceilings: Ceilings
    operators: tuple[OperatorRow, ...]
    passes: tuple[PassRow, ...]
    handoffs: tuple[HandoffRow, ...]
    skipped: tuple[str, ...]
    """The measurements that did not fit into the time."""

    def to_json(self) -> dict[str, object]:
        return {"benchmark": "gpu", **asdict(self)}
