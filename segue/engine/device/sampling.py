"""How a step's sequences are sampled: tensors of parameters, with a row each, and the ledger.

    row    seed  top_k  slot │ temperature  top_p  min_p  repetition  presence  frequency
    slot   counts of every token, bias of every token: for rows with penalties or a bias

A row's slot has the row's number. A row without penalties or a bias has none, and costs nothing.

R rows, B sequences of a step, J draft rounds, T rows of logits, K tokens pending, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.api.types import Sampling
from segue.engine.device.buffers import to_device
from segue.engine.sampler import fill_slot, integers_of, needs_of, numbers_of, rows_of
from segue.kernels import NO_SLOT, sampling
from segue.kernels.sampling import Ledger, SamplingFeatures


class DeviceSampling:
    def __init__(self, *, num_rows: int, vocab_size: int, device: str) -> None:
        self._device = torch.device(device)
        self._vocab_size = vocab_size
        # One extra row, greedy and without a slot, for padding.
        self._ints_R3 = torch.zeros(num_rows + 1, 3, dtype=torch.int64, device=device)
        self._ints_R3[:, 2] = NO_SLOT
        self._floats_R6 = torch.zeros(num_rows + 1, 6, dtype=torch.float64, device=device)
        self._ledger = Ledger(
            counts_SV=torch.zeros(num_rows, vocab_size, dtype=torch.int32, device=device),
            bias_SV=torch.zeros(num_rows, vocab_size, dtype=torch.float32, device=device),
        )

    def start(
        self,
        row: int,
        params: Sampling,
        *,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
    ) -> None:
        """Set how the row is sampled. Takes effect in stream order, without waiting."""
        needs = needs_of(params)
        has_slot = needs.bias or needs.penalties
        ints = integers_of(params, row if has_slot else NO_SLOT)
        self._ints_R3[row].copy_(to_device(ints, self._device))
        numbers = to_device(numbers_of(params), self._device, dtype=torch.float64)
        self._floats_R6[row].copy_(numbers)
        if has_slot:
            counts_SV, bias_SV = self._ledger.counts_SV, self._ledger.bias_SV
            assert counts_SV is not None
            assert bias_SV is not None
            fill_slot(counts_SV[row].zero_(), bias_SV[row].zero_(), params, prompt_ids, answer_ids)

    def sample(
        self,
        logits_TV: Tensor,
        row_ids_T: Tensor,
        positions_T: Tensor,
        pending_TK: Tensor,
        needs: SamplingFeatures,
    ) -> Tensor:
        # Transposed, so that each field is contiguous, as kernels expect.
        integers_3T = self._ints_R3.index_select(0, row_ids_T).T.contiguous()
        numbers_6T = self._floats_R6.index_select(0, row_ids_T).T.contiguous()
        rows = rows_of(integers_3T, numbers_6T, position_R=positions_T, pending_RP=pending_TK)
        return sampling.sample(logits_TV, rows, needs, self._ledger)

    def observe(self, row_ids_B: Tensor, token_ids_BJ: Tensor, num_new_B: Tensor) -> None:
        assert self._ledger.counts_SV is not None
        slot_B = self._ints_R3[:, 2].index_select(0, row_ids_B)
        sampling.observe(self._ledger.counts_SV, slot_B, token_ids_BJ, num_new_B)
