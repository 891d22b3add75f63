"""From chunks of sequences to the tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor

from segue.engine.batch import MAX_VERIFY_TOKENS, Chunk, DecodeChunk, PrefillChunk
from segue.kernels import NO_SLOT
from segue.kernels.paged_attention.flashinfer.page_lists import PageSpan
from segue.kernels.paged_attention.flashinfer.prompts import Attend
from segue.model.batch import (
    Batch,
    DecodeRows,
    HiddenRows,
    LastRows,
    PrefillRows,
    PrefillSegments,
)

PlanPrompts = Callable[[Sequence[PageSpan]], Attend | None]


def pack(
    chunks: Sequence[Chunk],
    *,
    page_tokens: int,
    device: str,
    keeps_hidden: bool = False,
    plan_prompts: PlanPrompts | None = None,
) -> Batch:
    """One batch of all chunks: decode chunks round by round, then prefill chunks in given order.

    A single-token prefill chunk that continues a sequence is computed as a decode chunk.
    `keeps_hidden`: an MTP layer is served, so the batch has `HiddenRows`. `plan_prompts` plans the
    attention of prompts, if another package may compute it.
    """
    _check(chunks, page_tokens)
    rows = _Rows.of([_as_decode_chunk(chunk) for chunk in chunks])
    pieces = list(rows.pieces())
    positions = [p for piece in pieces for p in piece.positions]
    pages = [piece.chunk.page_ids[p // page_tokens] for piece in pieces for p in piece.positions]
    positions_T = _ints(positions, device)
    scored = _scored_rows(rows, chunks)
    attend = plan_prompts(rows.spans()) if plan_prompts and rows.prefill else None
    return Batch(
        token_ids_T=_ints(list(chain.from_iterable(piece.token_ids for piece in pieces)), device),
        positions_T=positions_T,
        pages_T=_ints(pages, device),
        offsets_T=positions_T % page_tokens,
        logit_rows_R=_ints(rows.with_logits(), device),
        decode=_decode_rows(rows, page_tokens, device) if rows.decode else None,
        prefill=_prefill_rows(rows.prefill, page_tokens, device, attend) if rows.prefill else None,
        hidden=_hidden(rows, pieces, len(positions), device) if keeps_hidden else None,
        scored_rows_S=_ints(scored, device) if scored else None,
        last=None if keeps_hidden or scored else _last_rows(rows, len(positions), device),
    )


def page_table(rows: Sequence[Sequence[int]], device: str) -> Tensor:
    """Page ids of several sequences; a short row repeats its first page."""
    width = max(len(row) for row in rows)
    return _ints([[*row, *[row[0]] * (width - len(row))] for row in rows], device)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Adjacent rows of one chunk: tokens `first` to `stop`."""

    chunk: Chunk
    row: int
    first: int
    stop: int

    @property
    def token_ids(self) -> Sequence[int]:
        return self.chunk.token_ids[self.first : self.stop]

    @property
    def positions(self) -> range:
        return range(self.chunk.start + self.first, self.chunk.start + self.stop)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The row of each token."""

    decode: list[DecodeChunk]
    """Longest first."""
    prefill: list[PrefillChunk]
    order: list[int]
    """The caller's index of each decode chunk, then of each prefill chunk."""
    round_sizes: list[int]

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> _Rows:
        order = sorted(
            range(len(chunks)),
            key=lambda i: -len(c.token_ids) if isinstance(c := chunks[i], DecodeChunk) else 0,
        )
        packed = [chunks[i] for i in order]
        decode = [chunk for chunk in packed if isinstance(chunk, DecodeChunk)]
        num_rounds = len(decode[0].token_ids) if decode else 0
        return cls(
            decode=decode,
            prefill=[chunk for chunk in packed if isinstance(chunk, PrefillChunk)],
            order=order,
            round_sizes=[sum(len(c.token_ids) > j for c in decode) for j in range(num_rounds)],
        )

    @property
    def round_bounds(self) -> list[int]:
        return list(accumulate(self.round_sizes, initial=0))

    def pieces(self) -> Iterator[_Piece]:
        """In row order."""
        row = 0
        for j, size in enumerate(self.round_sizes):
            for chunk in self.decode[:size]:
                yield _Piece(chunk, row, j, j + 1)
                row += 1
        for prefill in self.prefill:
            yield _Piece(prefill, row, 0, len(prefill.token_ids))
            row += len(prefill.token_ids)

    def spans(self) -> list[PageSpan]:
        """Of the prefill chunks."""
        return [
            PageSpan(start=chunk.start, num_tokens=len(chunk.token_ids), page_ids=chunk.page_ids)
            for chunk in self.prefill
        ]

    def with_logits(self) -> list[int]:
        """Every row of a decode chunk, the last row of a prefill chunk; in the caller's order."""
        bounds = self.round_bounds
        of_chunks = [
            [bounds[j] + i for j in range(len(chunk.token_ids))]
            for i, chunk in enumerate(self.decode)
        ]
        lengths = [len(chunk.token_ids) for chunk in self.prefill]
        of_chunks += [[end - 1] for end in accumulate(lengths, initial=bounds[-1])][1:]
        in_callers_order = sorted(zip(self.order, of_chunks, strict=True))
        return [row for _, of_chunk in in_callers_order for row in of_chunk]


def _last_rows(rows: _Rows, num_tokens: int, device: str) -> LastRows | None:
    with_logits = rows.with_logits()
    if len(with_logits) == num_tokens:
        return None
    in_row_order = sorted(with_logits)
    place = {row: i for i, row in enumerate(in_row_order)}
    return LastRows(
        rows_R=_ints(in_row_order, device),
        cu_tokens_N1=_ints(range(len(rows.prefill) + 1), device),
        starts_N=_ints([chunk.end - 1 for chunk in rows.prefill], device),
        logit_rows_R=_ints([place[row] for row in with_logits], device),
    )


def _scored_rows(rows: _Rows, chunks: Sequence[Chunk]) -> list[int]:
    """In the caller's order. `chunks` are the caller's."""
    if not any(isinstance(chunk, PrefillChunk) and chunk.scored_ids for chunk in chunks):
        return []
    # The first row of each chunk. The first round has all decode chunks.
    first_rows = [*range(len(rows.decode))]
    lengths = [len(chunk.token_ids) for chunk in rows.prefill]
    first_rows += accumulate(lengths[:-1], initial=rows.round_bounds[-1])
    first = dict(zip(rows.order, first_rows, strict=False))
    return [
        first[index] + i
        for index, chunk in enumerate(chunks)
        if isinstance(chunk, PrefillChunk)
        for i in range(len(chunk.scored_ids))
    ]


def _as_decode_chunk(chunk: Chunk) -> Chunk:
    if isinstance(chunk, DecodeChunk) or len(chunk.token_ids) > 1 or chunk.slot_in is None:
        return chunk
    return DecodeChunk(
        token_ids=chunk.token_ids,
        start=chunk.start,
        page_ids=chunk.page_ids,
        slot_in=chunk.slot_in,
        slots_out=(chunk.slot_out,),
    )


def _decode_rows(rows: _Rows, page_tokens: int, device: str) -> DecodeRows:
    slots_out = [
        chunk.slots_out[j]
        for j, size in enumerate(rows.round_sizes)
        for chunk in rows.decode[:size]
    ]
    return DecodeRows(
        round_sizes=tuple(rows.round_sizes),
        slots_in_D=_ints([chunk.slot_in for chunk in rows.decode], device),
        slots_out_T=_ints(slots_out, device),
        page_table_DP=_page_table(rows.decode, page_tokens, device),
        lengths_D=_ints([chunk.start + 1 for chunk in rows.decode], device),
    )


def _prefill_rows(
    chunks: Sequence[PrefillChunk], page_tokens: int, device: str, attend: Attend | None
) -> PrefillRows:
    ends = accumulate((len(chunk.token_ids) for chunk in chunks), initial=0)
    return PrefillRows(
        cu_tokens_N1=_ints(list(ends), device),
        starts_N=_ints([chunk.start for chunk in chunks], device),
        page_table_NP=_page_table(chunks, page_tokens, device),
        segments=_prefill_segments(chunks, device),
        attend=attend,
    )


def _prefill_segments(chunks: Sequence[PrefillChunk], device: str) -> PrefillSegments:
    bounds = [0]
    for chunk in chunks:
        first_row = bounds[-1] - chunk.start
        bounds += [first_row + position for position in chunk.positions_kept]
    slots_out = [chunk.slots_written for chunk in chunks]
    slots_in = [NO_SLOT if chunk.slot_in is None else chunk.slot_in for chunk in chunks]
    return PrefillSegments(
        cu_tokens_M1=_ints(bounds, device),
        slots_out_M=_ints(list(chain.from_iterable(slots_out)), device),
        cu_segments_N1=_ints(list(accumulate(map(len, slots_out), initial=0)), device),
        slots_in_N=_ints(slots_in, device),
    )


def _hidden(rows: _Rows, pieces: Sequence[_Piece], num_tokens: int, device: str) -> HiddenRows:
    slots_in, before = list[int](), list[int]()
    kept, slots_out = list[int](), list[int]()
    for piece in pieces:
        chunk = piece.chunk
        if piece.first:
            # The chunk's row in the previous round, which had at least as many chunks.
            before.append(piece.row - rows.round_sizes[piece.first - 1])
        elif chunk.slot_in is None:
            before.append(piece.row)
        else:
            before.append(num_tokens + len(slots_in))
            slots_in.append(chunk.slot_in)
        before += range(piece.row, piece.row + piece.stop - piece.first - 1)
        if isinstance(chunk, DecodeChunk):
            kept.append(piece.row)
            slots_out.append(chunk.slots_out[piece.first])
        else:
            kept += [piece.row + p - chunk.start - 1 for p in chunk.positions_kept]
            slots_out += chunk.slots_written
    return HiddenRows(
        slots_in_I=_ints(slots_in, device),
        before_T=_ints(before, device),
        rows_K=_ints(kept, device),
        slots_out_K=_ints(slots_out, device),
    )


def _page_table(chunks: Sequence[Chunk], page_tokens: int, device: str) -> Tensor:
    return page_table([chunk.page_ids[: -(-chunk.end // page_tokens)] for chunk in chunks], device)


def _ints(values: Sequence[int] | Sequence[Sequence[int]], device: str) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def _check(chunks: Sequence[Chunk], page_tokens: int) -> None:
    """Asserts what schedulers guarantee. Otherwise violations would produce wrong text."""
    assert chunks, "a batch needs at least one chunk"
    for chunk in chunks:
        assert chunk.token_ids, "a chunk needs at least one token"
        assert (chunk.start == 0) == (chunk.slot_in is None), "slot_in is None only if start is 0"
        assert len(chunk.page_ids) * page_tokens >= chunk.end, "pages must cover the chunk"
        if isinstance(chunk, DecodeChunk):
            num_tokens = len(chunk.token_ids)
            assert num_tokens <= MAX_VERIFY_TOKENS, (
                f"a decode chunk is too long: {num_tokens} tokens"
            )
            assert len(chunk.slots_out) == num_tokens, "a decode chunk needs a slot for each token"
        else:
            cuts = [chunk.start, *chunk.positions_kept]
            assert cuts == sorted(set(cuts)), f"checkpoints must lie in the chunk, in order: {cuts}"
            assert len(chunk.scored_ids) <= len(chunk.token_ids), "tokens beyond the next one"
    written = [slot for chunk in chunks for slot in chunk.slots_written]
    assert len(set(written)) == len(written), f"slots written twice in one batch: {written}"
    for chunk in chunks:
        # Operators read a sequence's slot before they write its others, but do not order different
        # sequences: only its own sequence may write a slot that is read.
        own = chunk.slots_out if isinstance(chunk, DecodeChunk) else (chunk.slot_out,)
        read_by_other = chunk.slot_in not in own and chunk.slot_in in written
        assert not read_by_other, f"slot {chunk.slot_in} is read and written in one batch"
