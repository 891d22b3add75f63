"""A first use of the package, before it serves: it compiles, which takes minutes once on a machine,
and needs what this machine may lack, and its result is compared with the reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.kernels.paged_attention import reference
from segue.kernels.paged_attention.flashinfer.page_lists import PageLists, PageSpan
from segue.kernels.paged_attention.flashinfer.prompts import PromptAttention

MAX_ERROR = 0.02
"""Relative RMS. Rounding to bfloat16 gives 0.003, one key too many 0.4."""


@torch.inference_mode()
def try_out(attention: PromptAttention) -> None:
    """Raises RuntimeError if its result is wrong, and whatever the package raises.

    Places in the pages that no token wrote are NaN.
    """
    shape, device = attention.shape, attention.device
    spans = trial_spans(shape.page_tokens)
    generator = torch.Generator(device).manual_seed(1)

    def randn(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, device=device).to(shape.dtype)

    num_pages = sum(len(span.page_ids) for span in spans)
    pages = randn(num_pages, 2, shape.num_kv_heads, shape.page_tokens, shape.head_dim)
    pages_K, offsets_K = PageLists.of(spans, shape.page_tokens).tails(shape.page_tokens)
    pages[pages_K.to(device), :, :, offsets_K.to(device)] = torch.nan
    q_TQX = randn(sum(span.num_tokens for span in spans), shape.num_heads, shape.head_dim)
    out = attention.planned(spans)(q_TQX, pages).float()
    exact = by_reference(q_TQX, pages, spans).float()
    error = float((out - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    if not error <= MAX_ERROR:
        raise RuntimeError(f"its attention differs from the reference by {error:.2g}")


def trial_spans(page_tokens: int) -> list[PageSpan]:
    """A prompt and the end of another, with pages in no order, and partly full last ones."""
    ends = (131 + page_tokens, 141 + 2 * page_tokens)
    counts = [-(-end // page_tokens) for end in ends]
    ids = list(range(sum(counts)))[::-1]
    return [
        PageSpan(start=0, num_tokens=ends[0], page_ids=ids[: counts[0]]),
        PageSpan(start=page_tokens + 3, num_tokens=138 + page_tokens, page_ids=ids[counts[0] :]),
    ]


def by_reference(q_TQX: Tensor, pages: Tensor, spans: Sequence[PageSpan]) -> Tensor:
    device, bounds = q_TQX.device, [0]
    for span in spans:
        bounds.append(bounds[-1] + span.num_tokens)
    width = max(len(span.page_ids) for span in spans)
    table = [[*span.page_ids, *[span.page_ids[0]] * (width - len(span.page_ids))] for span in spans]
    return reference.attend_prefill(
        q_TQX,
        pages,
        cu_tokens_N1=torch.tensor(bounds, device=device),
        starts_N=torch.tensor([span.start for span in spans], device=device),
        page_table_NP=torch.tensor(table, device=device),
    )
