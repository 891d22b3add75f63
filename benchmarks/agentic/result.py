"""The numbers of one run, as written to JSON. Field names include the units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.agentic.emptied import EmptiedRow
from benchmarks.agentic.samples import (
    TurnRow,
    TurnSample,
    hit_rate,
    rows_of,
    theoretical_hit_rate,
)
from benchmarks.agentic.targets import Target
from benchmarks.agentic.workload import Workload
from benchmarks.harness.environment import Environment
from benchmarks.harness.samples import Percentiles


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeResult:
    mode: str
    hit_rate: float
    theoretical_hit_rate: float
    later_first_token_s: Percentiles
    """For the second and later turns."""
    later_inter_token_s: Percentiles
    shipped_bytes: int
    pulled_bytes: int
    computed_tokens: int
    turns: tuple[TurnRow, ...]
    alone: tuple[TurnRow, ...]
    """For a session that had the cluster to itself."""

    @classmethod
    def of(
        cls, mode: str, samples: Sequence[TurnSample], *, alone: Sequence[TurnSample]
    ) -> ModeResult:
        later = [sample for sample in samples if sample.turn > 1]
        return cls(
            mode=mode,
            hit_rate=hit_rate(samples),
            theoretical_hit_rate=theoretical_hit_rate(samples),
            later_first_token_s=Percentiles.of([s.first_token_s for s in later]),
            later_inter_token_s=Percentiles.of([gap for s in later for gap in s.inter_token_s]),
            shipped_bytes=sum(s.shipped_bytes for s in samples),
            pulled_bytes=sum(s.pulled_bytes for s in samples),
            computed_tokens=sum(s.computed_tokens for s in samples),
            turns=rows_of(samples),
            alone=rows_of(alone),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    environment: Environment
    model: str
    page_bytes: int
    slot_bytes: int
    config: dict[str, object]
    workload: Workload
    modes: tuple[ModeResult, ...]
    targets: tuple[Target, ...]
    emptied: tuple[EmptiedRow, ...]
    samples: dict[str, tuple[TurnSample, ...]]
    """By mode: every turn, with the lone session's turns first."""
