"""Sampling of a step's sequences: tensors with a row of parameters for each, and the ledger.

    row    seed  top_k  slot  mask  many │ temperature  top_p  min_p  three penalties
    slot   counts of every token, bias of every token: for rows with penalties or a bias
    mask   a bit for every token

A row's slot has the row's number. A row has one mask for all its tokens, or many: one for each
round of a step, since the tokens that a grammar allows depend on the drafts before. A row without
penalties or a bias has no slot, and a row without constraints has no mask; then neither costs
anything.

R rows, M masks of all rows, W words of a mask, B sequences of a step, J draft rounds, T rows of
logits, K tokens pending, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from segue.api.types import Sampling
from segue.engine.device.stream import to_device
from segue.engine.sampler import fill_slot, integers_of, needs_of, numbers_of
from segue.kernels import NO_SLOT, sampling
from segue.kernels.sampling import Ledger, SamplingFeatures, SamplingRows

# Columns of a row's integers. The last one is not for the kernels.
_SLOT, _MASK, _MANY = 2, 3, 4


class DeviceSampling:
    def __init__(self, *, num_rows: int, vocab_size: int, device: str, max_drafts: int = 0) -> None:
        """`max_drafts`: of a row with many masks."""
        self._device = torch.device(device)
        self._vocab_size = vocab_size
        # One extra row, greedy and without a slot, for padding.
        self.integers_R5 = torch.zeros(num_rows + 1, 5, dtype=torch.int64, device=device)
        self.integers_R5[:, _SLOT] = NO_SLOT
        self.integers_R5[:, _MASK] = NO_SLOT
        self._masks_each = max_drafts + 1
        self.numbers_R6 = torch.zeros(num_rows + 1, 6, dtype=torch.float64, device=device)
        self._ledger = Ledger(
            counts_SV=torch.zeros(num_rows, vocab_size, dtype=torch.int32, device=device),
            bias_SV=torch.zeros(num_rows, vocab_size, dtype=torch.float32, device=device),
            masks_MW=torch.zeros(
                num_rows * self._masks_each,
                -(-vocab_size // 32),
                dtype=torch.int32,
                device=device,
            ),
        )

    def start(
        self,
        row: int,
        params: Sampling,
        *,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
    ) -> None:
        """Sets the row's parameters. In stream order, without waiting."""
        needs = needs_of(params)
        has_slot = needs.bias or needs.penalties
        ints = [*integers_of(params, row if has_slot else NO_SLOT, NO_SLOT), 0]
        self.integers_R5[row].copy_(to_device(ints, self._device))
        numbers = to_device(numbers_of(params), self._device, dtype=torch.float64)
        self.numbers_R6[row].copy_(numbers)
        if has_slot:
            counts_SV, bias_SV = self._ledger.counts_SV, self._ledger.bias_SV
            assert counts_SV is not None
            assert bias_SV is not None
            fill_slot(counts_SV[row].zero_(), bias_SV[row].zero_(), params, prompt_ids, answer_ids)

    def set_masks(self, row: int, masks: Sequence[np.ndarray], *, by_round: bool = True) -> None:
        """Sets the tokens that may be sampled in the row. In stream order.

        `by_round`: in each round of the next step, after no draft, after the first one, and so on.
        Further rounds come after a draft that is not allowed. Otherwise in all steps from now on:
        at most one mask; none allows all tokens.
        """
        assert len(masks) <= self._masks_each, f"a row has room for {self._masks_each} masks"
        first = row * self._masks_each
        self.integers_R5[row, _MASK] = first if masks else NO_SLOT
        self.integers_R5[row, _MANY] = int(by_round)
        if masks:
            assert self._ledger.masks_MW is not None
            words = torch.from_numpy(np.stack(masks))
            if self._device.type != "cpu":
                words = words.pin_memory()
            self._ledger.masks_MW[first : first + len(masks)].copy_(words, non_blocking=True)

    @property
    def counts_SV(self) -> Tensor:
        assert self._ledger.counts_SV is not None
        return self._ledger.counts_SV

    def sample(self, logits_TV: Tensor, rows: SamplingRows, needs: SamplingFeatures) -> Tensor:
        """A token for each row of logits, [T]. Logits of padding may be NaN."""
        return sampling.sample(logits_TV, rows, needs, self._ledger)
