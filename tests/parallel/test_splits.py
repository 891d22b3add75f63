"""Each rank's part of a model, for real shapes. Pure."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from segue.api.errors import InvalidConfig
from segue.model.config import (
    AttentionConfig,
    DenseConfig,
    GdnConfig,
    LayerKind,
    ModelConfig,
    MoeConfig,
)
from segue.model.ranks.config import config_of_rank, head_of
from segue.model.ranks.cuts import cut_shape, cuts_of
from segue.parallel.rank import Rank

# Of Qwen3.5-397B-A17B.
LARGE = ModelConfig(
    architecture="Qwen3_5MoeForCausalLM",
    vocab_size=248_320,
    hidden_size=4096,
    layer_types=(LayerKind.GDN, LayerKind.GDN, LayerKind.GDN, LayerKind.ATTENTION) * 15,
    attention=AttentionConfig(
        num_heads=32, num_kv_heads=2, head_dim=256, rotary_dim=64, rope_theta=1e7
    ),
    gdn=GdnConfig(num_k_heads=16, num_v_heads=64, k_dim=128, v_dim=128, conv_kernel=4),
    mlp=MoeConfig(
        num_experts=512,
        experts_per_token=10,
        intermediate_size=1024,
        shared_intermediate_size=1024,
    ),
    rms_norm_eps=1e-6,
    max_position_embeddings=262_144,
    dtype="bfloat16",
    tie_word_embeddings=False,
    num_mtp_layers=1,
)
DENSE = replace(LARGE, mlp=DenseConfig(intermediate_size=12_288))


def test_eight_ranks_share_two_key_value_heads() -> None:
    parts = [
        config_of_rank(LARGE, Rank(index=index, count=8, expert_groups=8)) for index in range(8)
    ]

    assert {part.attention.num_kv_heads for part in parts} == {1}
    assert {part.attention.num_heads for part in parts} == {4}
    assert {(part.gdn.num_k_heads, part.gdn.num_v_heads) for part in parts} == {(2, 8)}
    assert [part.moe.experts for part in parts if part.moe] == [
        range(64 * index, 64 * index + 64) for index in range(8)
    ]
    # Whole experts; only the shared one is split by columns.
    assert {(part.moe.intermediate_size, part.moe.shared_intermediate_size)
            for part in parts if part.moe} == {(1024, 128)}  # fmt: skip
    keys = [cuts_of(LARGE, Rank(index=i, count=8))("layers.3.self_attn.k_proj.weight")
            for i in range(8)]  # fmt: skip
    assert [key[0][0] for key in keys] == [range(256)] * 4 + [range(256, 512)] * 4


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("layers.0.linear_attn.in_proj_qkv.weight", (12_288, 4096), (3072, 4096)),
        ("layers.0.linear_attn.conv1d.weight", (12_288, 1, 4), (3072, 4)),
        ("layers.0.linear_attn.A_log", (64,), (16,)),
        ("layers.0.linear_attn.norm.weight", (128,), (128,)),
        ("layers.0.linear_attn.out_proj.weight", (4096, 8192), (4096, 2048)),
        ("layers.3.self_attn.q_proj.weight", (16_384, 4096), (4096, 4096)),
        ("layers.3.self_attn.q_norm.weight", (256,), (256,)),
        ("layers.3.self_attn.o_proj.weight", (4096, 8192), (4096, 2048)),
        ("layers.0.mlp.gate.weight", (512, 4096), (512, 4096)),
        ("layers.0.mlp.experts.gate_up_proj", (512, 2048, 4096), (256, 1024, 4096)),
        ("layers.0.mlp.experts.down_proj", (512, 4096, 1024), (256, 4096, 512)),
        ("layers.0.mlp.experts.300.down_proj.weight", (4096, 1024), (4096, 512)),
        ("layers.0.mlp.experts.255.down_proj.weight", (4096, 1024), (0,)),
        ("layers.0.mlp.shared_expert.up_proj.weight", (1024, 4096), (256, 4096)),
        ("mtp.layers.0.self_attn.v_proj.weight", (512, 4096), (256, 4096)),
        ("mtp.fc.weight", (4096, 8192), (4096, 8192)),
        ("embed_tokens.weight", (248_320, 4096), (248_320, 4096)),
        ("lm_head.weight", (248_320, 4096), (62_080, 4096)),
    ],
)
def test_the_third_of_four_ranks_in_two_expert_groups_reads(
    name: str, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    cut = cuts_of(LARGE, Rank(index=2, count=4, expert_groups=2))(name)

    size = 1
    for length in expected:
        size *= length
    assert prod(cut_shape(shape, cut)) == size


def test_the_parts_of_all_ranks_are_the_whole_head() -> None:
    parts = [head_of(301, Rank(index=index, count=4)) for index in range(4)]

    assert parts == [range(76), range(76, 152), range(152, 228), range(228, 301)]
    assert head_of(2, Rank(index=3, count=4)) == range(2, 2)


@pytest.mark.parametrize(
    ("config", "rank", "message"),
    [
        (LARGE, Rank(count=3), r"num_key_value_heads \(2\)"),
        (LARGE, Rank(count=3), r"num_attention_heads \(32\) is not a multiple"),
        (LARGE, Rank(count=32), r"linear_num_key_heads \(16\)"),
        (DENSE, Rank(count=2, expert_groups=2), "has no experts"),
        (
            replace(DENSE, mlp=DenseConfig(intermediate_size=9)),
            Rank(count=2),
            r"tensor_parallel = 2, expert_parallel = 1: intermediate_size \(9\)",
        ),
    ],
)
def test_a_model_that_cannot_be_split_is_refused_with_the_numbers(
    config: ModelConfig, rank: Rank, message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message):
        config_of_rank(config, rank)
