"""Expected time to first token of a turn, for each way to run it. Plain arithmetic.

queue ─▶ pull ─▶ compute ─────────────▶ ship the rest ─▶ first token
                   └ move, hidden ──┴─ move, exposed ┘
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from router.placement.coefficients import Coefficients
from router.placement.side import Exclusion, Rules, Side, TurnSize
from segue.api.cluster.status import WorkerStatus
from segue.api.types import WorkerId


class Mode(enum.StrEnum):
    """The source of the tokens that the prefill worker does not hold."""

    COMPUTE = "compute"
    PULL = "pull"
    """A prefix comes from another worker; the rest is computed."""
    LOCAL = "local"
    """The decode worker computes the prompt's suffix itself; nothing moves."""


# Looked up once: access to enum members is slow.
_COMPUTE, _PULL, _LOCAL = Mode
# `_new(Candidate, (…))` takes half the time of `Candidate(…)`. A decision makes a dozen of these
# values: with their classes it takes 11 % longer (`benchmarks.placement --decisions`).
_new = tuple.__new__


class Plan(NamedTuple):
    """How one worker obtains the prompt's pages and state."""

    side: Side
    mode: Mode
    source: Side | None
    """The worker to pull the prefix from."""
    queue_s: float
    pull_s: float
    compute_s: float
    overhead_s: float
    computed_tokens: int
    resumed_tokens: int
    """The prefix that is not computed, including the pulled part."""


class Target(NamedTuple):
    """The part of the prompt that the decode worker lacks."""

    side: Side
    moved_tokens: int
    pages_bytes: float
    slot_bytes: float


class Candidate(NamedTuple):
    """One way to run the turn: a plan, a target, and their total time."""

    excluded: Exclusion
    total_s: float
    plan: Plan
    target: Target
    move_s: float
    hidden_s: float
    """The part of `move_s` that overlaps with compute: pages only, never a state."""
    interference_s: float
    """The time that the decode worker's other turns lose."""

    @property
    def prefill(self) -> WorkerId:
        return self.plan.side.worker_id

    @property
    def decode(self) -> WorkerId:
        return self.target.side.worker_id

    @property
    def mode(self) -> Mode:
        return self.plan.mode

    @property
    def source(self) -> WorkerId | None:
        """The worker to pull a prefix from."""
        return self.plan.source.worker_id if self.plan.source else None

    def parts(self) -> dict[str, float]:
        """Seconds by name. They add up to `total_s`."""
        plan = self.plan
        return {
            "queue": plan.queue_s,
            "pull": plan.pull_s,
            "compute": plan.compute_s,
            "move": self.move_s,
            "hidden": -self.hidden_s,
            "interference": self.interference_s,
            "overhead": plan.overhead_s,
        }


class Placement(NamedTuple):
    """Where a turn runs."""

    prefill: WorkerStatus
    """The worker that computes the prompt; the decode worker itself for a local prefill."""
    decode: WorkerStatus


class Decision(NamedTuple):
    placement: Placement
    chosen: Candidate
    candidates: Sequence[Candidate]
    """All that were weighed, in this order, including the chosen one."""

    def ranked(self, most: int | None = None) -> list[Candidate]:
        """Best first, excluded last. `most`: only the best ones, then the chosen one if it is not
        among them.
        """
        if most is None or most >= len(self.candidates):
            return sorted(self.candidates, key=_rank)
        best = heapq.nsmallest(most, self.candidates, key=_rank)
        return best if any(one is self.chosen for one in best) else [*best, self.chosen]


def _rank(candidate: Candidate) -> tuple[Exclusion, float]:
    return candidate.excluded, candidate.total_s


def plans(turn: TurnSize, side: Side, source: Side | None, known: Coefficients) -> list[Plan]:
    """A plan to compute what the worker lacks, and one to pull first if `source` holds more."""
    held_tokens = side.held.checkpoint_tokens
    compute = _plan(turn, side, None, held_tokens, 0.0, known)
    if source is None or source.held.checkpoint_tokens <= held_tokens:
        return [compute]
    pulled_tokens = source.held.checkpoint_tokens - side.held.resident_tokens
    num_bytes = known.size.at(max(pulled_tokens, 0))
    one, other = side.speed.link, source.speed.link
    pull_s = max(one.fixed, other.fixed) + max(one.per_unit, other.per_unit) * num_bytes
    return [compute, _plan(turn, side, source, source.held.checkpoint_tokens, pull_s, known)]


def pairs(of_one_side: Sequence[Plan], targets: Sequence[Target]) -> list[Candidate]:
    """Every plan of a prefill worker with every target. A plan that cannot win with any target is
    paired with the first target only.
    """
    if len(of_one_side) == 1:
        return pair(of_one_side[0], targets)
    compute, pull = of_one_side
    saved_s = compute.compute_s - pull.compute_s
    # More compute hides more of what moves afterwards, but never more than its own length.
    hidden_s = saved_s * pull.side.speed.hidden_share
    pull_wins = pull.pull_s < saved_s - hidden_s
    compute_wins = pull.pull_s > saved_s
    return [
        *pair(compute, targets[:1] if pull_wins else targets),
        *pair(pull, targets[:1] if compute_wins else targets),
    ]


def _plan(
    turn: TurnSize,
    side: Side,
    source: Side | None,
    resumed_tokens: int,
    pull_s: float,
    known: Coefficients,
) -> Plan:
    computed_tokens = turn.prompt_tokens - resumed_tokens
    plan = (
        side,
        _COMPUTE if source is None else _PULL,
        source,
        side.queue_s,
        pull_s,
        side.speed.compute.at(computed_tokens),
        known.overhead_s,
        computed_tokens,
        resumed_tokens,
    )
    return _new(Plan, plan)


def target_of(turn: TurnSize, side: Side, known: Coefficients) -> Target:
    moved_tokens = turn.prompt_tokens - side.held.resident_tokens
    return Target(side, moved_tokens, known.size.per_unit * moved_tokens, known.size.fixed)


def pair(plan: Plan, targets: Iterable[Target]) -> list[Candidate]:
    """The plan with each target. This is the inner loop of a decision, so it is kept flat."""
    candidates = []
    side, _, _, queue_s, pull_s, compute_s, overhead_s, computed_tokens, _ = plan
    # The slower end sets the pair's speed, for the fixed part and per byte.
    compute, own_link, _, hidden_share = side.speed
    own_fixed_s, own_s_per_byte = own_link.fixed, own_link.per_unit
    s_per_token, own_excluded = compute.per_unit, side.excluded
    before_move_s = queue_s + pull_s + compute_s + overhead_s
    for target in targets:
        other_side, moved_tokens, pages_bytes, slot_bytes = target
        link = other_side.speed.link
        fixed_s = link.fixed if link.fixed > own_fixed_s else own_fixed_s
        s_per_byte = link.per_unit if link.per_unit > own_s_per_byte else own_s_per_byte
        pages_s = s_per_byte * pages_bytes
        move_s = fixed_s + pages_s + s_per_byte * slot_bytes
        # Pages move while later tokens are computed. The state exists only at the end, and the
        # computing of tokens that decode already holds hides nothing.
        tokens = moved_tokens if moved_tokens < computed_tokens else computed_tokens
        window_s = s_per_token * tokens
        hidden_s = hidden_share * (pages_s if pages_s < window_s else window_s)
        excluded = other_side.excluded
        candidate = (
            own_excluded if own_excluded > excluded else excluded,
            before_move_s + move_s - hidden_s,
            plan,
            target,
            move_s,
            hidden_s,
            0.0,
        )
        candidates.append(_new(Candidate, candidate))
    return candidates


def on_decode(
    turn: TurnSize,
    targets: Sequence[Target],
    known: Coefficients,
    rules: Rules,
    *,
    deepest_tokens: int,
) -> Iterator[Candidate]:
    """Candidates for decode workers that may compute the prompt's suffix from their own checkpoint.
    That requires that no prefill worker has a deeper one: nothing is computed twice, and a
    session's states stay together on one worker.
    """
    least = max(deepest_tokens, turn.prompt_tokens - rules.local_prefill_max_tokens, 1)
    for target in targets:
        side = target.side
        resumed_tokens = side.held.checkpoint_tokens
        if resumed_tokens >= least:
            plan = _plan(turn, side, None, resumed_tokens, 0.0, known)._replace(mode=_LOCAL)
            interference_s = plan.compute_s * rules.interference_share * side.running_turns
            total_s = plan.queue_s + plan.compute_s + plan.overhead_s + interference_s
            nothing = target._replace(moved_tokens=0, pages_bytes=0.0, slot_bytes=0.0)
            yield Candidate(side.excluded, total_s, plan, nothing, 0.0, 0.0, interference_s)
