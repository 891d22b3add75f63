"""The results of a simulated run."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.placement.workers import SimWorker
from segue.api.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One policy. Later turns are all except a session's first."""

    policy: str
    num_turns: int
    decision_p50_us: float
    """Processor time, as this machine may be shared."""
    decision_p99_us: float
    decision_wall_p50_us: float
    decision_wall_p99_us: float
    hit_rate: float
    """The share of a session's earlier tokens that were not computed again."""
    first_turn_p50_s: float
    first_turn_p99_s: float
    later_turn_p50_s: float
    later_turn_p90_s: float
    later_turn_p99_s: float
    prefill_max_over_mean: float
    prefill_variation: float
    """Coefficient of variation of the workers' busy time."""
    decode_max_over_mean: float
    decode_variation: float
    gib_per_turn: float
    pulled_share: float
    error_p50: float
    """Of |estimate_error|."""
    num_evicted: int
    virtual_s: float


@dataclass(slots=True)
class Tally:
    decisions_ns: list[int] = field(default_factory=list)
    decisions_cpu_ns: list[int] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    later_s: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    reusable_tokens: int = 0
    reused_tokens: int = 0
    moved_bytes: int = 0
    num_pulled: int = 0
    busy_s: dict[Role, list[float]] = field(default_factory=dict)
    num_evicted: int = 0
    virtual_s: float = 0.0

    def turn(
        self,
        *,
        is_first: bool,
        first_token_s: float,
        error: float,
        reusable_tokens: int,
        reused_tokens: int,
        moved_bytes: int,
        pulled: bool,
    ) -> None:
        (self.first_s if is_first else self.later_s).append(first_token_s)
        self.errors.append(abs(error))
        self.reusable_tokens += reusable_tokens
        self.reused_tokens += reused_tokens
        self.moved_bytes += moved_bytes
        self.num_pulled += pulled

    def finish(self, workers: Collection[SimWorker], now: float) -> None:
        self.virtual_s = now
        self.num_evicted = sum(worker.num_evicted for worker in workers)
        # Slower workers are busy longer with the same work: this is not imbalance.
        self.busy_s = {
            role: [w.busy_s / w.slowness for w in workers if w.role is role] for role in Role
        }

    def result(self, policy: str) -> Result:
        num_turns = len(self.errors)
        wall, cpu = _quantiles(self.decisions_ns), _quantiles(self.decisions_cpu_ns)
        first, later = _quantiles(self.first_s), _quantiles(self.later_s)
        prefill, decode = self.busy_s[Role.PREFILL], self.busy_s[Role.DECODE]
        return Result(
            policy=policy,
            num_turns=num_turns,
            decision_p50_us=cpu[49] / 1e3,
            decision_p99_us=cpu[98] / 1e3,
            decision_wall_p50_us=wall[49] / 1e3,
            decision_wall_p99_us=wall[98] / 1e3,
            hit_rate=self.reused_tokens / self.reusable_tokens,
            first_turn_p50_s=first[49],
            first_turn_p99_s=first[98],
            later_turn_p50_s=later[49],
            later_turn_p90_s=later[89],
            later_turn_p99_s=later[98],
            prefill_max_over_mean=max(prefill) / statistics.mean(prefill),
            prefill_variation=_variation(prefill),
            decode_max_over_mean=max(decode) / statistics.mean(decode),
            decode_variation=_variation(decode),
            gib_per_turn=self.moved_bytes / num_turns / 2**30,
            pulled_share=self.num_pulled / num_turns,
            error_p50=statistics.median(self.errors),
            num_evicted=self.num_evicted,
            virtual_s=self.virtual_s,
        )


def _quantiles(values: Iterable[float]) -> Sequence[float]:
    return statistics.quantiles(values, n=100, method="inclusive")


def _variation(values: Sequence[float]) -> float:
    return statistics.pstdev(values) / statistics.mean(values)
