"""The best draft length, learned from measured step times and acceptance. Pure.

A step with k drafts yields 1 + p₁ + p₁p₂ + … + p₁⋯p_k tokens per sequence, where p_j is the share
of j-th drafts that are accepted if all before them were. A step with a larger k takes longer, which
depends on the machine and the batch: with few sequences the weights are read anyway and more rows
are nearly free; with many, every row costs the same. So step times are measured per batch size and
k, and the k with the most tokens per second wins.

Step time grows roughly linearly with k. A line fitted through the measured k predicts the others,
and smooths those with few measurements. A depth without measurements is assumed to be as good as
the previous depth. No draft, one draft and the maximum are tried first. After that the k with the
best predicted rate is used, measured or not; of two close ones, the one with fewer steps. From time
to time a neighbouring k is tried, since texts and batches change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import median

ENOUGH_STEPS = 4
"""Steps with one k before its time counts: a single step may be unusually slow. The fitted line has
the weight of this many steps."""
DOUBT = 0.05
"""Relative error of a single step's time: the bonus for a k with few steps."""
NEARLY_ALL = 0.75
"""Minimum share of the requested drafts for a step's time to count as that of k drafts. Sequences
near their end, or with few slots, have fewer."""
RECENT_STEPS = 1000
"""A batch size not seen for this many steps no longer affects how many slots are needed."""
TRY_EVERY = 64
"""Steps at one batch size between two trials of a neighbouring k. A bad one costs one or two
percent."""
STEPS_KEPT = 16
"""Latest step times stored per k and batch size."""
CLOCK_TICK_S = 1e-9
"""Minimum time of a step."""
TRIALS_KEPT = 500.0
"""The latest drafts that count per depth, approximately."""


@dataclass(slots=True)
class _Steps:
    """The latest steps with one k, in batches of one size."""

    seconds: float = 0.0
    """Their median: other processes use the machine too, and the first step is slow."""
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
        """The accepted share, with `expected` as a prior that weighs as much as 2 trials."""
        return (self.accepted + 2 * expected) / (self.tried + 2)


@dataclass(slots=True)
class _BatchSize:
    """The measurements of batches of one size."""

    steps: list[_Steps]
    """By k."""
    num_steps: int = 0
    looks_up: bool = False
    best: int | None = None
    """The k with the best rate at the last `choose`, even without room for it."""
    chosen_at: int = 0

    def is_known(self, k: int) -> bool:
        return self.steps[k].number >= ENOUGH_STEPS

    def first_tries(self, most: int) -> list[int]:
        """No draft, one draft and the maximum, since a line is unreliable outside the range of its
        points. At least half the maximum is enough."""
        is_wide = any(self.is_known(k) for k in range((most + 1) // 2, len(self.steps)))
        return [0, min(1, most)] if is_wide else [0, min(1, most), most]

    def expected_seconds(self) -> list[float]:
        """Expected seconds of a step with each k. k = 0 and k = 1 must be known."""
        known = [k for k in range(len(self.steps)) if self.is_known(k)]
        drafting = [k for k in known if k]
        # A step without drafts skips the MTP layer, so it is not on the line.
        on_line = drafting if len(drafting) > 1 else known
        center, seconds, slope = _line([(k, self.steps[k]) for k in on_line])
        # A line through few points may predict anything.
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
    _num_chosen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._acceptance = [_Acceptance() for _ in range(self.max_drafts)]

    @property
    def reach(self) -> int:
        """Drafts to reserve slots for: one more than the best of any recent batch size.
        `max_drafts` until a best one is known."""
        oldest = self._num_chosen - RECENT_STEPS
        sizes = [size for size in self._sizes.values() if size.chosen_at >= oldest]
        bests = [size.best for size in sizes if size.best is not None]
        return min(max(bests) + 1, self.max_drafts) if bests else self.max_drafts

    def choose(self, rooms: Sequence[int]) -> int:
        """The number of drafts for each sequence of a batch; 0 if drafting does not pay off.

        `rooms`: the maximum drafts of each sequence. At least three quarters of the sequences have
        room for the result.
        """
        size, most = self._size(len(rooms)), min(sorted(rooms)[len(rooms) // 4], self.max_drafts)
        self._num_chosen += 1
        size.chosen_at = self._num_chosen
        # Alternating, so that other load on the machine affects all of them.
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
        """Records a step for which `num_drafts` was chosen, with the numbers of drafted and
        accepted tokens of each sequence. Steps with a prompt must not be recorded."""
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
        """Expected new tokens per sequence and step with `num_drafts`."""
        expected, reached, share = 1.0, 1.0, 1.0
        for acceptance in self._acceptance[:num_drafts]:
            # A depth with few trials is assumed to be as good as the previous one.
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
    """Least squares, weighted by the number of steps: the mean k, the seconds there, and the slope,
    at least 0."""
    weight = sum(steps.number for _, steps in known)
    center = sum(steps.number * k for k, steps in known) / weight
    seconds = sum(steps.number * steps.seconds for _, steps in known) / weight
    spread = sum(steps.number * (k - center) ** 2 for k, steps in known)
    rise = sum(steps.number * (k - center) * (steps.seconds - seconds) for k, steps in known)
    return center, seconds, max(rise / spread, 0.0)


def size_class(batch_size: int) -> int:
    """1, 2, …, 8, then the upper end of 9-16, 17-32, …: sizes in one class cost about the same, and
    share what was learned.
    """
    return batch_size if batch_size <= 8 else 1 << (batch_size - 1).bit_length()
