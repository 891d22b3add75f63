"""One decode step as a function of tensors alone: draft, verify, sample, accept, advance.

    rows ─▶ draft k times ─▶ verify k + 1 tokens ─▶ sample ─▶ accept ─▶ rows advanced
             MTP layer        trunk, round by round                └─▶ tokens, counts

The host code never waits for the device or branches on its values, so a CUDA graph can hold all of
it (`segue.engine.device.graphs`). A CPU runs the same function. `segue.kernels.decode_step` has
everything but the passes and the sampling.

A step can run in two halves, before and after the drafts are known. In between the host reads the
drafts and sets a grammar's masks for the rounds that verify them.

All decode chunks have the same number of draft rounds J = k + 1. A sequence that must stop earlier,
because its answer or its ring ends, computes the rest as padding: token 0, states into the scratch
slot, keys and values into the scratch page. A row that may not run is padding from its first token
on. Scratch units may hold anything, even NaN; no real result depends on them.

B sequences, J draft rounds, K drafts, T = J · B tokens round by round, V vocabulary, H hidden size,
S slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from segue.cache.tensors import CacheTensors
from segue.engine.device.buckets import StepShape
from segue.engine.device.buffers import StepTables
from segue.engine.device.result import with_logprobs
from segue.engine.device.sampling import DeviceSampling
from segue.engine.device.stream import to_device
from segue.kernels.decode_step import OpenStep, add_draft, close_step, open_step
from segue.kernels.sampling import SamplingFeatures
from segue.model.batch import Batch, DecodeRows, DraftBatch, HiddenRows
from segue.model.qwen3_5 import Qwen3_5


class DeviceStep:
    def __init__(
        self, model: Qwen3_5, cache: CacheTensors, tables: StepTables, sampling: DeviceSampling
    ) -> None:
        self._model = model
        self._cache = cache
        self._sampling = sampling
        self._device = tables.device
        self._memory = tables.memory(sampling.integers_R5, sampling.numbers_R6)

    @torch.inference_mode()
    def run(self, row_ids_B: Tensor, shape: StepShape) -> Tensor:
        """Runs one step of the sequences in these rows. Only the padding row may occur more than
        once. Returns the vector that `segue.engine.device.result.unpack` reads; the first half of a
        step returns the drafts [B, K]."""
        step = open_step(
            row_ids_B,
            self._memory,
            num_rounds=shape.num_rounds,
            num_pages=shape.num_pages,
            has_drafts=shape.half == "verify",
        )
        if shape.half != "verify" and shape.num_drafts:
            self._draft(step, row_ids_B, shape.needs)
        if shape.half == "draft":
            return step.drafts_BK
        logits_TV = self._model.forward(_batch(step), self._cache, None)
        targets_T = self._sampling.sample(logits_TV, step.sampling, shape.needs)
        counts_SV = self._sampling.counts_SV if shape.needs.penalties else None
        result = close_step(targets_T, row_ids_B, step, self._memory, counts_SV)
        return with_logprobs(result, targets_T, logits_TV) if shape.with_logprobs else result

    def run_eagerly(self, row_ids: Sequence[int], shape: StepShape) -> Tensor:
        """As `run`, without a captured graph."""
        return self.run(to_device(row_ids, self._device), shape)

    def _draft(self, step: OpenStep, row_ids_B: Tensor, needs: SamplingFeatures) -> None:
        """The MTP layer's drafts after each sequence's last token."""
        slots_SH = self._cache.of("hidden", self._model.num_layers)
        hidden_BH = slots_SH.index_select(0, step.state_B)
        pages = self._cache.of("kv", self._model.num_layers)
        num_drafts = step.num_rounds - 1
        cos_T, sin_T = self._model.rotary(step.positions_T[: step.round(num_drafts).start])
        for depth in range(num_drafts):
            rows = step.round(depth)
            batch = DraftBatch(
                token_ids_D=step.token_ids_T[rows],
                rotary=(cos_T[rows], sin_T[rows]),
                lengths_D=step.next_positions_T[rows],
                pages=pages,
                pages_T=step.pages_T[rows],
                offsets_T=step.offsets_T[rows],
                page_table_DP=step.page_table_BP,
            )
            logits_BV, hidden_BH = self._model.draft(hidden_BH, batch)
            # Drafts after the first are drawn before their masks are known.
            masks_T = step.unmasked_T if depth else step.sampling.mask_R
            of_round = replace(step.sampling[rows], mask_R=masks_T[rows])
            drawn_B = self._sampling.sample(logits_BV, of_round, needs)
            add_draft(drawn_B, row_ids_B, step, self._memory, depth)


def _batch(step: OpenStep) -> Batch:
    num = step.num_sequences
    return Batch(
        token_ids_T=step.token_ids_T,
        positions_T=step.positions_T,
        pages_T=step.pages_T,
        offsets_T=step.offsets_T,
        logit_rows_R=step.rows_T,
        decode=DecodeRows(
            round_sizes=(num,) * step.num_rounds,
            slots_in_D=step.state_B,
            slots_out_T=step.slots_out_T,
            page_table_DP=step.page_table_BP,
            lengths_D=step.next_positions_T[:num],
        ),
        prefill=None,
        hidden=HiddenRows(
            slots_in_I=step.state_B,
            before_T=step.before_T,
            rows_K=step.rows_T,
            slots_out_K=step.slots_out_T,
        ),
    )
