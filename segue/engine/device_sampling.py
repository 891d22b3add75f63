"""How the sequences of a step are sampled, as tensors with a row each: parameters and the ledger.

    row    seed  top_k  slot │ temperature  top_p  min_p  repetition  presence  frequency
    slot   counts of every token, bias of every token: of rows that ask for penalties or a bias

A slot is the row's number, or none: a row that asks for neither costs nothing there.

R rows, B sequences of a step, J rounds, T rows of logits, K tokens pending, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.engine.sampler import needs_of
from segue.engine.step_buffers import to_device
from segue.kernels import NO_SLOT, sampling
from segue.kernels.sampling import IN_PROMPT, Ledger, Needs, Rows
from segue.types import Sampling

_MAX_TOP_K = 1 << 31


class DeviceSampling:
    def __init__(self, *, num_rows: int, vocab_size: int, device: str) -> None:
        self._device = torch.device(device)
        self._vocab_size = vocab_size
        # One row more than there are sequences, greedy and without a slot: for padding.
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
        """From here on the row is sampled so. In stream order; waits for nothing."""
        needs = needs_of(params)
        has_slot = needs.bias or needs.penalties
        ints = [params.seed, min(params.top_k, _MAX_TOP_K), row if has_slot else NO_SLOT]
        self._ints_R3[row].copy_(to_device(ints, self._device))
        floats = [
            params.temperature,
            params.top_p,
            params.min_p,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        ]
        self._floats_R6[row].copy_(to_device(floats, self._device, dtype=torch.float64))
        if has_slot:
            self._start_slot(row, params, prompt_ids, answer_ids)

    def sample(
        self,
        logits_TV: Tensor,
        row_ids_T: Tensor,
        positions_T: Tensor,
        pending_TK: Tensor,
        needs: Needs,
    ) -> Tensor:
        seed_T, top_k_T, slot_T = self._ints_R3.index_select(0, row_ids_T).T.contiguous()
        floats_6T = self._floats_R6.index_select(0, row_ids_T).T.contiguous()
        temperature_T, top_p_T, min_p_T, repetition_T, presence_T, frequency_T = floats_6T
        rows = Rows(
            seed_R=seed_T,
            position_R=positions_T,
            top_k_R=top_k_T,
            slot_R=slot_T,
            temperature_R=temperature_T,
            top_p_R=top_p_T,
            min_p_R=min_p_T,
            repetition_penalty_R=repetition_T,
            presence_penalty_R=presence_T,
            frequency_penalty_R=frequency_T,
            pending_RP=pending_TK,
        )
        return sampling.sample(logits_TV, rows, needs, self._ledger)

    def observe(self, row_ids_B: Tensor, token_ids_BJ: Tensor, num_new_B: Tensor) -> None:
        assert self._ledger.counts_SV is not None
        slot_B = self._ints_R3[:, 2].index_select(0, row_ids_B)
        sampling.observe(self._ledger.counts_SV, slot_B, token_ids_BJ, num_new_B)

    def _start_slot(
        self, row: int, params: Sampling, prompt_ids: Sequence[int], answer_ids: Sequence[int]
    ) -> None:
        counts_SV, bias_SV = self._ledger.counts_SV, self._ledger.bias_SV
        assert counts_SV is not None
        assert bias_SV is not None
        bias_SV[row].zero_()
        if params.logit_bias:
            ids = to_device(list(params.logit_bias), self._device)
            values = to_device(list(params.logit_bias.values()), self._device, dtype=torch.float32)
            bias_SV[row].index_copy_(0, ids, values)
        counts_V = counts_SV[row].zero_()
        counts_V.index_fill_(0, to_device(prompt_ids, self._device), IN_PROMPT)
        answer = to_device(answer_ids, self._device)
        counts_V.scatter_add_(0, answer, torch.ones_like(answer, dtype=torch.int32))
