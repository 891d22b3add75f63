"""Sequences in pages, and attention over them by the kernels or by another module."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from segue.kernels.paged_attention import triton_decode, triton_prefill
from tests.kernels.closeness import cumulative, ints, randn
from tests.kernels.device import DEVICE

HEAD_DIM = 16


class Pool:
    """Sequences of given lengths in pages that lie in no order; all other places are poison."""

    def __init__(
        self,
        lengths: list[int],
        *,
        page_tokens: int = 16,
        num_kv_heads: int = 1,
        dtype: torch.dtype = torch.float32,
        head_dim: int = HEAD_DIM,
    ) -> None:
        counts = [-(-max(length, 1) // page_tokens) for length in lengths]
        ids = torch.randperm(sum(counts) + 3, generator=torch.Generator().manual_seed(7))
        shape = (len(ids), 2, num_kv_heads, page_tokens, head_dim)
        self.pages = torch.full(shape, torch.nan, dtype=dtype)
        tables = torch.split(ids[: sum(counts)], counts)
        # A short row repeats its first page.
        rows = [torch.cat([t, t[:1].expand(max(counts) - len(t))]) for t in tables]
        self.table = torch.stack(rows).to(DEVICE)
        for table, length in zip(tables, lengths, strict=True):
            position = torch.arange(length)
            places = (table[position // page_tokens], ..., position % page_tokens, slice(None))
            self.pages[places] = randn(length, *shape[1:3], head_dim, seed=length).to(dtype)
        self.pages = self.pages.to(DEVICE)

    def of(self, row: int) -> Pool:
        """The same pages, and only one sequence."""
        alone = copy(self)
        alone.table = self.table[row : row + 1]
        return alone

    def attend_prefill(
        self, q: Tensor, lengths: list[int], starts: list[int], *, by: object = triton_prefill
    ) -> Tensor:
        return by.attend_prefill(  # type: ignore[attr-defined]
            q.to(DEVICE),
            self.pages,
            cu_tokens_N1=cumulative(lengths).to(DEVICE),
            starts_N=ints(*starts).to(DEVICE),
            page_table_NP=self.table[: len(lengths)],
        )

    def attend_verify(
        self, q: Tensor, lengths: list[int], sizes: list[int], *, by: object = triton_decode
    ) -> Tensor:
        return by.attend_verify(  # type: ignore[attr-defined]
            q.to(DEVICE),
            self.pages,
            page_table_DP=self.table,
            lengths_D=ints(*lengths).to(DEVICE),
            round_sizes=sizes,
        )

    def attend_decode(
        self, q: Tensor, lengths: list[int], first: int = 0, *, by: object = triton_decode
    ) -> Tensor:
        return by.attend_decode(  # type: ignore[attr-defined]
            q.to(DEVICE),
            self.pages,
            page_table_DP=self.table,
            lengths_D=ints(*lengths).to(DEVICE),
            first_position=first,
        )


def sizes_of(counts: list[int]) -> list[int]:
    """Sizes of the draft rounds for these numbers of tokens of each sequence, longest first."""
    return [sum(j < count for count in counts) for j in range(max(counts))]
