"""A rank's part of a model as a config, which determines its layers and caches.

Attention is split by key/value heads (if there are more ranks than heads, ranks share them), Gated
Delta Net by key heads with their value heads, MLPs by columns, routed experts by columns or as a
whole, and the head by vocabulary. Every rank has the whole embedding, norms and routers: splitting
them would save little and add a sum over all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from segue.api.errors import InvalidConfig
from segue.model.config import DenseConfig, ModelConfig, MoeConfig
from segue.parallel.rank import Rank


def config_of_rank(config: ModelConfig, rank: Rank) -> ModelConfig:
    """Raises InvalidConfig if the model cannot be split over these ranks."""
    if rank.count == 1:
        return config
    if problems := list(_problems(config, rank)):
        raise InvalidConfig(
            f"[engine] tensor_parallel = {rank.count}, expert_parallel = {rank.expert_groups}: "
            f"{'; '.join(problems)}"
        )
    attention, gdn = config.attention, config.gdn
    return replace(
        config,
        attention=replace(
            attention,
            num_heads=len(rank.part(attention.num_heads)),
            num_kv_heads=len(rank.part(attention.num_kv_heads)),
        ),
        gdn=replace(
            gdn,
            num_k_heads=len(rank.part(gdn.num_k_heads)),
            num_v_heads=len(rank.part(gdn.num_v_heads)),
        ),
        mlp=_mlp(config.mlp, rank),
        head=head_of(config.vocab_size, rank),
    )


def head_of(vocab_size: int, rank: Rank) -> range:
    """The tokens of a rank's part of the head. The last parts may have fewer."""
    width = -(-vocab_size // rank.count)
    return range(min(rank.index * width, vocab_size), min((rank.index + 1) * width, vocab_size))


def _mlp(mlp: DenseConfig | MoeConfig, rank: Rank) -> DenseConfig | MoeConfig:
    if isinstance(mlp, DenseConfig):
        return DenseConfig(intermediate_size=len(rank.part(mlp.intermediate_size)))
    return replace(
        mlp,
        intermediate_size=len(rank.expert_columns(mlp.intermediate_size)),
        shared_intermediate_size=len(rank.part(mlp.shared_intermediate_size)),
        held=rank.experts(mlp.num_experts),
    )


def _problems(config: ModelConfig, rank: Rank) -> Iterator[str]:
    attention, gdn, mlp = config.attention, config.gdn, config.mlp
    kv_heads = attention.num_kv_heads
    if kv_heads % rank.count and rank.count % kv_heads:
        yield f"neither it nor num_key_value_heads ({kv_heads}) is a multiple of the other"
    must_divide = {
        "num_attention_heads": attention.num_heads,
        "linear_num_key_heads": gdn.num_k_heads,
        "linear_num_value_heads": gdn.num_v_heads,
    }
    if isinstance(mlp, DenseConfig):
        must_divide["intermediate_size"] = mlp.intermediate_size
        if rank.expert_groups > 1:
            yield "the model has no experts, so expert_parallel must be 1"
    else:
        must_divide["shared_expert_intermediate_size"] = mlp.shared_intermediate_size
        per_group = rank.count // rank.expert_groups
        if mlp.num_experts % rank.expert_groups:
            yield f"num_experts ({mlp.num_experts}) is not a multiple of expert_parallel"
        if mlp.intermediate_size % per_group:
            yield (
                f"moe_intermediate_size ({mlp.intermediate_size}) is not a multiple of the "
                f"{per_group} ranks that share an expert"
            )
    for name, size in must_divide.items():
        if size % rank.count:
            yield f"{name} ({size}) is not a multiple of tensor_parallel"
