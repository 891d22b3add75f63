"""The sequences of a prefill as FlashInfer takes them: lists of pages instead of a page table.

N sequences, K pages of all of them. Tensors are int32 and on the host, where FlashInfer plans: a
tensor on the device would make the plan wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSpan:
    """A part of one sequence that a pass computes."""

    start: int
    """Tokens before it, whose keys and values are stored already."""
    num_tokens: int
    page_ids: Sequence[int]
    """Of all positions from 0 to the span's end; further pages are ignored."""

    @property
    def end(self) -> int:
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLists:
    qo_indptr_N1: Tensor
    """Sequence n has query rows qo[n] to qo[n + 1]."""
    kv_indptr_N1: Tensor
    """It has the pages kv[n] to kv[n + 1] of `kv_indices`, in order."""
    kv_indices_K: Tensor
    last_page_len_N: Tensor
    """Tokens in its last page, at least one. Its queries are its last tokens."""

    @classmethod
    def of(cls, spans: Sequence[PageSpan], page_tokens: int) -> PageLists:
        counts = [-(-span.end // page_tokens) for span in spans]
        pages = (span.page_ids[:count] for span, count in zip(spans, counts, strict=True))
        return cls(
            qo_indptr_N1=_ints(accumulate((span.num_tokens for span in spans), initial=0)),
            kv_indptr_N1=_ints(accumulate(counts, initial=0)),
            kv_indices_K=_ints(chain.from_iterable(pages)),
            last_page_len_N=_ints((span.end - 1) % page_tokens + 1 for span in spans),
        )

    def tails(self, page_tokens: int) -> tuple[Tensor, Tensor]:
        """Where each sequence's last page has no token of it: pages and offsets, int64."""
        last_pages_N = self.kv_indices_K[self.kv_indptr_N1[1:].long() - 1].long()
        is_free_NO = torch.arange(page_tokens) >= self.last_page_len_N.unsqueeze(1)
        rows, offsets = is_free_NO.nonzero(as_tuple=True)
        return last_pages_N[rows], offsets


def _ints(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int32)
