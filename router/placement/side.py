"""The inputs of a decision about one worker: the part of the prompt that it holds, its queue, and
whether it can take the turn.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

from router.placement.coefficients import Speed
from router.placement.node import WorkerNode
from segue.api.types import WorkerId


class Exclusion(enum.IntEnum):
    """Why a candidate was excluded, least serious first.

    If all candidates are excluded, the least seriously excluded one runs the turn. With SIZE, the
    worker then refuses the turn and reports its numbers.
    """

    NONE = 0
    SPEED = 1
    """One more turn would push the decode worker's turns below `min_tokens_per_s`."""
    MEMORY = 2
    """It lacks pages for prompt and answer, even if it evicts its whole cache."""
    AVOIDED = 3
    """It just failed this turn."""
    SIZE = 4
    """The turn would not fit even if the worker held nothing else."""
    NOT_READY = 5
    """Draining or lost."""


class TurnSize(NamedTuple):
    prompt_tokens: int
    max_tokens: int


# Looked up once: access to enum members is slow.
_NONE, _SPEED, _MEMORY, _AVOIDED, _SIZE, _NOT_READY = Exclusion


class Held(NamedTuple):
    """The part of a turn's prompt that a worker holds."""

    resident_tokens: int = 0
    """Length of the prefix whose pages are there."""
    checkpoint_tokens: int = 0
    """Length of the prefix that it can resume from: the deepest state. Never exceeds the pages."""


Residency = Mapping[WorkerId, Held]
NOTHING = Held()


def without_states(residency: Residency) -> Residency:
    """For a prompt that is computed from its first token on: pages that are there need not be
    moved, but no state is resumed from or worth pulling."""
    return {worker_id: held._replace(checkpoint_tokens=0) for worker_id, held in residency.items()}


def deepest_held(residency: Residency, nodes: Mapping[WorkerId, WorkerNode]) -> int:
    """The longest prefix of the prompt, in tokens, that a live worker can resume from."""
    held = (
        h.checkpoint_tokens
        for worker_id, h in residency.items()
        if (node := nodes.get(worker_id)) is not None and not node.is_lost
    )
    return max(held, default=0)


class Rules(NamedTuple):
    """The parameters that are configured, not learned."""

    page_tokens: int = 16
    min_tokens_per_s: float = 0.0
    """Lowest token rate of each turn on a decode worker; 0 sets no floor."""
    local_prefill_max_tokens: int = 0
    """Longest prompt suffix that decode may prefill locally; 0 for none."""
    interference_share: float = 0.1
    """The share of a local prefill's time that each turn decoding there is assumed to lose."""
    num_weighed: int = 2
    """Workers to weigh for each role: the one that holds most of the session, and the least
    loaded."""


class Side(NamedTuple):
    """One worker in one decision."""

    worker_id: WorkerId
    held: Held
    speed: Speed
    queue_s: float
    excluded: Exclusion
    needed_pages: int
    running_turns: int


def side_of(
    node: WorkerNode, held: Held, turn: TurnSize, speed: Speed, rules: Rules, is_avoided: bool
) -> Side:
    prompt_tokens, max_tokens = turn
    if held.resident_tokens > prompt_tokens or held.checkpoint_tokens >= prompt_tokens:
        # A state cannot be shortened, and the last token is always computed: its logits give the
        # answer's first token.
        checkpoint_tokens = held.checkpoint_tokens if held.checkpoint_tokens < prompt_tokens else 0
        held = Held(min(held.resident_tokens, prompt_tokens), checkpoint_tokens)
    # A prefill worker keeps nothing of the answer.
    needed_tokens = prompt_tokens if node.is_prefill else prompt_tokens + max_tokens
    needed_pages = -(-needed_tokens // rules.page_tokens)
    running_turns = node.own_turns + node.other_turns
    if not node.is_ready:
        excluded = _NOT_READY
    elif 0 < node.total_pages < needed_pages:
        excluded = _SIZE
    elif is_avoided:
        excluded = _AVOIDED
    elif node.is_prefill:
        # Its pages are soon free again, so only SIZE excludes it.
        excluded = _NONE
    elif node.total_pages and node.room_pages < needed_pages:
        excluded = _MEMORY
    elif speed.step.at(running_turns + 1) * rules.min_tokens_per_s > 1.0:
        excluded = _SPEED
    else:
        excluded = _NONE
    queue_s = node.queue_s(speed)
    side = (node.worker_id, held, speed, queue_s, excluded, needed_pages, running_turns)
    # In half the time of `Side(…)`: a decision looks at several.
    return tuple.__new__(Side, side)
