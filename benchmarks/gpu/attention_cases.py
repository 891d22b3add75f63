"""Paged attention at served sizes, compared with PyTorch's own attention without pages."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import Case
from segue.kernels.paged_attention import triton_decode, triton_prefill

PAGE_TOKENS = 64
MAX_POOL_BYTES = 40 << 30
DECODE_SIZES = ((1, 4096), (1, 32_768), (1, 131_072), (1, 1 << 20), (8, 131_072), (64, 32_768))
"""Number of sequences, and the context of each."""
PREFILL_SIZES = ((0, 8192), (0, 50_000), (50_000, 800))
"""Tokens before a prefill chunk, and tokens in it."""


def attention_cases(shape: Shape, device: str, dtype: torch.dtype) -> Iterator[Case]:
    is_dry = device == "cpu"
    for num_sequences, context in DECODE_SIZES if not is_dry else ((2, 70),):
        if num_sequences * context * 4 * shape.num_kv_heads * shape.head_dim <= MAX_POOL_BYTES:
            yield from _decode(shape, num_sequences, context, device, dtype)
    for start, num_tokens in PREFILL_SIZES if not is_dry else ((20, 3),):
        yield _prefill(shape, start, num_tokens, device, dtype)


def _decode(
    shape: Shape, num_sequences: int, context: int, device: str, dtype: torch.dtype
) -> Iterator[Case]:
    pages, table_DP = _pool(shape, num_sequences, context, device, dtype)
    num_bytes = num_sequences * context * pages[0, :, 0].nbytes
    for num_rounds in (1, 4):
        q_TQX = _queries(shape, num_rounds * num_sequences, device, dtype)
        yield Case(
            operator="attention, decode",
            size=f"{num_sequences} x {num_rounds} after {context}",
            run=partial(
                triton_decode.attend_verify,
                q_TQX,
                pages,
                page_table_DP=table_DP,
                lengths_D=torch.full((num_sequences,), context - num_rounds + 1, device=device),
                round_sizes=[num_sequences] * num_rounds,
            ),
            num_bytes=num_bytes,
        )


def _prefill(shape: Shape, start: int, num_tokens: int, device: str, dtype: torch.dtype) -> Case:
    pages, table_1P = _pool(shape, 1, start + num_tokens, device, dtype)
    q_TQX = _queries(shape, num_tokens, device, dtype)
    pairs = num_tokens * start + num_tokens * (num_tokens + 1) / 2
    kv_GLX = torch.randn(shape.num_kv_heads, num_tokens, shape.head_dim, device=device, dtype=dtype)
    sdpa = partial(
        F.scaled_dot_product_attention,
        q_TQX.transpose(0, 1)[None],
        kv_GLX[None],
        kv_GLX[None],
        is_causal=True,
        enable_gqa=True,
    )
    return Case(
        operator="attention, prefill",
        size=f"{num_tokens} after {start}",
        run=partial(
            triton_prefill.attend_prefill,
            q_TQX,
            pages,
            cu_tokens_N1=torch.tensor([0, num_tokens], device=device),
            starts_N=torch.tensor([start], device=device),
            page_table_NP=table_1P,
        ),
        num_bytes=2 * q_TQX.nbytes + (start + num_tokens) * pages[0, :, 0].nbytes,
        flops=4.0 * shape.num_heads * shape.head_dim * pairs,
        peers={} if start else {"torch SDPA": sdpa},
    )


def _queries(shape: Shape, num_tokens: int, device: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(num_tokens, shape.num_heads, shape.head_dim, device=device, dtype=dtype)


def _pool(
    shape: Shape, num_sequences: int, context: int, device: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Pages in random order, and their owners."""
    num_pages = -(-context // PAGE_TOKENS)
    pages = torch.randn(
        num_sequences * num_pages,
        2,
        shape.num_kv_heads,
        PAGE_TOKENS,
        shape.head_dim,
        device=device,
        dtype=dtype,
    )
    table = torch.randperm(len(pages), device=device).view(num_sequences, num_pages)
    return pages, table
