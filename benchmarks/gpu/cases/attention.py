"""Paged attention at served sizes, compared with PyTorch's own attention without pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.setup import Make, Setup
from benchmarks.gpu.flashinfer import prompt_attention
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import Case
from segue.kernels.paged_attention import triton_decode, triton_prefill
from segue.kernels.paged_attention.e4m3 import E4M3, UNSCALED, Scales, as_bytes
from segue.kernels.paged_attention.flashinfer.page_lists import PageSpan

MAX_POOL_BYTES = 40 << 30
_CHECKED_QUERIES = 16
"""Spread over a batch, because each attends to all its keys in float64."""
_SCALES: Scales = (0.75, 0.3)
"""Arbitrary scales of pages in FP8."""


def attention_cases(setup: Setup) -> Iterator[Make]:
    shape, sizes = setup.shape, setup.sizes
    for num_sequences, context in sizes.attention_decode:
        if num_sequences * context * 4 * shape.num_kv_heads * shape.head_dim <= MAX_POOL_BYTES:
            for num_rounds in sizes.attention_rounds:
                yield partial(_decode, setup, num_sequences, context, num_rounds)
    for start, num_tokens in sizes.attention_prefill:
        yield partial(_prefill, setup, start, num_tokens)


def flashinfer_cases(setup: Setup) -> Iterator[Make]:
    """The prompts of `attention_cases` again."""
    for start, num_tokens in setup.sizes.attention_prefill:
        yield partial(_prefill, setup, start, num_tokens, by_flashinfer=True)


def _decode(setup: Setup, num_sequences: int, context: int, num_rounds: int) -> Case:
    pages, table_DP = _pool(setup, num_sequences, context)
    q_TQX = _queries(setup, num_rounds * num_sequences)
    first = context - num_rounds + 1
    rows = exact.some_rows(len(q_TQX), _CHECKED_QUERIES)

    def expected() -> Sequence[Tensor]:
        # Round after round, and a key more in each.
        places = [divmod(row, num_sequences) for row in rows]
        outs = [
            _exact(q_TQX[row], pages, table_DP[sequence], first + round_)
            for row, (round_, sequence) in zip(rows, places, strict=True)
        ]
        return [torch.stack(outs)]

    return Case(
        operator="attention, decode",
        size=f"{num_sequences} x {num_rounds} after {context}",
        run=partial(
            triton_decode.attend_verify,
            q_TQX,
            pages,
            page_table_DP=table_DP,
            lengths_D=torch.full((num_sequences,), first, device=setup.device),
            round_sizes=[num_sequences] * num_rounds,
            scales=_scales(pages),
        ),
        exact=expected,
        seen=_rows(rows),
        limit=setup.limit,
        num_bytes=_kv_bytes(setup.shape, num_sequences * context, pages.dtype),
    )


def _prefill(setup: Setup, start: int, num_tokens: int, *, by_flashinfer: bool = False) -> Case:
    shape = setup.shape
    pages, table_1P = _pool(setup, 1, start + num_tokens)
    q_TQX = _queries(setup, num_tokens)
    pairs = num_tokens * start + num_tokens * (num_tokens + 1) / 2
    rows = exact.some_rows(num_tokens, _CHECKED_QUERIES)
    kv_GLX = setup.randn(shape.num_kv_heads, num_tokens, shape.head_dim)
    sdpa = partial(
        F.scaled_dot_product_attention,
        q_TQX.transpose(0, 1)[None],
        kv_GLX[None],
        kv_GLX[None],
        is_causal=True,
        enable_gqa=True,
    )

    def expected() -> Sequence[Tensor]:
        outs = [_exact(q_TQX[row], pages, table_1P[0], start + row + 1) for row in rows]
        return [torch.stack(outs)]

    run: Callable[[], Tensor]
    if by_flashinfer:
        span = PageSpan(start=start, num_tokens=num_tokens, page_ids=table_1P[0].tolist())
        attention = prompt_attention(shape, setup.sizes.page_tokens, setup.device, setup.dtype)
        run = partial(attention.planned([span]), q_TQX, pages)
    else:
        run = partial(
            triton_prefill.attend_prefill,
            q_TQX,
            pages,
            cu_tokens_N1=torch.tensor([0, num_tokens], device=setup.device),
            starts_N=torch.tensor([start], device=setup.device),
            page_table_NP=table_1P,
            scales=_scales(pages),
        )
    return Case(
        operator="attention, prefill by FlashInfer" if by_flashinfer else "attention, prefill",
        size=f"{num_tokens} after {start}",
        run=run,
        exact=expected,
        seen=_rows(rows),
        limit=setup.limit,
        num_bytes=2 * q_TQX.nbytes + _kv_bytes(setup.shape, start + num_tokens, pages.dtype),
        flops=4.0 * shape.num_heads * shape.head_dim * pairs,
        peers={} if start else {"torch SDPA": sdpa},
    )


def _kv_bytes(shape: Shape, num_tokens: int, dtype: torch.dtype) -> int:
    return num_tokens * 2 * shape.num_kv_heads * shape.head_dim * dtype.itemsize


def _exact(q_QX: Tensor, pages: Tensor, table_P: Tensor, num_keys: int) -> Tensor:
    k_scale, v_scale = _scales(pages)
    own_P2GOX = as_bytes(pages)[table_P].view(pages.dtype)
    return exact.attention(q_QX.double() * k_scale, own_P2GOX, num_keys) * v_scale


def _scales(pages: Tensor) -> Scales:
    return _SCALES if pages.dtype is E4M3 else UNSCALED


def _rows(rows: Sequence[int]) -> Any:
    return lambda out: [out[list(rows)]]


def _queries(setup: Setup, num_tokens: int) -> Tensor:
    return setup.randn(num_tokens, setup.shape.num_heads, setup.shape.head_dim)


def _pool(setup: Setup, num_sequences: int, context: int) -> tuple[Tensor, Tensor]:
    """Pages in random order, and their owners."""
    shape, sizes = setup.shape, setup.sizes
    num_pages = -(-context // sizes.page_tokens)
    pages = setup.randn(
        num_sequences * num_pages, 2, shape.num_kv_heads, sizes.page_tokens, shape.head_dim
    )
    table = torch.randperm(len(pages), device=setup.device).view(num_sequences, num_pages)
    return pages.to(sizes.page_dtype or setup.dtype), table
