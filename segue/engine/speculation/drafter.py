"""Guessing ahead with the MTP layer: a token of each sequence in, logits for the next one out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.cache.tensors import CacheTensors
from segue.engine.batch import MAX_RUN_TOKENS, DraftStart
from segue.engine.device.stream import WorkStream
from segue.engine.packing import page_table
from segue.kernels.paged_attention import join_pages
from segue.model.batch import DraftBatch
from segue.model.qwen3_5 import Qwen3_5

# Letters of shapes: D = sequences that still draft, H = hidden size, J = steps, P = pages, V =
# vocabulary.


class Drafter:
    """Drafts for several sequences at once, one position further with each `step`.

    Keys and values of drafts go into the MTP layer's part of pages, from each sequence's start on:
    positions that the next pass of the trunk over them writes again. A sequence alone drafts on a
    copy of its pages that lies in one piece, so that no draft gathers them. Slots are read when it
    is made, and only then.
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
        assert starts, "nobody to draft for"
        assert all(start.position >= 1 for start in starts), "the first token has none before it"
        self._model = model
        self._stream = stream
        # Short rows are filled with pages that may be shared: nobody may draft beyond its own.
        self._num_left = [
            min(len(s.page_ids) * page_tokens - s.position, MAX_RUN_TOKENS) for s in starts
        ]
        self._num_steps = 0
        rows = [s.page_ids[: -(-(s.position + MAX_RUN_TOKENS) // page_tokens)] for s in starts]
        with stream.use():
            self._pages = cache.of("kv", model.num_layers)
            self._page_table_DP = page_table(rows, device)
            if len(starts) == 1:
                self._pages = join_pages(self._pages, self._page_table_DP)
                self._page_table_DP = torch.zeros(1, 1, dtype=torch.int64, device=device)
            # Where each step's tokens are and go depends on nothing that is drafted.
            index_J1 = torch.arange(MAX_RUN_TOKENS, device=device).unsqueeze(1)
            positions_JD = torch.tensor([s.position for s in starts], device=device) + index_J1
            self._rotary = model.rotary(positions_JD.flatten())
            self._lengths_JD = positions_JD + 1
            # Beyond a sequence's pages nothing goes in.
            page_tokens, last_column = self._pages.shape[3], self._page_table_DP.shape[1] - 1
            columns_JD = (positions_JD // page_tokens).clamp_max_(last_column)
            self._pages_JD = self._page_table_DP.gather(1, columns_JD.t()).t().contiguous()
            self._offsets_JD = positions_JD % page_tokens
            slots_D = torch.tensor([start.slot for start in starts], device=device)
            self._hidden_DH = cache.of("hidden", model.num_layers).index_select(0, slots_D)

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> Tensor:
        """Float32 logits [D, V] for the position after each token.

        First the tokens at the starts' positions, then what was drafted. With fewer tokens than
        before, the last sequences draft no further: order them by falling number of drafts.
        """
        num = len(token_ids)
        assert 0 < num <= len(self._hidden_DH), "sequences cannot come back"
        assert self._num_steps < min(self._num_left[:num]), "pages must cover what goes in"
        at, first = (self._num_steps, slice(num)), self._num_steps * len(self._page_table_DP)
        rows = slice(first, first + num)
        self._num_steps += 1
        with self._stream.use():
            batch = DraftBatch(
                token_ids_D=torch.tensor(token_ids, device=self._hidden_DH.device),
                rotary=(self._rotary[0][rows], self._rotary[1][rows]),
                lengths_D=self._lengths_JD[at],
                pages=self._pages,
                pages_D=self._pages_JD[at],
                offsets_D=self._offsets_JD[at],
                page_table_DP=self._page_table_DP[:num],
            )
            logits_DV, self._hidden_DH = self._model.draft(self._hidden_DH[:num], batch)
        self._stream.wait()
        return logits_DV
