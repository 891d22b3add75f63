"""Timings of answers and of functions, and statistics of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segue.api.turn import TurnEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One turn as its client saw it. All times are from one monotonic clock."""

    asked_at: float
    token_at: tuple[float, ...]
    """When each token arrived."""
    token_ids: tuple[int, ...]
    end: TurnEnd | None = None
    """The cluster's report on a turn through its router."""

    @property
    def first_token_s(self) -> float:
        return self.token_at[0] - self.asked_at

    @property
    def turn_s(self) -> float:
        return self.token_at[-1] - self.asked_at

    @property
    def decode_tokens_per_s(self) -> float:
        return (len(self.token_at) - 1) / (self.token_at[-1] - self.token_at[0])


def steady_tokens_per_s(answers: Sequence[Answered]) -> float | None:
    """For turns sent at once: their speed while all of them are decoding; None if they
    never are.
    """
    start = max(answer.token_at[0] for answer in answers)
    end = min(answer.token_at[-1] for answer in answers)
    if end <= start:
        return None
    num_tokens = sum(start < at <= end for answer in answers for at in answer.token_at)
    return num_tokens / (end - start)


def whole_tokens_per_s(answers: Sequence[Answered]) -> float:
    """For turns sent at once: all tokens over the total time, including prompts."""
    start = min(answer.asked_at for answer in answers)
    end = max(answer.token_at[-1] for answer in answers)
    return sum(len(answer.token_at) for answer in answers) / (end - start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Statistics over measurements of one quantity, in its unit."""

    p50: float
    p90: float
    num_samples: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(p50=percentile(values, 50), p90=percentile(values, 90), num_samples=len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        return cls(
            p50=percentile(values, 50), p90=percentile(values, 90), p99=percentile(values, 99)
        )


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation between neighbours, as numpy's default."""
    if not values:
        raise ValueError("expected at least one value for a percentile, got none")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def times_s(run: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each run, after one that warms up."""
    run()
    seconds = []
    for _ in range(repeats):
        started_at = time.monotonic()
        run()
        seconds.append(time.monotonic() - started_at)
    return seconds
