"""Bytes and FLOPs of passes, from the weights and the layout alone: the input of a roofline.

B sequences of a decode step, T tokens of a prompt, L tokens of context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from segue.cache.layout import CacheLayout
from segue.model.config import LayerKind, ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCosts:
    dense_bytes: int
    """Weights that every step of the trunk reads, including the head."""
    expert_bytes: int
    """All routed experts of all layers."""
    num_experts: int
    experts_per_token: int
    layer_parameters: float
    """The parameters that one token visits, without embedding and head."""
    kv_bytes_per_token: int
    slot_bytes: int
    attention_flops_per_pair: int
    """For one query token and one token that it sees, over all layers of the trunk."""

    @classmethod
    def of(
        cls, config: ModelConfig, weights: Mapping[str, Tensor], layout: CacheLayout
    ) -> ModelCosts:
        moe, attention = config.moe, config.attention
        trunk = {name: w for name, w in weights.items() if not name.startswith("mtp.")}
        experts = {name: w for name, w in trunk.items() if ".experts." in name}
        # A step reads one embedding row per token; a tied embedding is read whole, as the head.
        embed = set() if "lm_head" not in weights else {"embed"}
        dense = {name: w for name, w in trunk.items() if name not in experts and name not in embed}
        share = moe.experts_per_token / moe.num_experts if moe else 0.0
        layers = sum(w.numel() for name, w in dense.items() if name.startswith("layers."))
        num_attention = sum(kind is LayerKind.ATTENTION for kind in config.layer_types)
        return cls(
            dense_bytes=sum(w.nbytes for w in dense.values()),
            expert_bytes=sum(w.nbytes for w in experts.values()),
            num_experts=moe.num_experts if moe else 1,
            experts_per_token=moe.experts_per_token if moe else 0,
            layer_parameters=layers + share * sum(w.numel() for w in experts.values()),
            kv_bytes_per_token=layout.page_bytes // layout.page_tokens,
            slot_bytes=layout.slot_bytes,
            attention_flops_per_pair=4 * num_attention * attention.num_heads * attention.head_dim,
        )

    def decode_bytes(self, num_sequences: int, context: int, num_tokens: int = 1) -> float:
        """For one step that computes `num_tokens` of each of B sequences: the weights once, the
        experts expected to be visited, the earlier keys and values, and a state read and written
        per token.
        """
        untouched = (1 - self.experts_per_token / self.num_experts) ** (num_sequences * num_tokens)
        cache = context * self.kv_bytes_per_token + (1 + num_tokens) * self.slot_bytes
        return self.dense_bytes + (1 - untouched) * self.expert_bytes + num_sequences * cache

    def prefill_flops(self, num_tokens: int) -> float:
        """For a prompt without a cached prefix; the head's row is not counted."""
        pairs = num_tokens * (num_tokens + 1) / 2
        return 2 * self.layer_parameters * num_tokens + self.attention_flops_per_pair * pairs
