"""The numbers of one run, as written to JSON. Field names include the units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.ceilings import Machine, ModelCost
from benchmarks.harness.environment import Environment
from benchmarks.harness.samples import (
    Answered,
    Spread,
    median,
    steady_tokens_per_s,
    whole_tokens_per_s,
)
from benchmarks.serving.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both sides' answers to the same prompts in one round."""

    segue: Sequence[Answered]
    peer: Sequence[Answered]

    @property
    def num_equal(self) -> int:
        return sum(
            ours.token_ids == theirs.token_ids
            for ours, theirs in zip(self.segue, self.peer, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """Turns of one prompt length, one at a time."""

    prompt_tokens: int
    first_token_s: Spread
    peer_first_token_s: Spread
    decode_tokens_per_s: float
    peer_decode_tokens_per_s: float
    decode_ratio: float
    """Median over the rounds of our value over theirs."""
    shipped_bytes: int
    expected_bytes: int
    prefill_s: float
    transfer_s: float
    exposed_transfer_s: float
    hidden_share: float
    """The share of the transfer that is hidden by computing the prompt."""
    overlapped_s: float
    """Prefill and the exposed part of the transfer."""
    sequential_s: float
    """Prefill, then the whole transfer: the time if it shipped at the end."""
    router_s: Spread

    @classmethod
    def of(cls, pairs: Sequence[Pair], *, prompt_tokens: int, expected_bytes: int) -> Alone:
        ours = [pair.segue[0] for pair in pairs]
        peer = [pair.peer[0] for pair in pairs]
        ends = [answer.end for answer in ours if answer.end is not None]
        timings = [end.timings for end in ends]
        speeds = [answer.decode_tokens_per_s for answer in ours]
        peer_speeds = [answer.decode_tokens_per_s for answer in peer]
        return cls(
            prompt_tokens=prompt_tokens,
            first_token_s=Spread.of([answer.first_token_s for answer in ours]),
            peer_first_token_s=Spread.of([answer.first_token_s for answer in peer]),
            decode_tokens_per_s=median(speeds),
            peer_decode_tokens_per_s=median(peer_speeds),
            decode_ratio=median([a / b for a, b in zip(speeds, peer_speeds, strict=True)]),
            shipped_bytes=max(end.usage.shipped_bytes for end in ends),
            expected_bytes=expected_bytes,
            prefill_s=median([t.prefill_s for t in timings]),
            transfer_s=median([t.transfer_s for t in timings]),
            exposed_transfer_s=median([t.exposed_transfer_s for t in timings]),
            hidden_share=median([1 - t.exposed_transfer_s / t.transfer_s for t in timings]),
            overlapped_s=median([t.prefill_s + t.exposed_transfer_s for t in timings]),
            sequential_s=median([t.prefill_s + t.transfer_s for t in timings]),
            router_s=Spread.of([t.router_s for t in timings]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Turns sent at once; the peer computes them as one batch."""

    turns: int
    steady_tokens_per_s: float | None
    """While all are decoding; None if the first ended before the last started."""
    peer_steady_tokens_per_s: float
    whole_tokens_per_s: float
    """All tokens over the total time, including prompts."""
    peer_whole_tokens_per_s: float

    @classmethod
    def of(cls, pairs: Sequence[Pair], *, turns: int) -> Together:
        steady = [s for pair in pairs if (s := steady_tokens_per_s(pair.segue)) is not None]
        peer_steady = [s for pair in pairs if (s := steady_tokens_per_s(pair.peer)) is not None]
        return cls(
            turns=turns,
            steady_tokens_per_s=median(steady) if steady else None,
            peer_steady_tokens_per_s=median(peer_steady),
            whole_tokens_per_s=median([whole_tokens_per_s(pair.segue) for pair in pairs]),
            peer_whole_tokens_per_s=median([whole_tokens_per_s(pair.peer) for pair in pairs]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterCost:
    """The router's overhead: by its own clock, and as the difference to bypassing it."""

    dispatch_s: float
    """Mean of segue_router_dispatch_seconds over this run's turns."""
    relay_s: float
    """Mean of segue_router_relay_seconds over this run's tokens."""
    first_token_s: Spread
    direct_first_token_s: Spread
    token_s: float
    """The time between two tokens, through the router."""
    direct_token_s: float
    added_first_token_s: float
    """Median of the differences between adjacent turns."""
    added_token_s: float

    @classmethod
    def of(
        cls, pairs: Sequence[tuple[Answered, Answered]], *, dispatch_s: float, relay_s: float
    ) -> RouterCost:
        """Pairs of one turn through the router and one that bypasses it."""
        first = [(routed.first_token_s, direct.first_token_s) for routed, direct in pairs]
        token = [
            (1 / routed.decode_tokens_per_s, 1 / direct.decode_tokens_per_s)
            for routed, direct in pairs
        ]
        return cls(
            dispatch_s=dispatch_s,
            relay_s=relay_s,
            first_token_s=Spread.of([routed for routed, _ in first]),
            direct_first_token_s=Spread.of([direct for _, direct in first]),
            token_s=median([routed for routed, _ in token]),
            direct_token_s=median([direct for _, direct in token]),
            added_first_token_s=median([routed - direct for routed, direct in first]),
            added_token_s=median([routed - direct for routed, direct in token]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    environment: Environment
    model: str
    threads: int
    """Threads of the peer's process, and of each worker's."""
    config: dict[str, object]
    workload: Workload
    machine: Machine
    cost: ModelCost
    ceiling_tokens_per_s: float
    ceiling_share: float
    """The share of the ceiling that the cluster reaches at batch 1 with the shortest prompt."""
    peer_ceiling_share: float
    equal_answers: int
    """Answers with the same tokens on both sides."""
    num_answers: int
    alone: tuple[Alone, ...]
    together: tuple[Together, ...]
    router: RouterCost
