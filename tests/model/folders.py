"""Folders as large as those of real models, as sparse files: headers, and holes for data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from segue.model.config import ModelConfig
from segue.model.weights.table import WeightTable

_BYTES = {"BF16": 2, "F32": 4, "F16": 2, "F8_E4M3": 1, "I32": 4}
_ROPE = {"rope_type": "default", "rope_theta": 10_000_000, "partial_rotary_factor": 0.25}

# A shape of our own, with the widths of a large mixture of experts: 1,040 GB in bfloat16.
HUGE_MOE: dict[str, object] = {
    "architectures": ["Qwen3_5MoeForCausalLM"],
    "model_type": "qwen3_5_moe_text",
    "vocab_size": 250_000,
    "hidden_size": 5120,
    "num_hidden_layers": 64,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 64,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 1024,
    "shared_expert_intermediate_size": 1024,
    "max_position_embeddings": 262_144,
    "dtype": "bfloat16",
    "eos_token_id": 7,
    "mtp_num_hidden_layers": 1,
    "rope_parameters": _ROPE,
}


def sparse_folder(folder: Path, config: Mapping[str, object], *, dtype: str = "BF16") -> Path:
    """All files that `segue serve` reads before it starts processes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    model = ModelConfig.from_folder(folder)
    fused = [f"layers.{n}.mlp.experts.gate_up_proj" for n in range(model.num_layers)]
    fused += ["mtp.layers.0.mlp.experts.gate_up_proj"] if model.num_mtp_layers else []
    pieces = WeightTable.of(model, fused).pieces
    write_sparse(
        folder / "model.safetensors",
        {
            name if name.startswith(("mtp.", "lm_head")) else f"model.language_model.{name}": (
                dtype,
                piece.shape,
            )
            for name, piece in pieces.items()
        },
    )
    return folder


def write_sparse(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """A safetensors file without written data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + _BYTES[dtype] * _product(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for number in shape:
        product *= number
    return product
