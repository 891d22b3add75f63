"""Tiny random checkpoints, made with transformers, in the forms of real ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    Qwen3_5ForCausalLM,
    Qwen3_5MoeForCausalLM,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
)

VOCAB_SIZE = 300
Tensors = dict[str, Tensor]

SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 4096,
    "eos_token_id": 0,
    # Enough for clear maxima among the next tokens. At 0.2 the model is chaotic: transformers
    # differs from itself by 1e-3 between one pass and token by token; here, by 4e-6.
    "initializer_range": 0.05,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}
DENSE_SHAPE = {"intermediate_size": 96}
MOE_SHAPE = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How a checkpoint differs from the default; `changes` override the tiny shape."""

    is_moe: bool = False
    seed: int = 0
    changes: dict[str, object] = field(default_factory=dict)


def save_checkpoint(folder: Path, variant: Variant) -> Path:
    """A checkpoint as `save_pretrained` writes it: flat config, one file, separate experts."""
    model_class, config_class, shape = (
        (Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig, MOE_SHAPE)
        if variant.is_moe
        else (Qwen3_5ForCausalLM, Qwen3_5TextConfig, DENSE_SHAPE)
    )
    torch.manual_seed(variant.seed)
    model = model_class(config_class(**{**SHAPE, **shape, **variant.changes}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Norms start at one and zero, which would hide a wrong sign or a missing offset.
            if weight.ndim == 1 and "A_log" not in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    return folder


def add_mtp_layer(source: Path, folder: Path) -> Path:
    """The same checkpoint with a draft layer, in the form that transformers' `MtpModel` reads."""
    shutil.copytree(source, folder)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mtp_num_hidden_layers": 1}))
    tensors = load_file(source / "model.safetensors")
    torch.manual_seed(1)
    save_file(
        {**tensors, **mtp_tensors(tensors)},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def publish(source: Path, folder: Path, *, num_shards: int = 3) -> Path:
    """The same weights as the hub has them: multimodal config and names, shards, vision, MTP.

    Experts are fused in every second layer, so that one folder shows both layouts.
    """
    folder.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    config["mtp_num_hidden_layers"] = 1
    architecture = config.pop("architectures")[0].replace("ForCausalLM", "ForConditionalGeneration")
    outer = {
        "architectures": [architecture],
        "model_type": config["model_type"].removesuffix("_text"),
        "tie_word_embeddings": config["tie_word_embeddings"],
        "text_config": config,
        "vision_config": {"depth": 1},
    }
    (folder / "config.json").write_text(json.dumps(outer))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7]}))
    tensors = load_file(source / "model.safetensors")
    tensors = fuse_experts({**tensors, **mtp_tensors(tensors)})
    named = {_hub_name(name): tensor for name, tensor in tensors.items()}
    named["model.visual.blocks.0.attn.qkv.weight"] = torch.zeros(6, 2)
    named["model.visual.merger.norm.weight"] = torch.zeros(2)
    save_shards(folder, named, num_shards)
    return folder


def save_shards(folder: Path, tensors: Tensors, num_shards: int) -> None:
    names = list(tensors)
    weight_map = {}
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = names[shard::num_shards]
        save_file({name: tensors[name].clone() for name in part}, folder / file_name)
        weight_map.update(dict.fromkeys(part, file_name))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def mtp_tensors(tensors: Tensors) -> Tensors:
    """A draft head around a copy of the last layer, which is an attention layer."""
    blocks = {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    last = f"model.layers.{max(map(int, blocks))}."
    mtp = {
        name.replace(last, "mtp.layers.0."): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith(last)
    }
    hidden_size = tensors["model.norm.weight"].shape[0]
    mtp["mtp.fc.weight"] = torch.randn(hidden_size, 2 * hidden_size)
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        mtp[f"mtp.{name}.weight"] = torch.randn(hidden_size)
    return mtp


def fuse_experts(
    tensors: Tensors, is_fused: Callable[[int], bool] = lambda i: i % 2 == 1
) -> Tensors:
    """Experts of the layers that `is_fused` picks, as two tensors instead of three each."""
    tensors = dict(tensors)
    routers = [name for name in tensors if name.endswith(".mlp.gate.weight")]
    for router in routers:
        at = router.removesuffix("gate.weight") + "experts."
        layer = 1 if router.startswith("mtp.") else int(router.split(".layers.")[1].split(".")[0])
        if not is_fused(layer):
            continue
        parts = {
            part: [
                tensors.pop(f"{at}{expert}.{part}.weight")
                for expert in range(tensors[router].shape[0])
            ]
            for part in ("gate_proj", "up_proj", "down_proj")
        }
        pairs = zip(parts["gate_proj"], parts["up_proj"], strict=True)
        tensors[f"{at}gate_up_proj"] = torch.stack([torch.cat(pair) for pair in pairs])
        tensors[f"{at}down_proj"] = torch.stack(parts["down_proj"])
    return tensors


def _hub_name(name: str) -> str:
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name
