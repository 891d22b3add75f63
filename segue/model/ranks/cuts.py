"""The part of each checkpoint tensor that a rank reads, by the tensor's name. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from segue.api.errors import InvalidConfig
from segue.model.config import ModelConfig, MoeConfig
from segue.model.ranks.config import head_of
from segue.model.weights.quantization import FP8_BLOCK
from segue.parallel.rank import Rank

Cut = Mapping[int, Sequence[range]]
"""The ranges to read of each axis that is cut, in order. Empty: the whole tensor."""

_NOTHING: Cut = {0: [range(0)]}
_EACH = "#"
"""In place of an expert's number."""


def cuts_of(config: ModelConfig, rank: Rank) -> Callable[[str], Cut]:
    """Returns a function from a tensor's name, without the text model's prefix, to its cut, which
    is empty for unknown names. `config` is the whole model's."""
    if rank.count == 1:
        return lambda name: {}
    cuts = {**_of_mixers(config, rank), **_of_mlp(config, rank)}
    head: Cut = {0: [head_of(config.vocab_size, rank)]}
    held = rank.experts(config.mlp.num_experts) if isinstance(config.mlp, MoeConfig) else range(0)

    def of(name: str) -> Cut:
        if name == "lm_head.weight":
            return head
        owner, _, matrix = name.removesuffix(".weight").rpartition(".")
        owner = owner.rpartition(".")[2]
        if owner.isdigit() and f"{_EACH}.{matrix}" in cuts:
            return cuts[f"{_EACH}.{matrix}"] if int(owner) in held else _NOTHING
        return cuts.get(f"{owner}.{matrix}", {})

    return of


def stored_cut(name: str, shape: Sequence[int], columns: int, cut: Cut) -> Cut:
    """The cut of a quantised matrix's codes, which may be packed, or of its scales, each for
    several columns. `columns`, and the rows of `cut`, are those of the matrix. Raises InvalidConfig
    if the columns of a scale belong to two ranks."""
    if len(shape) < 2:
        # One scale for the matrix, which is repeated for each row.
        return {axis: ranges for axis, ranges in cut.items() if axis == 0}
    if 1 not in cut or len(shape) > 2:
        return cut
    each = FP8_BLOCK if name.endswith("_scale_inv") else columns // shape[1]
    for part in cut[1]:
        if part.start % each or (part.stop % each and part.stop != columns):
            raise InvalidConfig(
                f"tensor_parallel: a rank would have columns {part.start} to {part.stop} of "
                f"{name}, whose scales are for {each} columns each; use fewer ranks, or for "
                "experts more [engine] expert_parallel"
            )
    return {**cut, 1: [range(part.start // each, -(-part.stop // each)) for part in cut[1]]}


def cut_shape(shape: Sequence[int], cut: Cut) -> list[int]:
    """The shape of a tensor's cut part."""
    return [
        sum(len(part) for part in cut[axis]) if axis in cut else size
        for axis, size in enumerate(shape)
    ]


def _of_mixers(config: ModelConfig, rank: Rank) -> dict[str, Cut]:
    attention, gdn = config.attention, config.gdn
    heads, kv = rank.part(attention.num_heads), rank.part(attention.num_kv_heads)
    k_heads, v_heads = rank.part(gdn.num_k_heads), rank.part(gdn.num_v_heads)
    queries, values = _times(k_heads, gdn.k_dim), _times(v_heads, gdn.v_dim)
    # Queries, keys and values, in this order.
    channels = {
        0: [
            queries,
            _after(gdn.q_width, queries),
            _after(2 * gdn.q_width, values),
        ]
    }
    of_kv = {0: [_times(kv, attention.head_dim)]}
    return {
        "self_attn.q_proj": {0: [_times(heads, 2 * attention.head_dim)]},
        "self_attn.k_proj": of_kv,
        "self_attn.v_proj": of_kv,
        "self_attn.o_proj": {1: [_times(heads, attention.head_dim)]},
        "linear_attn.in_proj_qkv": channels,
        "linear_attn.conv1d": channels,
        "linear_attn.in_proj_z": {0: [values]},
        "linear_attn.in_proj_b": {0: [v_heads]},
        "linear_attn.in_proj_a": {0: [v_heads]},
        "linear_attn.A_log": {0: [v_heads]},
        "linear_attn.dt_bias": {0: [v_heads]},
        "linear_attn.out_proj": {1: [values]},
    }


def _of_mlp(config: ModelConfig, rank: Rank) -> dict[str, Cut]:
    mlp = config.mlp
    if not isinstance(mlp, MoeConfig):
        return _gated("mlp", rank.part(mlp.intermediate_size))
    experts, width = rank.experts(mlp.num_experts), rank.expert_columns(mlp.intermediate_size)
    return {
        **_gated("shared_expert", rank.part(mlp.shared_intermediate_size)),
        # Each expert's own tensors.
        **_gated(_EACH, width),
        # One tensor of all experts, gate stacked on up.
        "experts.gate_up_proj": {0: [experts], 1: [width, _after(mlp.intermediate_size, width)]},
        "experts.down_proj": {0: [experts], 2: [width]},
    }


def _gated(at: str, width: range) -> dict[str, Cut]:
    return {
        f"{at}.gate_proj": {0: [width]},
        f"{at}.up_proj": {0: [width]},
        f"{at}.down_proj": {1: [width]},
    }


def _times(heads: range, width: int) -> range:
    return range(heads.start * width, heads.stop * width)


def _after(start: int, part: range) -> range:
    return range(start + part.start, start + part.stop)
