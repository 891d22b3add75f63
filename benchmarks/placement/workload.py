"""The simulated agents, and the workers' true speeds and sizes, which the router must learn."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    num_workers: int
    """Half of them are prefill workers, half decode workers."""
    num_sessions: int
    load: float = 0.75
    """The share of the prefill workers' time that the sessions need if nothing is
    computed twice.
    """
    seed: int = 0


FULL = Scale(num_workers=1000, num_sessions=100_000)
# As many sessions per worker as the full size: fewer do not reach a steady state.
DEFAULT = Scale(num_workers=40, num_sessions=4_000)
QUICK = Scale(num_workers=12, num_sessions=60)

FIRST_TOKENS = 50_000
DELTA_TOKENS = 800
MIN_TURNS, MAX_TURNS = 11, 16
"""The first turn and 10 to 15 more."""
MIN_ANSWER_TOKENS, MAX_ANSWER_TOKENS = 100, 500
MAX_TOKENS = 512
PAUSE_S = 10.0
"""Mean time from an answer to the next turn: a tool runs, or a person thinks."""

# A 397B-A17B model on nodes of eight GPUs with 400 Gbit/s between them.
COMPUTE_FIXED_S, COMPUTE_S_PER_TOKEN = 0.020, 5e-5
LINK_FIXED_S, LINK_S_PER_BYTE = 0.0005, 1 / 50e9
STEP_FIXED_S, STEP_S_PER_TURN = 0.020, 4e-4
OVERHEAD_S = 0.004
HIDDEN_SHARE = 0.9
TOKEN_BYTES = 30 * 2**10
SLOT_BYTES = 180 * 2**20
SLOT_TOKENS = SLOT_BYTES // TOKEN_BYTES
PAGE_TOKENS = 64
PREFILL_TOKENS, DECODE_TOKENS = 1_500_000, 6_000_000
"""A worker's memory, in tokens. Decode workers hold the live sessions, with little to spare;
prefill workers hold less than half of them. With 3 million on decode even placement by cost
collapses: evicted prefixes are computed again, so sessions live longer, and more are evicted.
"""
NOISE = 0.1
"""Standard deviation of the logarithm of every measured time."""
SLOW_SHARE, SLOW_FACTOR = 0.05, 1.6
"""Some workers are slower than the others; the router must find out."""
HEARTBEAT_S = 2.0


@dataclass(slots=True)
class Session:
    """One agent. Its next prompt repeats `history_tokens`."""

    name: int
    turns_left: int
    history_tokens: int = 0
    num_done: int = 0
    chance: random.Random = field(default_factory=random.Random)


@dataclass(frozen=True, slots=True)
class TurnShape:
    prompt_tokens: int
    answer_tokens: int


class Agents:
    """Draws arrivals, lengths and pauses, equal for every policy regardless of timing."""

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._arrivals = random.Random(scale.seed)
        self._noise = random.Random(scale.seed + 1)
        num_prefill = scale.num_workers // 2
        self._sessions_per_s = scale.load * num_prefill / _needed_s()

    def arrival_gap_s(self) -> float:
        return self._arrivals.expovariate(self._sessions_per_s)

    def session(self, name: int) -> Session:
        chance = random.Random(self._scale.seed * self._scale.num_sessions + name)
        return Session(name, chance.randint(MIN_TURNS, MAX_TURNS), chance=chance)

    def turn(self, session: Session) -> TurnShape:
        new_tokens = DELTA_TOKENS if session.num_done else FIRST_TOKENS
        answer_tokens = session.chance.randint(MIN_ANSWER_TOKENS, MAX_ANSWER_TOKENS)
        return TurnShape(session.history_tokens + new_tokens, answer_tokens)

    def pause_s(self, session: Session) -> float:
        return session.chance.expovariate(1 / PAUSE_S)

    def noise(self) -> float:
        return self._noise.lognormvariate(0.0, NOISE)


def _needed_s() -> float:
    """The prefill seconds of a mean session that computes nothing twice."""
    num_deltas = (MIN_TURNS + MAX_TURNS) / 2 - 1
    tokens = FIRST_TOKENS + num_deltas * DELTA_TOKENS
    return tokens * COMPUTE_S_PER_TOKEN + (1 + num_deltas) * COMPUTE_FIXED_S
