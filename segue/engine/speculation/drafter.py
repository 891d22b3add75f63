"""Drafting with the MTP layer: from one token of each sequence to logits for the next one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.cache.tensors import CacheTensors
from segue.engine.batch import MAX_VERIFY_TOKENS, DraftStart
from segue.engine.device.stream import WorkStream
from segue.engine.packing import page_table
from segue.model.batch import DraftBatch
from segue.model.qwen3_5 import Qwen3_5

# Letters of shapes: D = sequences that still draft, H = hidden size, J = steps, P = pages, V =
# vocabulary.


class Drafter:
    """Drafts for several sequences at once, one position per `step`.

    Keys and values of drafts are stored in the MTP layer's part of the pages, from each sequence's
    start position on; the trunk's next pass overwrites them. Slots are only read in the
    constructor.
    """

    def __init__(
        self,
        model: Qwen3_5,
        cache: CacheTensors,
        starts: Sequence[DraftStart],
        *,
        page_tokens: int,
        device: str,
        stream: WorkStream,
    ) -> None:
        assert starts, "no sequence to draft for"
        assert all(start.position >= 1 for start in starts), "position 0 has no hidden state before"
        self._model = model
        self._stream = stream
        # Short rows are padded with pages that may be shared, so a sequence must not draft past its
        # own pages.
        self._num_left = [
            min(len(s.page_ids) * page_tokens - s.position, MAX_VERIFY_TOKENS) for s in starts
        ]
        self._num_steps = 0
        rows = [s.page_ids[: -(-(s.position + MAX_VERIFY_TOKENS) // page_tokens)] for s in starts]
        with stream.use():
            self._pages = cache.of("kv", model.num_layers)
            self._page_table_DP = page_table(rows, device)
            # Positions and their places in pages do not depend on the drafts.
            index_J1 = torch.arange(MAX_VERIFY_TOKENS, device=device).unsqueeze(1)
            positions_JD = torch.tensor([s.position for s in starts], device=device) + index_J1
            self._rotary = model.rotary(positions_JD.flatten())
            self._lengths_JD = positions_JD + 1
            # Nothing is written past a sequence's pages.
            page_tokens, last_column = self._pages.shape[3], self._page_table_DP.shape[1] - 1
            columns_JD = (positions_JD // page_tokens).clamp_max_(last_column)
            self._pages_JD = self._page_table_DP.gather(1, columns_JD.t()).t().contiguous()
            self._offsets_JD = positions_JD % page_tokens
            slots_D = torch.tensor([start.slot for start in starts], device=device)
            self._hidden_DH = cache.of("hidden", model.num_layers).index_select(0, slots_D)

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> Tensor:
        """Float32 logits [D, V] for the position after each token.

        The first step takes the tokens at the start positions; later steps take the drafts. Passing
        fewer tokens than before ends drafting for the last sequences, so those with the most drafts
        come first.
        """
        num = len(token_ids)
        assert 0 < num <= len(self._hidden_DH), "a sequence that stopped cannot draft again"
        assert self._num_steps < min(self._num_left[:num]), "pages must cover the drafted tokens"
        at, first = (self._num_steps, slice(num)), self._num_steps * len(self._page_table_DP)
        rows = slice(first, first + num)
        self._num_steps += 1
        with self._stream.use():
            batch = DraftBatch(
                token_ids_D=torch.tensor(token_ids, device=self._hidden_DH.device),
                rotary=(self._rotary[0][rows], self._rotary[1][rows]),
                lengths_D=self._lengths_JD[at],
                pages=self._pages,
                pages_T=self._pages_JD[at],
                offsets_T=self._offsets_JD[at],
                page_table_DP=self._page_table_DP[:num],
            )
            logits_DV, self._hidden_DH = self._model.draft(self._hidden_DH[:num], batch)
        self._stream.wait()
        return logits_DV
