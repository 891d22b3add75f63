"""The place of each checkpoint tensor in the model: a table of names and slices, without data.

Projections that read the same input are stacked into one matrix, so that a layer needs few large
products. Names in the table are the checkpoint's, without the text model's prefix. Every tensor of
the checkpoint is either in the table or skipped by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from segue.model.checkpoint.headers import KV_SCALES, MTP_PREFIX
from segue.model.config import LayerKind, ModelConfig, MoeConfig
from segue.model.weights.quantization import WeightFormat

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPiece:
    """One checkpoint tensor and its place in a target."""

    shape: tuple[int, ...]
    """In the checkpoint, which may store a scalar, (), as a vector of one."""
    target: str
    index: tuple[int | slice, ...]
    """Index into the target. It selects `repeats` rows for each of the tensor's; the last one may
    have fewer."""
    repeats: int = 1
    dtypes: tuple[torch.dtype, ...] = FLOAT_DTYPES
    """The dtypes that the tensor may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTarget:
    """One tensor of the model."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    """None: the dtype of activations. Norms, decays and the convolution are small, and computed in
    float32 anyway; quantised weights keep their dtype."""
    rounded_to: WeightFormat = WeightFormat.PLAIN
    """The format that the filled tensor is quantised to."""


@dataclass(frozen=True, slots=True)
class WeightTable:
    pieces: dict[str, TensorPiece] = field(default_factory=dict)
    targets: dict[str, TensorTarget] = field(default_factory=dict)

    @classmethod
    def of(cls, config: ModelConfig, names: Collection[str]) -> WeightTable:
        """The table for a checkpoint with these tensor names, prefix removed.

        The names determine only the format of experts, and whether there are a draft layer and
        scales for keys and values.
        """
        table = cls()
        hidden, vocab = config.hidden_size, config.vocab_size
        table.whole("embed", (vocab, hidden), "embed_tokens.weight")
        table.vector("norm", hidden, "norm.weight")
        if not config.tie_word_embeddings:
            table.whole("lm_head", (len(config.head_tokens), hidden), "lm_head.weight")
        for layer, kind in enumerate(config.layer_types):
            table.layer(config, kind, f"layers.{layer}", names)
        if any(name.startswith(MTP_PREFIX) for name in names):
            table.mtp(config, names)
        return table

    def layer(self, config: ModelConfig, kind: LayerKind, at: str, names: Collection[str]) -> None:
        hidden = config.hidden_size
        self.vector(f"{at}.mixer_norm", hidden, f"{at}.input_layernorm.weight")
        self.vector(f"{at}.mlp_norm", hidden, f"{at}.post_attention_layernorm.weight")
        if kind is LayerKind.ATTENTION:
            self.attention(config, at, names)
        else:
            self.gdn(config, at)
        if isinstance(config.mlp, MoeConfig):
            self.moe(config.mlp, hidden, at, names)
        else:
            self.gated_mlp(f"{at}.mlp", hidden, config.mlp.intermediate_size, f"{at}.mlp")

    def attention(self, config: ModelConfig, at: str, names: Collection[str]) -> None:
        shape, hidden = config.attention, config.hidden_size
        width, kv_width = (n * shape.head_dim for n in (shape.num_heads, shape.num_kv_heads))
        source = f"{at}.self_attn"
        # q_proj has each head's query and then its output gate: twice the width.
        rows = {"q_proj": 2 * width, "k_proj": kv_width, "v_proj": kv_width}
        self.stack(f"{at}.qkv_proj", hidden, {f"{source}.{n}.weight": r for n, r in rows.items()})
        self.vector(f"{at}.q_norm", shape.head_dim, f"{source}.q_norm.weight")
        self.vector(f"{at}.k_norm", shape.head_dim, f"{source}.k_norm.weight")
        self.whole(f"{at}.o_proj", (hidden, width), f"{source}.o_proj.weight")
        for pair in KV_SCALES:
            if any(f"{source}.{name}" in names for name in pair):
                self.scales(f"{at}.kv_scales", [f"{source}.{name}" for name in pair])

    def gdn(self, config: ModelConfig, at: str) -> None:
        gdn, hidden = config.gdn, config.hidden_size
        source = f"{at}.linear_attn"
        rows = {
            "in_proj_qkv": gdn.conv_channels,
            "in_proj_z": gdn.v_width,
            "in_proj_b": gdn.num_v_heads,
            "in_proj_a": gdn.num_v_heads,
        }
        self.stack(f"{at}.in_proj", hidden, {f"{source}.{n}.weight": r for n, r in rows.items()})
        conv, channels, width = f"{at}.conv", gdn.conv_channels, gdn.conv_kernel
        self.targets[conv] = TensorTarget(shape=(channels, width), dtype=torch.float32)
        piece = TensorPiece(shape=(channels, 1, width), target=conv, index=())
        self.pieces[f"{source}.conv1d.weight"] = piece
        self.vector(f"{at}.A_log", gdn.num_v_heads, f"{source}.A_log")
        self.vector(f"{at}.dt_bias", gdn.num_v_heads, f"{source}.dt_bias")
        self.vector(f"{at}.gdn_norm", gdn.v_dim, f"{source}.norm.weight")
        self.whole(f"{at}.out_proj", (hidden, gdn.v_width), f"{source}.out_proj.weight")

    def gated_mlp(self, target: str, hidden: int, width: int, source: str) -> None:
        rows = {f"{source}.gate_proj.weight": width, f"{source}.up_proj.weight": width}
        self.stack(f"{target}.gate_up_proj", hidden, rows)
        self.whole(f"{target}.down_proj", (hidden, width), f"{source}.down_proj.weight")

    def moe(self, moe: MoeConfig, hidden: int, at: str, names: Collection[str]) -> None:
        source = f"{at}.mlp"
        self.whole(f"{source}.router", (moe.num_experts, hidden), f"{source}.gate.weight")
        self.whole(f"{source}.shared_gate", (1, hidden), f"{source}.shared_expert_gate.weight")
        shared = f"{source}.shared_expert"
        self.gated_mlp(shared, hidden, moe.shared_intermediate_size, shared)
        experts, width = f"{source}.experts", moe.intermediate_size
        gate_up, down = f"{experts}.gate_up_proj", f"{experts}.down_proj"
        fused = {
            gate_up: (len(moe.experts), 2 * width, hidden),
            down: (len(moe.experts), hidden, width),
        }
        if gate_up in names:
            for name, shape in fused.items():
                self.whole(name, shape, name)
            return
        for name, shape in fused.items():
            self.targets[name] = TensorTarget(shape=shape, dtype=None)
        places = {
            "gate_proj": (gate_up, slice(0, width), (width, hidden)),
            "up_proj": (gate_up, slice(width, None), (width, hidden)),
            "down_proj": (down, slice(None), (hidden, width)),
        }
        for place, expert in enumerate(moe.experts):
            for part, (target, rows, part_shape) in places.items():
                piece = TensorPiece(shape=part_shape, target=target, index=(place, rows))
                self.pieces[f"{experts}.{expert}.{part}.weight"] = piece

    def mtp(self, config: ModelConfig, names: Collection[str]) -> None:
        hidden = config.hidden_size
        self.whole("mtp.fc", (hidden, 2 * hidden), "mtp.fc.weight")
        for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
            self.vector(f"mtp.{name}", hidden, f"mtp.{name}.weight")
        for layer in range(config.num_mtp_layers):
            self.layer(config, LayerKind.ATTENTION, f"mtp.layers.{layer}", names)

    def whole(self, target: str, shape: tuple[int, ...], source: str) -> None:
        """One unchanged tensor, in the dtype of the activations."""
        self.targets[target] = TensorTarget(shape=shape, dtype=None)
        self.pieces[source] = TensorPiece(shape=shape, target=target, index=())

    def vector(self, target: str, size: int, source: str) -> None:
        """One unchanged vector, in float32."""
        self.targets[target] = TensorTarget(shape=(size,), dtype=torch.float32)
        self.pieces[source] = TensorPiece(shape=(size,), target=target, index=())

    def scales(self, target: str, sources: Sequence[str]) -> None:
        """Scalars, as one vector in float32."""
        self.targets[target] = TensorTarget(shape=(len(sources),), dtype=torch.float32)
        for place, source in enumerate(sources):
            self.pieces[source] = TensorPiece(shape=(), target=target, index=(place,))

    def stack(self, target: str, columns: int, rows_of: Mapping[str, int]) -> None:
        """Matrices that read the same input, stacked by rows."""
        first = 0
        for source, rows in rows_of.items():
            index = (slice(first, first + rows),)
            self.pieces[source] = TensorPiece(shape=(rows, columns), target=target, index=index)
            first += rows
        self.targets[target] = TensorTarget(shape=(first, columns), dtype=None)
