"""From chunks of sequences, as the schedulers speak of them, to the tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor

from segue.kernels import NO_SLOT
from segue.model.batch import Batch, Prompts, Segments, Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceChunk:
    """The tokens at positions start, start + 1, … of one sequence."""

    token_ids: Sequence[int]
    start: int
    page_ids: Sequence[int]
    """Pages of all positions from 0 to the chunk's end; more are ignored."""
    slot_in: int | None
    """Holds the state before `start`, and is only read; None begins from a zero state."""
    slot_out: int
    """Takes the state after the chunk; may be `slot_in`."""
    checkpoints: Sequence[tuple[int, int]] = ()
    """Positions inside the chunk, ascending, and the slots that take the states there."""

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)

    @property
    def is_step(self) -> bool:
        return len(self.token_ids) == 1 and self.slot_in is not None

    @property
    def slots_written(self) -> list[int]:
        """In order of their positions."""
        return [*(slot for _, slot in self.checkpoints), self.slot_out]


def pack(chunks: Sequence[SequenceChunk], *, page_tokens: int, device: str) -> Batch:
    """One batch of all chunks: steps first, then prompts, each in the order given."""
    _check(chunks, page_tokens)
    order = sorted(range(len(chunks)), key=lambda i: not chunks[i].is_step)
    packed = [chunks[i] for i in order]
    steps = [chunk for chunk in packed if chunk.is_step]
    prompts = packed[len(steps) :]
    ends = list(accumulate(len(chunk.token_ids) for chunk in packed))
    last_rows = [0] * len(chunks)
    for end, i in zip(ends, order, strict=True):
        last_rows[i] = end - 1
    positions = [p for chunk in packed for p in range(chunk.start, chunk.end)]
    pages = [
        chunk.page_ids[p // page_tokens] for chunk in packed for p in range(chunk.start, chunk.end)
    ]
    positions_T = _ints(positions, device)
    return Batch(
        token_ids_T=_ints(list(chain.from_iterable(c.token_ids for c in packed)), device),
        positions_T=positions_T,
        pages_T=_ints(pages, device),
        offsets_T=positions_T % page_tokens,
        last_rows_B=_ints(last_rows, device),
        num_steps=len(steps),
        steps=_steps(steps, page_tokens, device) if steps else None,
        prompts=_prompts(prompts, page_tokens, device) if prompts else None,
    )


def _steps(chunks: Sequence[SequenceChunk], page_tokens: int, device: str) -> Steps:
    return Steps(
        slots_in_D=_ints([_slot_in(chunk) for chunk in chunks], device),
        slots_out_D=_ints([chunk.slot_out for chunk in chunks], device),
        page_table_DP=_page_table(chunks, page_tokens, device),
        lengths_D=_ints([chunk.end for chunk in chunks], device),
    )


def _prompts(chunks: Sequence[SequenceChunk], page_tokens: int, device: str) -> Prompts:
    ends = accumulate((len(chunk.token_ids) for chunk in chunks), initial=0)
    return Prompts(
        cu_tokens_N1=_ints(list(ends), device),
        starts_N=_ints([chunk.start for chunk in chunks], device),
        page_table_NP=_page_table(chunks, page_tokens, device),
        segments=_segments(chunks, device),
    )


def _segments(chunks: Sequence[SequenceChunk], device: str) -> Segments:
    bounds, slots_in, slots_out = [0], list[int](), list[int]()
    for chunk in chunks:
        first_row = bounds[-1] - chunk.start
        bounds += [first_row + position for position, _ in chunk.checkpoints]
        bounds.append(first_row + chunk.end)
        slots_in += [_slot_in(chunk), *chunk.slots_written[:-1]]
        slots_out += chunk.slots_written
    return Segments(
        cu_tokens_M1=_ints(bounds, device),
        slots_in_M=_ints(slots_in, device),
        slots_out_M=_ints(slots_out, device),
    )


def _slot_in(chunk: SequenceChunk) -> int:
    return NO_SLOT if chunk.slot_in is None else chunk.slot_in


def _page_table(chunks: Sequence[SequenceChunk], page_tokens: int, device: str) -> Tensor:
    rows = [list(chunk.page_ids[: -(-chunk.end // page_tokens)]) for chunk in chunks]
    width = max(len(row) for row in rows)
    return _ints([row + row[:1] * (width - len(row)) for row in rows], device)


def _ints(values: Sequence[int] | Sequence[Sequence[int]], device: str) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def _check(chunks: Sequence[SequenceChunk], page_tokens: int) -> None:
    """What the schedulers promise: a broken promise here would be wrong text, not an error."""
    assert chunks, "a batch needs at least one chunk"
    for chunk in chunks:
        assert chunk.token_ids, "a chunk needs at least one token"
        assert (chunk.start == 0) == (chunk.slot_in is None), "a state is there unless start is 0"
        assert len(chunk.page_ids) * page_tokens >= chunk.end, "pages must cover the chunk"
        cuts = [chunk.start, *(position for position, _ in chunk.checkpoints), chunk.end]
        assert cuts == sorted(set(cuts)), f"states are kept inside the chunk, in order: {cuts}"
    written = [slot for chunk in chunks for slot in chunk.slots_written]
    assert len(set(written)) == len(written), f"slots written twice in one batch: {written}"
    for chunk in chunks:
        read_by_other = chunk.slot_in != chunk.slot_out and chunk.slot_in in written
        assert not read_by_other, f"slot {chunk.slot_in} is read and written in one batch"
