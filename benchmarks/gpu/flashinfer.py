"""FlashInfer beside our kernels, where it is installed and has a kernel for the GPU."""

from __future__ import annotations

import torch

from benchmarks.gpu.models import Shape
from segue.kernels.paged_attention.flashinfer.prompts import PromptAttention, is_installed
from segue.kernels.paged_attention.flashinfer.suitable import AttentionShape, Gpu, why_not


def is_usable(shape: Shape, page_tokens: int, device: str, dtype: torch.dtype) -> bool:
    if device == "cpu" or not is_installed():
        return False
    return why_not(_attention(shape, page_tokens, dtype), Gpu.of(torch.device(device))) is None


def prompt_attention(
    shape: Shape, page_tokens: int, device: str, dtype: torch.dtype
) -> PromptAttention:
    """For all passes. The first plan compiles, if that has not been done on this machine."""
    where = torch.device(device)
    attention = _attention(shape, page_tokens, dtype)
    return PromptAttention(attention, where, Gpu.of(where), always=True)


def _attention(shape: Shape, page_tokens: int, dtype: torch.dtype) -> AttentionShape:
    return AttentionShape(
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        page_tokens=page_tokens,
        dtype=dtype,
        page_dtype=dtype,
    )
