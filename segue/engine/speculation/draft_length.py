"""How many drafts pay, learned from what steps took and what of them was accepted. Pure.

A step with k drafts gives 1 + p₁ + p₁p₂ + … + p₁⋯p_k tokens a sequence, where p_j is the share of
j-th drafts that are accepted when those before them were. It takes longer the larger k is, and how
much longer depends on the machine and the batch: with few sequences weights are read anyway and
further rows are nearly free, with many they cost as much as any. So seconds are measured, per size
of batch and k, and the k with most tokens per second wins.

Seconds grow about evenly with k, so the line through the k that were tried says what the others
should take, and steadies those that were tried a few times only; and a depth that was not tried is
thought to be as good as the one above it. First none, one and as many as may be are tried. Then the
k with the best of such prospects is taken, tried or not; of two that are close, the one that was
tried less. Later on a neighbour of it is tried once in a while, since texts and batches change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import median

ENOUGH_STEPS = 4
"""Of one k, before they count: any one may be slower than it should be. The line counts as much as
so many of them."""
DOUBT = 0.05
"""How far the time of one step may be off, as a share: in favour of a k that had few."""
NEARLY_ALL = 0.75
"""Of the drafts that a step was to have: with so many its seconds are those of a full one. Some
sequences are near their end, or have few slots."""
RECENT_STEPS = 1000
"""A size of batch that was not seen for so long says nothing of the slots that are needed."""
TRY_EVERY = 64
"""Steps at one size of batch between two looks at a neighbour: a bad one costs a percent or two."""
STEPS_KEPT = 16
"""Of one k, at one size of batch."""
CLOCK_TICK_S = 1e-9
"""No step is faster."""
TRIALS_KEPT = 500.0
"""About so many of the last drafts at a depth count."""


@dataclass(slots=True)
class _Steps:
    """The last ones with one k, in batches of one size."""

    seconds: float = 0.0
    """Their median: others use the machine too, and a first step touches memory for the first
    time."""
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS_KEPT))

    @property
    def number(self) -> int:
        return len(self._recent)

    def add(self, seconds: float) -> None:
        self._recent.append(max(seconds, CLOCK_TICK_S))
        self.seconds = median(self._recent)


@dataclass(slots=True)
class _Acceptance:
    tried: float = 0.0
    accepted: float = 0.0

    def add(self, accepted: bool) -> None:
        fade = 1 - 1 / TRIALS_KEPT
        self.tried = self.tried * fade + 1
        self.accepted = self.accepted * fade + accepted

    def share(self, expected: float) -> float:
        """With `expected` as what a few trials before these had shown."""
        return (self.accepted + 2 * expected) / (self.tried + 2)


@dataclass(slots=True)
class _BatchSize:
    """What is known of batches of one size."""

    steps: list[_Steps]
    """By k."""
    num_steps: int = 0
    looks_up: bool = False
    best: int | None = None
    """When it was last asked for, whether there was room for it or not."""
    asked_at: int = 0

    def is_known(self, k: int) -> bool:
        return self.steps[k].number >= ENOUGH_STEPS

    def first_tries(self, most: int) -> list[int]:
        """None, one, and as many as there is room for: a line through few k leads astray beyond
        them, so all that may be taken lies between. Half as many, once known, will do."""
        is_wide = any(self.is_known(k) for k in range((most + 1) // 2, len(self.steps)))
        return [0, min(1, most)] if is_wide else [0, min(1, most), most]

    def expected_seconds(self) -> list[float]:
        """Of a step with each k. Those without drafts and with one must be known."""
        known = [k for k in range(len(self.steps)) if self.is_known(k)]
        drafting = [k for k in known if k]
        # Without drafts nothing is drafted and one row is computed: that is not on the line.
        on_line = drafting if len(drafting) > 1 else known
        center, seconds, slope = _line([(k, self.steps[k]) for k in on_line])
        # A line through few k may lead anywhere.
        least = min(self.steps[k].seconds for k in known) / 4
        expected = [self.steps[0].seconds]
        for k, steps in enumerate(self.steps[1:], start=1):
            own_weight = steps.number / (steps.number + ENOUGH_STEPS) if k in known else 0.0
            of_line = max(seconds + slope * (k - center), least)
            expected.append(own_weight * steps.seconds + (1 - own_weight) * of_line)
        return expected


@dataclass(slots=True)
class DraftLength:
    """Chooses k for each step; owned by one engine."""

    max_drafts: int
    _acceptance: list[_Acceptance] = field(init=False)
    _sizes: dict[int, _BatchSize] = field(init=False, default_factory=dict)
    _num_asked: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._acceptance = [_Acceptance() for _ in range(self.max_drafts)]

    @property
    def reach(self) -> int:
        """One more than pays at the sizes of batch that came lately: room for more would be held
        for nothing. All that is allowed before anything is learned."""
        oldest = self._num_asked - RECENT_STEPS
        sizes = [size for size in self._sizes.values() if size.asked_at >= oldest]
        bests = [size.best for size in sizes if size.best is not None]
        return min(max(bests) + 1, self.max_drafts) if bests else self.max_drafts

    def choose(self, rooms: Sequence[int]) -> int:
        """How many tokens to draft for each sequence of a batch; 0 where it does not pay.

        `rooms`: how many each of them could use. Three quarters of them can use the answer.
        """
        size, most = self._size(len(rooms)), min(sorted(rooms)[len(rooms) // 4], self.max_drafts)
        self._num_asked += 1
        size.asked_at = self._num_asked
        # By turns: what else uses the machine meanwhile hits all of them.
        least_known = min(size.first_tries(most), key=lambda k: size.steps[k].number)
        if not size.is_known(least_known):
            return least_known
        if not most:
            return 0
        seconds = size.expected_seconds()
        rates = [
            self.expected_tokens(k) / seconds[k] * (1 + DOUBT / sqrt(max(steps.number, 1)))
            for k, steps in enumerate(size.steps)
        ]
        size.best = rates.index(max(rates))
        best = rates.index(max(rates[: most + 1]))
        if size.num_steps % TRY_EVERY or not size.is_known(best):
            return best
        neighbours = [k for k in (best - 1, best + 1) if 0 <= k <= most]
        return neighbours[size.looks_up % len(neighbours)]

    def observe(
        self, num_drafts: int, seconds: float, drafted: Sequence[int], accepted: Sequence[int]
    ) -> None:
        """A step was to draft `num_drafts` for each sequence; so many were drafted for each, and so
        many of those accepted. Only for steps of nothing else: a prompt in it would blur it."""
        size = self._size(len(drafted))
        if size.num_steps % TRY_EVERY == 0:
            size.looks_up = not size.looks_up
        size.num_steps += 1
        if sum(drafted) >= NEARLY_ALL * num_drafts * len(drafted):
            size.steps[num_drafts].add(seconds)
        for num, count in zip(drafted, accepted, strict=True):
            for depth in range(min(count + 1, num)):
                self._acceptance[depth].add(depth < count)

    def expected_tokens(self, num_drafts: int) -> float:
        """New tokens of one sequence from a step with so many drafts, by what was seen so far."""
        expected, reached, share = 1.0, 1.0, 1.0
        for acceptance in self._acceptance[:num_drafts]:
            # A depth that was hardly tried is thought to be as good as the one above it.
            share = acceptance.share(share)
            reached *= share
            expected += reached
        return expected

    def _size(self, batch_size: int) -> _BatchSize:
        key = size_class(batch_size)
        if key not in self._sizes:
            self._sizes[key] = _BatchSize([_Steps() for _ in range(self.max_drafts + 1)])
        return self._sizes[key]


def _line(known: Sequence[tuple[int, _Steps]]) -> tuple[float, float, float]:
    """Least squares, each k by how many steps had it: a k, the seconds there, and the slope, which
    is not let fall."""
    weight = sum(steps.number for _, steps in known)
    center = sum(steps.number * k for k, steps in known) / weight
    seconds = sum(steps.number * steps.seconds for _, steps in known) / weight
    spread = sum(steps.number * (k - center) ** 2 for k, steps in known)
    rise = sum(steps.number * (k - center) * (steps.seconds - seconds) for k, steps in known)
    return center, seconds, max(rise / spread, 0.0)


def size_class(batch_size: int) -> int:
    """1, 2, …, 8, then the largest of 9-16, 17-32, …: these cost about the same, and share what
    was learned.
    """
    return batch_size if batch_size <= 8 else 1 << (batch_size - 1).bit_length()
