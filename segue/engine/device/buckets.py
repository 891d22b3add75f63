"""Which sizes of step are captured: a graph has fixed shapes, so a step takes the next larger one.

    sequences   1 2 4 8 12 16 24 32 48 64 …      at most a third of the rows are padding
    drafts      0 1 2 … max_drafts               each, since drafting is what a step may save
    context     4 k, 16 k, 64 k, … tokens        the page table's width, and with it the programs
    sampling    greedy, plain, filtered, all     and log-probabilities: when somebody asks

Pure. What is not asked for is never captured, and what was not used for long is forgotten
(`MAX_GRAPHS`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from segue.kernels.sampling import EVERYTHING, SamplingFeatures

MAX_GRAPHS = 192
"""Kept at once. A graph of some hundred kernels takes a few MB of the driver's memory, and nothing
of torch's: all share one pool."""
FILTERED = replace(EVERYTHING, bias=False, penalties=False)
KINDS = (SamplingFeatures(), SamplingFeatures(draws=True), FILTERED, EVERYTHING)
"""Of sampling: greedy, plain, as most do it, all there is. The first that covers a batch is its."""
FIRST_CONTEXT = 4096
CONTEXT_FACTOR = 4


@dataclass(frozen=True, slots=True)
class StepShape:
    """What of a step is known to the host, and fixed in a graph."""

    num_sequences: int
    num_drafts: int
    """Of each sequence, at most."""
    num_pages: int
    """Columns of the page table."""
    with_logprobs: bool = False
    """Somebody asked for them. It costs a pass over the logits and their best tokens."""
    needs: SamplingFeatures = EVERYTHING
    """Of sampling; what nobody asked for is not computed."""

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
        """Those worth capturing before anybody waits: short contexts, small batches first."""
        for num_sequences in self.batch_sizes:
            for num_drafts in range(self.max_drafts + 1):
                yield StepShape(num_sequences, num_drafts, self.page_counts[0], needs=FILTERED)


def _batch_sizes(max_batch: int) -> tuple[int, ...]:
    sizes = [1, 2, 4, 8, 12]
    while sizes[-1] < max_batch:
        # Powers of two, and half of the way to the next.
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
