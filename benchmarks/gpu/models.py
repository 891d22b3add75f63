"""The published shapes, and random weights for them made on the device: no checkpoint is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segue.model.config import (
    AttentionConfig,
    DenseConfig,
    GdnConfig,
    LayerKind,
    ModelConfig,
    MoeConfig,
)
from segue.model.weights.table import WeightTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The differences between the models of the family."""

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    num_v_heads: int
    mlp: DenseConfig | MoeConfig
    is_tied: bool = False
    vocab_size: int = 248_320
    head_dim: int = 256
    gdn_dim: int = 128
    num_k_heads: int = 16

    def config(self) -> ModelConfig:
        every_fourth = (LayerKind.GDN,) * 3 + (LayerKind.ATTENTION,)
        return ModelConfig(
            architecture="Qwen3_5MoeForCausalLM"
            if isinstance(self.mlp, MoeConfig)
            else "Qwen3_5ForCausalLM",
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            layer_types=every_fourth * (self.num_layers // 4),
            attention=AttentionConfig(
                num_heads=self.num_heads,
                num_kv_heads=self.num_kv_heads,
                head_dim=self.head_dim,
                rotary_dim=self.head_dim // 4,
                rope_theta=10_000_000.0,
            ),
            gdn=GdnConfig(
                num_k_heads=self.num_k_heads,
                num_v_heads=self.num_v_heads,
                k_dim=self.gdn_dim,
                v_dim=self.gdn_dim,
                conv_kernel=4,
            ),
            mlp=self.mlp,
            rms_norm_eps=1e-6,
            max_position_embeddings=262_144,
            dtype="bfloat16",
            tie_word_embeddings=self.is_tied,
            num_mtp_layers=1,
        )


SHAPES = (
    Shape(
        name="0.8B",
        hidden_size=1024,
        num_layers=24,
        num_heads=8,
        num_kv_heads=2,
        num_v_heads=16,
        mlp=DenseConfig(intermediate_size=3584),
        is_tied=True,
    ),
    Shape(
        name="9B",
        hidden_size=4096,
        num_layers=32,
        num_heads=16,
        num_kv_heads=4,
        num_v_heads=32,
        mlp=DenseConfig(intermediate_size=12288),
    ),
    Shape(
        name="35B-A3B",
        hidden_size=2048,
        num_layers=40,
        num_heads=16,
        num_kv_heads=2,
        num_v_heads=32,
        mlp=MoeConfig(
            num_experts=256,
            experts_per_token=8,
            intermediate_size=512,
            shared_intermediate_size=512,
        ),
    ),
)

_TINY = Shape(
    name="tiny",
    hidden_size=64,
    num_layers=4,
    num_heads=2,
    num_kv_heads=1,
    num_v_heads=4,
    mlp=DenseConfig(intermediate_size=96),
    vocab_size=300,
    head_dim=32,
    gdn_dim=16,
    num_k_heads=2,
)
_TINY_MOE = MoeConfig(
    num_experts=8, experts_per_token=2, intermediate_size=32, shared_intermediate_size=32
)
DRY_SHAPES = (_TINY, replace(_TINY, name="tiny MoE", mlp=_TINY_MOE))
"""For a machine without a GPU: everything runs, but the numbers mean nothing."""


def empty_weights(config: ModelConfig, *, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Every tensor that the model uses, including the MTP layer's; a tied head is left out."""
    fused = [
        f"{at}.mlp.experts.gate_up_proj"
        for at in (*(f"layers.{i}" for i in range(config.num_layers)), "mtp.layers.0")
    ]
    table = WeightTable.of(config, ["mtp.fc.weight", *fused])
    return {
        name: torch.empty(target.shape, dtype=target.dtype or dtype, device=device)
        for name, target in table.targets.items()
    }


def random_weights(config: ModelConfig, *, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Scaled to preserve the size of activations; decays as after training."""
    generator = torch.Generator(device).manual_seed(0)
    weights = empty_weights(config, dtype=dtype, device=device)
    for name, weight in weights.items():
        if name.endswith("A_log"):
            weight.uniform_(0.0, math.log(16.0), generator=generator)
        elif weight.dim() == 1:
            weight.fill_(1.0 if name.endswith("gdn_norm") else 0.0)
        else:
            weight.normal_(0.0, weight.shape[-1] ** -0.5, generator=generator)
    if config.tie_word_embeddings:
        weights["lm_head"] = weights["embed"]
    return weights
