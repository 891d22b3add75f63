from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5TextRotaryEmbedding,
    apply_rotary_pos_emb,
)

from segue.kernels.rotary import rotary_frequencies, rotary_tables, rotate_
from tests.checkpoints import DENSE_SHAPE, SHAPE
from tests.kernels.closeness import assert_close, randn

HEAD_DIM, ROTARY_DIM, THETA = 32, 8, 10_000.0


def tables_of(positions: Tensor, rotary_dim: int = ROTARY_DIM) -> tuple[Tensor, Tensor]:
    return rotary_tables(positions, rotary_frequencies(rotary_dim, theta=THETA))


def test_text_turns_as_the_interleaved_axes_of_the_oracle_do() -> None:
    oracle = Qwen3_5TextRotaryEmbedding(Qwen3_5TextConfig(**{**SHAPE, **DENSE_SHAPE}))
    positions = torch.tensor([0, 1, 2, 63, 4095, 1_048_575])
    x = randn(6, 3, HEAD_DIM)

    rotated = rotate_(x.clone(), *tables_of(positions))

    cos, sin = oracle(x, positions.expand(3, 1, -1))
    expected, _ = apply_rotary_pos_emb(x[None], x[None], cos, sin, unsqueeze_dim=2)
    assert_close(rotated, expected[0])


@pytest.mark.parametrize("theta", [1e4, 1e6, 1e7])
def test_frequencies_are_the_oracles_to_the_last_bit(theta: float) -> None:
    rope = {**SHAPE["rope_parameters"], "rope_theta": theta}
    config = Qwen3_5TextConfig(**{**SHAPE, **DENSE_SHAPE, "rope_parameters": rope})

    frequencies = rotary_frequencies(ROTARY_DIM, theta=theta)

    expected = Qwen3_5TextRotaryEmbedding(config).inv_freq
    assert torch.equal(frequencies, torch.cat([-expected, expected]))


def test_dimensions_beyond_the_rotated_ones_are_left() -> None:
    x = randn(4, 2, HEAD_DIM)

    rotated = rotate_(x.clone(), *tables_of(torch.arange(4)))

    assert torch.equal(rotated[..., ROTARY_DIM:], x[..., ROTARY_DIM:])


def test_a_head_that_is_rotated_whole_keeps_its_length() -> None:
    x = randn(4, 2, HEAD_DIM)

    rotated = rotate_(x.clone(), *tables_of(torch.arange(4), HEAD_DIM))

    assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
