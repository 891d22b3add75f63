"""The weights of a plain checkpoint that are quantised at load, and their sizes. No torch.

Quantised are the large matrices, which account for most of the bytes that a step reads: the
projections of attention, Gated Delta Net and MLPs, experts, the draft layer's, and the head. The
head gets eight bits: its errors directly affect the logits, so four are too few.

Other weights stay plain: the embedding, of which a step reads one row per token; norms, the
convolution, decays and their inputs (in_proj_a, in_proj_b), whose errors add up over all later
tokens; routers and the shared expert's gate, where a small error changes the choice of experts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

from segue.model.weights.quantization import WeightFormat

NONE = "none"
CHOICES = (NONE, WeightFormat.INT8.value, WeightFormat.INT4.value)
HEAD = "lm_head.weight"
GROUPS = {WeightFormat.INT8: 128, WeightFormat.INT4: 32}
"""Columns of a row that share a scale. The last group may have fewer."""
_SCALE_BYTES = {WeightFormat.INT8: 4, WeightFormat.INT4: 2}
_MATRIX = re.compile(
    r"(^|\.)([qkvo]_proj|in_proj_(qkv|z)|out_proj|(gate|up|down|gate_up)_proj|fc)(\.weight)?$"
)


def require_quantization(quantization: str, device: str) -> None:
    """Raises ValueError for an unknown setting, or one without a kernel on this device."""
    if quantization not in CHOICES:
        raise ValueError(f"quantization must be one of {', '.join(CHOICES)}, got {quantization!r}")
    if quantization != NONE and device != "cpu":
        raise ValueError(
            f'quantization = "{quantization}" needs device = "cpu", got "{device}": on a GPU serve '
            "a checkpoint in FP8 or NVFP4 (python -m scripts.quantize makes one)"
        )


def format_at_load(name: str, quantization: str) -> WeightFormat:
    """A tensor's format in memory, by its name in the checkpoint without the prefix."""
    if quantization == NONE:
        return WeightFormat.PLAIN
    if name == HEAD:
        return WeightFormat.INT8
    return WeightFormat(quantization) if _MATRIX.search(name) else WeightFormat.PLAIN


def num_groups(columns: int, how: WeightFormat) -> int:
    return -(-columns // GROUPS[how])


def quantized_bytes(shape: Sequence[int], how: WeightFormat) -> int:
    """Bytes of codes and scales."""
    *rows, columns = shape
    codes = columns if how is WeightFormat.INT8 else columns // 2
    return prod(rows) * (codes + _SCALE_BYTES[how] * num_groups(columns, how))
