"""Expected time to first token of one turn, for each way to run it. Plain arithmetic.

queue ─▶ pull ─▶ compute ─────────────▶ ship the rest ─▶ first token
                   └ move, hidden ──┴─ move, exposed ┘
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from router.placement.coefficients import Coefficients
from router.placement.side import Exclusion, Rules, Side, TurnSize
from segue.types import WorkerId


class Mode(enum.StrEnum):
    """Where the tokens come from that the prefill worker does not hold."""

    COMPUTE = "compute"
    PULL = "pull"
    """A prefix from another worker, the rest computed."""
    LOCAL = "local"
    """The decode worker computes the prompt's end itself; nothing moves."""


# Looked up once: members of an enumeration are slow to reach.
_COMPUTE, _PULL, _LOCAL = Mode


class Plan(NamedTuple):
    """How one worker comes to the prompt's pages and state."""

    side: Side
    mode: Mode
    source: Side | None
    """Whom the prefix is pulled from."""
    queue_s: float
    pull_s: float
    compute_s: float
    overhead_s: float
    computed_tokens: int
    resumed_tokens: int
    """The prefix that is not computed, the pulled part included."""


class Target(NamedTuple):
    """What the decode worker lacks."""

    side: Side
    moved_tokens: int
    pages_bytes: float
    slot_bytes: float


class Candidate(NamedTuple):
    """One way to run the turn: the sum of its plan, and of what moving adds to it."""

    excluded: Exclusion
    total_s: float
    plan: Plan
    target: Target
    move_s: float
    hidden_s: float
    """Of `move_s`, what runs under compute: pages only, a state never."""
    interference_s: float
    """What the decode worker's other turns lose."""

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
        """The worker that `Prefill` is told to pull from."""
        return self.plan.source.worker_id if self.plan.source else None

    def parts(self) -> dict[str, float]:
        """Seconds by name. They sum up to `total_s`."""
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


def plans(turn: TurnSize, side: Side, source: Side | None, known: Coefficients) -> list[Plan]:
    """To compute what the worker lacks; and to pull first, where `source` holds more."""
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
    shown with the first one only.
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
    return Plan(
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


def target_of(turn: TurnSize, side: Side, known: Coefficients) -> Target:
    moved_tokens = turn.prompt_tokens - side.held.resident_tokens
    return Target(side, moved_tokens, known.size.per_unit * moved_tokens, known.size.fixed)


def pair(plan: Plan, targets: Iterable[Target]) -> list[Candidate]:
    """The plan with each of the targets. The inner loop of a decision: it is kept flat."""
    candidates = []
    side, _, _, queue_s, pull_s, compute_s, overhead_s, computed_tokens, _ = plan
    # A pair is as slow as its slower end, in both parts.
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
        # Pages move while later tokens are computed. The state exists only at the end, and what
        # decode holds already leaves the computing of it nothing to hide.
        tokens = moved_tokens if moved_tokens < computed_tokens else computed_tokens
        window_s = s_per_token * tokens
        hidden_s = hidden_share * (pages_s if pages_s < window_s else window_s)
        excluded = other_side.excluded
        candidate = Candidate(
            own_excluded if own_excluded > excluded else excluded,
            before_move_s + move_s - hidden_s,
            plan,
            target,
            move_s,
            hidden_s,
            0.0,
        )
        candidates.append(candidate)
    return candidates


def on_decode(
    turn: TurnSize,
    targets: Sequence[Target],
    known: Coefficients,
    rules: Rules,
    *,
    deepest_tokens: int,
) -> Iterator[Candidate]:
    """Each decode worker that may compute the prompt's end from its own checkpoint, where no
    prefill worker has a deeper one: what was computed is not computed again, and the states on the
    way stay with whoever has those before them.
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
