"""One decode step as a function of tensors alone: draft, verify, sample, accept, advance.

    rows ─▶ draft k times ─▶ verify k + 1 tokens ─▶ sample ─▶ accept ─▶ rows advanced
             MTP layer        trunk, round by round                └─▶ tokens, counts

The host code here never waits for the device or branches on its values, so a CUDA graph can hold
all of it (`segue.engine.device.graphs`). A CPU runs the same function.

A step may be run in two halves, up to the drafts and from there on. In between the host reads the
drafts and sets the masks of a grammar for the rounds that verify them.

All decode chunks have the same number of draft rounds J = k + 1. A sequence that must stop earlier,
because its answer or its ring ends, computes the rest as padding: token 0, states into the scratch
slot, keys and values into the scratch page. A row that may not run at all is padding from its first
token on. Scratch units may hold NaN or anything else; no real result depends on them.

B sequences, J draft rounds, T = J · B tokens round by round, S slots of a ring, P pages, H hidden
size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from segue.cache.tensors import CacheTensors
from segue.engine.device.buckets import StepShape
from segue.engine.device.buffers import SequenceRows, StepTables
from segue.engine.device.result import pack
from segue.engine.device.slot_rings import Rings, after, writable
from segue.kernels.sampling import NO_TOKEN, SamplingFeatures, num_accepted
from segue.model.batch import Batch, DecodeRows, DraftBatch, HiddenRows, Rotary
from segue.model.qwen3_5 import Qwen3_5


class StepSampling(Protocol):
    """What a step needs from a sampler whose parameters are already on the device."""

    def sample(
        self,
        logits_TV: Tensor,
        row_ids_T: Tensor,
        positions_T: Tensor,
        pending_TK: Tensor,
        needs: SamplingFeatures,
        *,
        round_T: Tensor | None,
    ) -> Tensor:
        """A token for each row of logits, [T], at these positions. `pending` tokens count as part
        of the answer. Padding rows of logits may hold NaN. `round_T`: the number of drafts before;
        None for drafts that are drawn before their masks are known."""
        ...

    def set_masks(self, row: int, masks: Sequence[np.ndarray]) -> None:
        """The tokens that the row may get in each round of the next step."""
        ...

    def observe(self, row_ids_B: Tensor, token_ids_BJ: Tensor, num_new_B: Tensor) -> None:
        """Count the first `num_new` tokens of each row as part of the answers."""
        ...


class DeviceStep:
    def __init__(
        self, model: Qwen3_5, cache: CacheTensors, tables: StepTables, sampling: StepSampling
    ) -> None:
        self._model = model
        self._cache = cache
        self._tables = tables
        self._sampling = sampling

    @torch.inference_mode()
    def run(self, row_ids_B: Tensor, shape: StepShape) -> Tensor:
        """One step of the sequences in these rows. Only the padding row may occur more than once.

        Returns one vector of integers, which `segue.engine.device.result.unpack` reads, or after
        the first half the drafts [B, K].
        """
        chunks = _DecodeChunks.of(self._tables, row_ids_B, shape)
        if shape.half == "verify":
            drafts_BK = self._tables.drafts(row_ids_B, shape.num_drafts)
        else:
            drafts_BK = self._draft(chunks, row_ids_B, shape.needs)
        if shape.half == "draft":
            self._tables.keep_drafts(row_ids_B, drafts_BK)
            return drafts_BK
        token_ids_BJ = torch.cat([chunks.rows.last_token_B.unsqueeze(1), drafts_BK], dim=1)
        logits_TV = self._model.forward(chunks.batch(token_ids_BJ), self._cache, None)
        targets_BJ = self._targets(logits_TV, chunks, row_ids_B, drafts_BK, shape.needs)
        num_new_B, num_left_B = _accept(chunks, drafts_BK, targets_BJ)
        self._move_on(chunks, row_ids_B, targets_BJ, num_new_B, num_left_B)
        if shape.needs.penalties:
            self._sampling.observe(row_ids_B, targets_BJ, num_new_B)
        num_drafted_B = (chunks.num_tokens_B - 1).clamp(min=0)
        return pack(
            num_new_B, num_drafted_B, targets_BJ, logits_TV if shape.with_logprobs else None
        )

    def set_masks(self, masks: Mapping[int, Sequence[np.ndarray]]) -> None:
        """Between the halves of a step: for each round of these rows."""
        for row, of_row in masks.items():
            self._sampling.set_masks(row, of_row)

    def _draft(self, chunks: _DecodeChunks, row_ids_B: Tensor, needs: SamplingFeatures) -> Tensor:
        """The MTP layer's drafts after each sequence's last token [B, K]."""
        rows = chunks.rows
        pending_BK = row_ids_B.new_full((len(row_ids_B), chunks.num_rounds - 1), NO_TOKEN)
        if chunks.num_rounds == 1:
            return pending_BK
        slots_SH = self._cache.of("hidden", self._model.num_layers)
        hidden_BH = slots_SH.index_select(0, rows.state_B)
        token_ids_B = rows.last_token_B
        pages = self._cache.of("kv", self._model.num_layers)
        rotary = self._model.rotary(chunks.positions_JB[:-1].flatten())
        for depth in range(chunks.num_rounds - 1):
            batch = chunks.draft_batch(token_ids_B, depth, pages, rotary)
            logits_BV, hidden_BH = self._model.draft(hidden_BH, batch)
            drawn_B = self._sampling.sample(
                logits_BV,
                row_ids_B,
                batch.lengths_D,
                pending_BK,
                needs,
                round_T=None if depth else torch.zeros_like(row_ids_B),
            )
            # In a padding row even the logits may be NaN.
            token_ids_B = drawn_B.masked_fill(chunks.num_tokens_B <= depth + 1, 0)
            pending_BK[:, depth] = token_ids_B
        return pending_BK

    def _targets(
        self,
        logits_TV: Tensor,
        chunks: _DecodeChunks,
        row_ids_B: Tensor,
        drafts_BK: Tensor,
        needs: SamplingFeatures,
    ) -> Tensor:
        """The trunk's own token after each token of the chunks [B, J]."""
        num_rounds, num = chunks.num_rounds, len(row_ids_B)
        # For a chunk's j-th row, the drafts before it.
        is_before_JK = chunks.index_J[:-1] < chunks.index_J.unsqueeze(1)
        pending_JBK = torch.where(is_before_JK.unsqueeze(1), drafts_BK, NO_TOKEN)
        targets_T = self._sampling.sample(
            logits_TV,
            row_ids_B.repeat(num_rounds),
            chunks.positions_JB.flatten() + 1,
            pending_JBK.flatten(0, 1),
            needs,
            round_T=chunks.index_J.repeat_interleave(num),
        )
        return targets_T.view(num_rounds, num).T.contiguous()

    def _move_on(
        self,
        chunks: _DecodeChunks,
        row_ids_B: Tensor,
        targets_BJ: Tensor,
        num_new_B: Tensor,
        num_left_B: Tensor,
    ) -> None:
        """Advance the rows past the accepted tokens."""
        rows = chunks.rows
        state_B, checkpoint_B = after(
            chunks.rings,
            chunks.slots_out_BJ,
            positions_B=rows.position_B,
            num_new_B=num_new_B,
            page_tokens=self._tables.page_tokens,
        )
        last_B1 = (num_new_B - 1).clamp(min=0).unsqueeze(1)
        last_token_B = targets_BJ.gather(1, last_B1)[:, 0]
        self._tables.write(
            row_ids_B,
            rows._replace(
                last_token_B=last_token_B.where(num_new_B > 0, rows.last_token_B),
                position_B=rows.position_B + num_new_B,
                num_left_B=num_left_B,
                state_B=state_B,
                checkpoint_B=checkpoint_B,
            ),
        )


class _DecodeChunks(NamedTuple):
    """Which tokens a step computes, and where their states, keys and values go."""

    rows: SequenceRows
    rings: Rings
    index_J: Tensor
    num_tokens_B: Tensor
    """Real tokens of each chunk; the others are padding."""
    positions_JB: Tensor
    slots_out_BJ: Tensor
    pages_JB: Tensor
    page_table_BP: Tensor
    page_tokens: int

    @classmethod
    def of(cls, tables: StepTables, row_ids_B: Tensor, shape: StepShape) -> _DecodeChunks:
        rows = tables.gather(row_ids_B)
        rings = Rings(rows.slots_BS, rows.state_B, rows.checkpoint_B)
        slots_BS, num_writable_B = writable(rings)
        index_J = torch.arange(shape.num_rounds, device=row_ids_B.device)
        num_tokens_B = num_writable_B.minimum(rows.num_left_B).clamp(max=shape.num_rounds)
        counts_BJ = index_J < num_tokens_B.unsqueeze(1)
        positions_JB = rows.position_B + index_J.unsqueeze(1)
        page_table_BP = tables.page_table(row_ids_B, shape.num_pages)
        pages_BJ = page_table_BP.gather(1, positions_JB.T // tables.page_tokens)
        return cls(
            rows=rows,
            rings=rings,
            index_J=index_J,
            num_tokens_B=num_tokens_B,
            positions_JB=positions_JB,
            slots_out_BJ=slots_BS[:, : shape.num_rounds].masked_fill(
                ~counts_BJ, tables.scratch.slot
            ),
            pages_JB=pages_BJ.masked_fill(~counts_BJ, tables.scratch.page).T.contiguous(),
            page_table_BP=page_table_BP,
            page_tokens=tables.page_tokens,
        )

    @property
    def num_rounds(self) -> int:
        return self.index_J.shape[0]

    def draft_batch(
        self, token_ids_B: Tensor, depth: int, pages: Tensor, rotary: Rotary
    ) -> DraftBatch:
        """`rotary`: tables of all rounds."""
        positions_B = self.positions_JB[depth]
        rows = slice(depth * len(positions_B), (depth + 1) * len(positions_B))
        return DraftBatch(
            token_ids_D=token_ids_B,
            rotary=(rotary[0][rows], rotary[1][rows]),
            lengths_D=positions_B + 1,
            pages=pages,
            pages_D=self.pages_JB[depth],
            offsets_D=positions_B % self.page_tokens,
            page_table_DP=self.page_table_BP,
        )

    def batch(self, token_ids_BJ: Tensor) -> Batch:
        num = len(self.page_table_BP)
        positions_T = self.positions_JB.flatten()
        slots_out_T = self.slots_out_BJ.T.flatten()
        rows_T = torch.arange(len(positions_T), device=positions_T.device)
        # The first round follows the hidden rows from slots, which come after the batch's own.
        before_T = torch.where(rows_T < num, rows_T + len(positions_T), rows_T - num)
        return Batch(
            token_ids_T=token_ids_BJ.T.flatten(),
            positions_T=positions_T,
            pages_T=self.pages_JB.flatten(),
            offsets_T=positions_T % self.page_tokens,
            logit_rows_R=rows_T,
            decode=DecodeRows(
                round_sizes=(num,) * self.num_rounds,
                slots_in_D=self.rows.state_B,
                slots_out_T=slots_out_T,
                page_table_DP=self.page_table_BP,
                lengths_D=self.rows.position_B + 1,
            ),
            prefill=None,
            hidden=HiddenRows(
                slots_in_I=self.rows.state_B,
                before_T=before_T,
                rows_K=rows_T,
                slots_out_K=slots_out_T,
            ),
        )


def _accept(chunks: _DecodeChunks, drafts_BK: Tensor, targets_BJ: Tensor) -> tuple[Tensor, Tensor]:
    """Per sequence, the number of targets that are new tokens, and the number of tokens its answer
    may still get: 0 after an end token. Both [B]."""
    num_drafts_B = (chunks.num_tokens_B - 1).clamp(min=0)
    num_new_B = num_accepted(drafts_BK, targets_BJ, num_drafts_B) + chunks.num_tokens_B.clamp(max=1)
    ends_BJ = (targets_BJ.unsqueeze(2) == chunks.rows.end_ids_BE.unsqueeze(1)).any(2)
    ends_BJ &= chunks.index_J < num_new_B.unsqueeze(1)
    # Up to and including the first end token.
    goes_on_BJ = (ends_BJ.cumsum(1) - ends_BJ.long()) == 0
    num_new_B = (goes_on_BJ & (chunks.index_J < num_new_B.unsqueeze(1))).sum(1)
    return num_new_B, (chunks.rows.num_left_B - num_new_B).masked_fill(ends_BJ.any(1), 0)
