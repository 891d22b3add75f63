"""A checkpoint's config.json as frozen dataclasses. No torch: the router reads it too.

Accepts the flat text config and the multimodal one that nests it under `text_config`. Rejects
unsupported features by name, before any weight is read.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from segue.api.errors import InvalidCheckpoint
from segue.cache.layout import DTYPE_BYTES
from segue.model.checkpoint.formats import refuse_quantised
from segue.model.checkpoint.typed_json import (
    Json,
    listed,
    number,
    positive,
    read_object,
    require,
    section,
)
from segue.model.weights.quantization import Quantization, quantization_of

ARCHITECTURES = {
    "Qwen3_5ForCausalLM": False,
    "Qwen3_5ForConditionalGeneration": False,
    "Qwen3_5MoeForCausalLM": True,
    "Qwen3_5MoeForConditionalGeneration": True,
}
"""Architecture name → whether its MLPs are mixtures of experts."""

MODEL_TYPES = {
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
}
"""Model type → its architecture, if the config names none."""

# Multi-axis rope has one axis for text, so "mrope" and "default" are the same rotation here.
ROPE_TYPES = ("default", "mrope")


class LayerKind(enum.StrEnum):
    """A layer's mixer, with the values of `layer_types`."""

    GDN = "linear_attention"
    ATTENTION = "full_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    """Leading dimensions of a head that are rotated; the rest encode no position."""
    rope_theta: float

    def __post_init__(self) -> None:
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"num_attention_heads ({self.num_heads}) must be a multiple of "
            f"num_key_value_heads ({self.num_kv_heads})",
        )
        require(
            self.rotary_dim % 2 == 0 and 0 < self.rotary_dim <= self.head_dim,
            f"partial_rotary_factor must rotate an even number of dimensions, from 2 to "
            f"{self.head_dim}, got {self.rotary_dim}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GdnConfig:
    num_k_heads: int
    num_v_heads: int
    k_dim: int
    v_dim: int
    conv_kernel: int

    def __post_init__(self) -> None:
        require(
            self.num_v_heads % self.num_k_heads == 0,
            f"linear_num_value_heads ({self.num_v_heads}) must be a multiple of "
            f"linear_num_key_heads ({self.num_k_heads})",
        )
        require(
            self.conv_kernel >= 2,
            f"linear_conv_kernel_dim must be >= 2, got {self.conv_kernel}",
        )

    @property
    def q_width(self) -> int:
        """Width of the query projection, and of the key projection."""
        return self.num_k_heads * self.k_dim

    @property
    def v_width(self) -> int:
        return self.num_v_heads * self.v_dim

    @property
    def conv_channels(self) -> int:
        """Queries, keys and values, in this order, all pass through the convolution."""
        return 2 * self.q_width + self.v_width


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseConfig:
    intermediate_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeConfig:
    num_experts: int
    """Routed experts."""
    experts_per_token: int
    intermediate_size: int
    """Width of one routed expert."""
    shared_intermediate_size: int
    held: range | None = None
    """The experts whose weights this rank holds; None: all."""

    @property
    def experts(self) -> range:
        """The experts whose weights this rank holds."""
        return range(self.num_experts) if self.held is None else self.held

    def __post_init__(self) -> None:
        require(
            self.experts_per_token <= self.num_experts,
            f"num_experts_per_tok ({self.experts_per_token}) must be at most "
            f"num_experts ({self.num_experts})",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The properties of a checkpoint that the runtime needs."""

    architecture: str
    vocab_size: int
    hidden_size: int
    layer_types: tuple[LayerKind, ...]
    attention: AttentionConfig
    gdn: GdnConfig
    mlp: DenseConfig | MoeConfig
    rms_norm_eps: float
    max_position_embeddings: int
    """The context: maximum tokens of prompt and answer together."""
    dtype: str
    """Dtype of the checkpoint's weights."""
    tie_word_embeddings: bool
    num_mtp_layers: int
    """Draft layers in the checkpoint; 0 if it has none."""
    quantization: Quantization | None = None
    """None if all weights are plain."""
    head: range | None = None
    """The tokens whose logits this rank computes; None: the whole vocabulary."""
    quantizes_activations: bool = False
    """Whether inputs of products of many rows are quantised, as the checkpoint specifies."""
    draft_tokens: tuple[range, ...] | None = None
    """The tokens that a draft may be, ascending; None: the whole vocabulary."""

    @property
    def head_tokens(self) -> range:
        """The tokens whose logits this rank computes."""
        return range(self.vocab_size) if self.head is None else self.head

    @property
    def num_layers(self) -> int:
        return len(self.layer_types)

    @property
    def moe(self) -> MoeConfig | None:
        return self.mlp if isinstance(self.mlp, MoeConfig) else None

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Reads `config.json`.

        Raises InvalidCheckpoint for a folder without it, bad JSON, or an unsupported model.
        """
        if not folder.is_dir():
            raise InvalidCheckpoint(f"no such model folder: {folder}")
        path = folder / "config.json"
        outer = read_object(path)
        try:
            return _parse(outer, folder)
        except InvalidCheckpoint as error:
            raise InvalidCheckpoint(f"{path}: {error}") from None


def _parse(outer: Json, folder: Path) -> ModelConfig:
    architecture = _architecture(outer)
    text = section(outer, "text_config") if "text_config" in outer else outer
    refuse_quantised(entry.name for entry in folder.iterdir())
    _refuse_unsupported(text)
    return ModelConfig(
        architecture=architecture,
        vocab_size=positive(text, "vocab_size"),
        hidden_size=positive(text, "hidden_size"),
        layer_types=_layer_types(text),
        attention=_attention(text),
        gdn=GdnConfig(
            num_k_heads=positive(text, "linear_num_key_heads"),
            num_v_heads=positive(text, "linear_num_value_heads"),
            k_dim=positive(text, "linear_key_head_dim"),
            v_dim=positive(text, "linear_value_head_dim"),
            conv_kernel=positive(text, "linear_conv_kernel_dim", 4),
        ),
        mlp=(
            _moe(text)
            if ARCHITECTURES[architecture]
            else DenseConfig(intermediate_size=positive(text, "intermediate_size"))
        ),
        rms_norm_eps=number(text, "rms_norm_eps", float, 1e-6),
        max_position_embeddings=positive(text, "max_position_embeddings"),
        dtype=_dtype(outer, text),
        tie_word_embeddings=bool({**text, **outer}.get("tie_word_embeddings", False)),
        num_mtp_layers=number(text, "mtp_num_hidden_layers", int, 0),
        quantization=quantization_of(outer, text, folder),
    )


def _architecture(outer: Json) -> str:
    names = outer.get("architectures")
    if isinstance(names, list) and names:
        name: str | None = str(names[0])
    else:
        kind = outer.get("model_type")
        name = None if kind is None else MODEL_TYPES.get(str(kind), str(kind))
    if name is None:
        raise InvalidCheckpoint(
            "config.json names no architecture, neither in architectures nor by model_type; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    require(
        name in ARCHITECTURES,
        f"unsupported architecture {name}; supported: {', '.join(ARCHITECTURES)}",
    )
    return name


def _refuse_unsupported(text: Json) -> None:
    activation = text.get("hidden_act", "silu")
    require(activation == "silu", f"hidden_act must be 'silu', got {activation!r}")
    require(not text.get("attention_bias"), "attention_bias is not supported")
    require(bool(text.get("attn_output_gate", True)), "attn_output_gate must be true")


def _layer_types(text: Json) -> tuple[LayerKind, ...]:
    num_layers = positive(text, "num_hidden_layers")
    names = text.get("layer_types")
    if names is None:
        interval = positive(text, "full_attention_interval", 4)
        kinds = (LayerKind.GDN, LayerKind.ATTENTION)
        return tuple(kinds[(i + 1) % interval == 0] for i in range(num_layers))
    known = [kind.value for kind in LayerKind]
    if not isinstance(names, list) or not all(name in known for name in names):
        raise InvalidCheckpoint(f"layer_types must be a list of {listed(known)}, got {names!r:.80}")
    require(
        len(names) == num_layers,
        f"layer_types has {len(names)} entries for num_hidden_layers = {num_layers}",
    )
    return tuple(LayerKind(name) for name in names)


def _attention(text: Json) -> AttentionConfig:
    # Older configs have these values in other places than `rope_parameters`.
    rope = {**text, **section(text, "rope_scaling"), **section(text, "rope_parameters")}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    require(
        rope_type in ROPE_TYPES,
        f"unsupported rope type {rope_type!r}; supported: {', '.join(ROPE_TYPES)}",
    )
    head_dim = positive(text, "head_dim", 256)
    return AttentionConfig(
        num_heads=positive(text, "num_attention_heads"),
        num_kv_heads=positive(text, "num_key_value_heads"),
        head_dim=head_dim,
        rotary_dim=int(head_dim * number(rope, "partial_rotary_factor", float, 0.25)),
        rope_theta=number(rope, "rope_theta", float, 10_000.0),
    )


def _moe(text: Json) -> MoeConfig:
    return MoeConfig(
        num_experts=positive(text, "num_experts"),
        experts_per_token=positive(text, "num_experts_per_tok"),
        intermediate_size=positive(text, "moe_intermediate_size"),
        shared_intermediate_size=positive(text, "shared_expert_intermediate_size"),
    )


def _dtype(outer: Json, text: Json) -> str:
    """The dtype in the config; float32 if there is none, since that loses nothing."""
    declared = [c[k] for c in (outer, text) for k in ("dtype", "torch_dtype") if c.get(k)]
    name = str(declared[0]).removeprefix("torch.") if declared else "float32"
    require(name in DTYPE_BYTES, f"dtype must be one of {sorted(DTYPE_BYTES)}, got {name!r}")
    return name
