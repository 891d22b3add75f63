"""The step shapes that are captured. A graph has a fixed shape, so a step uses the next larger one.

    sequences   1 2 4 8 12 16 24 32 48 64 …   at most a third of the rows are padding
    drafts      0 1 2 … max_drafts            every count, since fewer drafts make a step cheaper
    sampling    few candidates, usual filters for every number of sequences
                everything, log-probabilities for powers of two: these are rare

Every step fits one of them, so nothing is captured while turns run: a capture takes as long as some
ten steps, and seconds if it compiles. The page table is as wide as the longest context. This costs
nothing for 16,000 tokens and more: there attention's grid follows from the GPU, not from the table.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

from segue.kernels.sampling import EVERYTHING, SamplingFeatures

FEW = replace(EVERYTHING, draws=False)
"""Greedy, or a small top-k, as published checkpoints recommend. The other features cost only the
rows that use them."""
FILTERED = replace(EVERYTHING, bias=False, penalties=False)

Half: TypeAlias = Literal["draft", "verify"]


@dataclass(frozen=True, slots=True)
class StepShape:
    """The properties of a step that the host knows and a graph fixes."""

    num_sequences: int
    num_drafts: int
    """Most drafts per sequence."""
    num_pages: int
    """Columns of the page table."""
    with_logprobs: bool = False
    """Set if any sequence needs them. Costs a pass over the logits and a top-k."""
    needs: SamplingFeatures = EVERYTHING
    """Sampling features; the step computes no others."""
    half: Half | None = None
    """One half of a step; the host finds masks between the halves. None: a whole step."""

    @property
    def num_rounds(self) -> int:
        return self.num_drafts + 1


class _Kind(NamedTuple):
    """The sampling features of a captured step."""

    needs: SamplingFeatures
    with_logprobs: bool = False

    def covers(self, exact: StepShape) -> bool:
        has_logprobs = self.with_logprobs or not exact.with_logprobs
        return has_logprobs and self.needs | exact.needs == self.needs


_USUAL = (_Kind(FEW), _Kind(FILTERED))
"""A step uses the first that covers all its rows."""
_RARE = _Kind(EVERYTHING, with_logprobs=True)
"""Also for halves of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    max_batch: int
    max_drafts: int
    num_pages: int
    """Of the longest context."""

    def shape_of(self, exact: StepShape) -> StepShape:
        """The smallest captured shape that the step fits into."""
        usual = () if exact.half else _USUAL
        kind = next((kind for kind in usual if kind.covers(exact)), _RARE)
        return replace(
            exact,
            num_sequences=_at_least(exact.num_sequences, self._batch_sizes(kind)),
            num_pages=self.num_pages,
            with_logprobs=kind.with_logprobs,
            needs=kind.needs,
        )

    def shapes(self) -> Iterator[StepShape]:
        """All captured shapes, the largest first: the others reuse its memory."""
        halves: tuple[Half | None, ...] = ("draft", "verify", None)
        for kind in (_RARE, *reversed(_USUAL)):
            for num_sequences in reversed(self._batch_sizes(kind)):
                for num_drafts in range(self.max_drafts, -1, -1):
                    for half in halves if kind is _RARE and num_drafts else (None,):
                        yield StepShape(
                            num_sequences,
                            num_drafts,
                            self.num_pages,
                            with_logprobs=kind.with_logprobs,
                            needs=kind.needs,
                            half=half,
                        )

    def _batch_sizes(self, kind: _Kind) -> Sequence[int]:
        return _powers(self.max_batch) if kind is _RARE else _batch_sizes(self.max_batch)


def _powers(max_batch: int) -> Sequence[int]:
    return (*(1 << i for i in range((max_batch - 1).bit_length())), max_batch)


def _batch_sizes(max_batch: int) -> Sequence[int]:
    sizes = [1, 2, 4, 8, 12]
    while sizes[-1] < max_batch:
        # Powers of two, and the midpoints between them.
        sizes.append(sizes[-2] * 2)
    return (*(size for size in sizes if size < max_batch), max_batch)


def _at_least(wanted: int, sizes: Sequence[int]) -> int:
    fitting = [size for size in sizes if size >= wanted]
    assert fitting, f"no step is as large as {wanted}: {sizes}"
    return fitting[0]
