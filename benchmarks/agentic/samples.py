"""The time and bytes of one turn, and statistics over turns. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.harness.samples import Answered, Percentiles, median


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSample:
    session: str
    turn: int
    """From 1."""
    prompt_tokens: int
    seen_tokens: int
    """The prompt's tokens that occurred earlier in this session: at best these can be reused."""
    cached_tokens: int
    pulled_tokens: int
    resident_tokens: int
    shipped_bytes: int
    pulled_bytes: int
    first_token_s: float
    """At the client. The next fields are its parts, as reported by the cluster."""
    router_s: float
    queue_s: float
    """From the router's receipt until prefill starts to compute, including a pull."""
    prefill_s: float
    transfer_s: float
    exposed_transfer_s: float
    rest_s: float
    """From the last arrived byte to the client's first token, and all time that no other part
    covers.
    """
    inter_token_s: tuple[float, ...]

    @classmethod
    def of(cls, session: str, turn: int, seen_tokens: int, answered: Answered) -> TurnSample:
        assert answered.end is not None, "turns through the router end with a report"
        usage, timings = answered.end.usage, answered.end.timings
        at = answered.token_at
        parts = timings.queue_s + timings.prefill_s + timings.exposed_transfer_s
        return cls(
            session=session,
            turn=turn,
            prompt_tokens=usage.prompt_tokens,
            seen_tokens=seen_tokens,
            cached_tokens=usage.cached_tokens,
            pulled_tokens=usage.pulled_tokens,
            resident_tokens=usage.resident_tokens,
            shipped_bytes=usage.shipped_bytes,
            pulled_bytes=usage.pulled_bytes,
            first_token_s=answered.first_token_s,
            router_s=timings.router_s,
            queue_s=timings.queue_s,
            prefill_s=timings.prefill_s,
            transfer_s=timings.transfer_s,
            exposed_transfer_s=timings.exposed_transfer_s,
            rest_s=answered.first_token_s - parts,
            inter_token_s=tuple(b - a for a, b in itertools.pairwise(at)),
        )

    @property
    def reused_tokens(self) -> int:
        return self.cached_tokens + self.pulled_tokens

    @property
    def computed_tokens(self) -> int:
        return self.prompt_tokens - self.reused_tokens


_MEANS = (
    *("prompt_tokens", "cached_tokens", "pulled_tokens", "resident_tokens", "computed_tokens"),
    *("shipped_bytes", "pulled_bytes"),
)
_MEDIANS = ("queue_s", "prefill_s", "transfer_s", "exposed_transfer_s", "rest_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """One turn index, over the sessions that reached it; means unless stated otherwise."""

    turn: int
    num_samples: int
    prompt_tokens: float
    cached_tokens: float
    pulled_tokens: float
    resident_tokens: float
    computed_tokens: float
    shipped_bytes: float
    pulled_bytes: float
    hit_rate: float
    """The share of prompt tokens taken from a cache or pulled."""
    theoretical_hit_rate: float
    """The share of prompt tokens that occurred earlier in their session."""
    first_token_s: Percentiles
    inter_token_s: Percentiles
    queue_s: float
    """This and the next are medians."""
    prefill_s: float
    transfer_s: float
    exposed_transfer_s: float
    rest_s: float

    @classmethod
    def of(cls, turn: int, samples: Sequence[TurnSample]) -> TurnRow:
        def of_each(name: str) -> list[float]:
            return [getattr(sample, name) for sample in samples]

        return cls(
            turn=turn,
            num_samples=len(samples),
            **{name: fmean(of_each(name)) for name in _MEANS},
            **{name: median(of_each(name)) for name in _MEDIANS},
            hit_rate=hit_rate(samples),
            theoretical_hit_rate=theoretical_hit_rate(samples),
            first_token_s=Percentiles.of([s.first_token_s for s in samples]),
            inter_token_s=Percentiles.of([gap for s in samples for gap in s.inter_token_s]),
        )


def rows_of(samples: Sequence[TurnSample]) -> tuple[TurnRow, ...]:
    by_turn: dict[int, list[TurnSample]] = {}
    for sample in samples:
        by_turn.setdefault(sample.turn, []).append(sample)
    return tuple(TurnRow.of(turn, by_turn[turn]) for turn in sorted(by_turn))


def hit_rate(samples: Sequence[TurnSample]) -> float:
    return sum(s.reused_tokens for s in samples) / sum(s.prompt_tokens for s in samples)


def theoretical_hit_rate(samples: Sequence[TurnSample]) -> float:
    return sum(s.seen_tokens for s in samples) / sum(s.prompt_tokens for s in samples)
