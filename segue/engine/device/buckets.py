"""Which step sizes are captured. A graph has fixed shapes, so a step uses the next larger one.

    sequences   1 2 4 8 12 16 24 32 48 64 …      at most a third of the rows are padding
    drafts      0 1 2 … max_drafts               every count, since fewer drafts make a step cheaper
    context     4 k, 16 k, 64 k, … tokens        the page table's width, and so the program count
    sampling    greedy, plain, filtered, all     and log-probabilities, if a request wants them

Pure. Shapes that no step needs are never captured; the least recently used are dropped
(`MAX_GRAPHS`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from segue.kernels.sampling import EVERYTHING, SamplingFeatures

MAX_GRAPHS = 192
"""Graphs kept at once. A graph of some hundred kernels takes a few MB of driver memory and none of
torch's: all graphs share one pool."""
FILTERED = replace(EVERYTHING, bias=False, penalties=False)
KINDS = (SamplingFeatures(), SamplingFeatures(draws=True), FILTERED, EVERYTHING)
"""Sampling kinds: greedy, plain, the usual filters, everything. A batch uses the first that covers
its features."""
FIRST_CONTEXT = 4096
CONTEXT_FACTOR = 4


Half: TypeAlias = Literal["draft", "verify"]


@dataclass(frozen=True, slots=True)
class StepShape:
    """What the host knows about a step, and a graph fixes."""

    num_sequences: int
    num_drafts: int
    """Most drafts per sequence."""
    num_pages: int
    """Columns of the page table."""
    with_logprobs: bool = False
    """Set if any sequence wants them. Costs a pass over the logits, and a top-k."""
    needs: SamplingFeatures = EVERYTHING
    """Sampling features; the step computes no others."""
    half: Half | None = None
    """One half of a step, between which the host finds masks; None for a whole one."""

    @property
    def num_rounds(self) -> int:
        return self.num_drafts + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    max_batch: int
    max_drafts: int
    max_context: int
    page_tokens: int
    batch_sizes: tuple[int, ...] = field(init=False)
    page_counts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_sizes", _batch_sizes(self.max_batch))
        counts = tuple(-(-n // self.page_tokens) for n in _contexts(self.max_context))
        object.__setattr__(self, "page_counts", counts)

    def shape_of(self, exact: StepShape) -> StepShape:
        """The smallest captured shape that the step fits into."""
        return replace(
            exact,
            num_sequences=_at_least(exact.num_sequences, self.batch_sizes),
            num_pages=_at_least(exact.num_pages, self.page_counts),
            needs=next(needs for needs in KINDS if needs | exact.needs == needs),
        )

    def first_shapes(self) -> Iterator[StepShape]:
        """The shapes worth capturing at start-up: short contexts, small batches first."""
        for num_sequences in self.batch_sizes:
            for num_drafts in range(self.max_drafts + 1):
                yield StepShape(num_sequences, num_drafts, self.page_counts[0], needs=FILTERED)


def _batch_sizes(max_batch: int) -> tuple[int, ...]:
    sizes = [1, 2, 4, 8, 12]
    while sizes[-1] < max_batch:
        # Powers of two, and the midpoints between them.
        sizes.append(sizes[-2] * 2)
    return (*(size for size in sizes if size < max_batch), max_batch)


def _contexts(max_context: int) -> Iterator[int]:
    context = FIRST_CONTEXT
    while context < max_context:
        yield context
        context *= CONTEXT_FACTOR
    yield max_context


def _at_least(wanted: int, sizes: Sequence[int]) -> int:
    fitting = [size for size in sizes if size >= wanted]
    assert fitting, f"no step is as large as {wanted}: {sizes}"
    return fitting[0]
