from __future__ import annotations

import pytest
import torch
from transformers import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5TextRotaryEmbedding,
    apply_rotary_pos_emb,
)

from segue.kernels.rotary import apply_rotary, rotary_tables
from tests.checkpoints import DENSE_SHAPE, SHAPE
from tests.kernels.closeness import assert_close, randn

HEAD_DIM, ROTARY_DIM, THETA = 32, 8, 10_000.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_text_turns_as_the_interleaved_axes_of_the_oracle_do(dtype: torch.dtype) -> None:
    oracle = Qwen3_5TextRotaryEmbedding(Qwen3_5TextConfig(**{**SHAPE, **DENSE_SHAPE}))
    positions = torch.tensor([0, 1, 2, 63, 4095])
    x = randn(5, 3, HEAD_DIM, dtype=dtype)

    rotated = apply_rotary(x, *rotary_tables(positions, rotary_dim=ROTARY_DIM, theta=THETA))

    cos, sin = oracle(x.float(), positions.expand(3, 1, -1))
    expected, _ = apply_rotary_pos_emb(x.float()[None], x.float()[None], cos, sin, unsqueeze_dim=2)
    assert rotated.dtype is dtype
    assert_close(rotated, expected[0], dtype)


def test_dimensions_beyond_the_rotated_ones_are_copied() -> None:
    x = randn(4, 2, HEAD_DIM)

    tables = rotary_tables(torch.arange(4), rotary_dim=ROTARY_DIM, theta=THETA)
    rotated = apply_rotary(x, *tables)

    assert torch.equal(rotated[..., ROTARY_DIM:], x[..., ROTARY_DIM:])


def test_a_head_that_is_rotated_whole_keeps_its_length() -> None:
    x = randn(4, 2, HEAD_DIM)

    tables = rotary_tables(torch.arange(4), rotary_dim=HEAD_DIM, theta=THETA)
    rotated = apply_rotary(x, *tables)

    assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
