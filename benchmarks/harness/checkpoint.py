"""A random checkpoint of Qwen3.5's shape, with weights too large for a CPU cache."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from segue.demo import checkpoint_dir

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Copied from the demo model. Prompts are token ids here, and the answers' text means nothing."""

# 107 M parameters in 9 GDN and 3 attention layers. Head dimensions are those of the published
# models, so the sizes of a page and a slot relative to the layers are the same.
SHAPE: dict[str, object] = {
    "vocab_size": 16384,
    "hidden_size": 768,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 6,
    "linear_num_value_heads": 12,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000_000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [11, 11, 10],
        "mrope_interleaved": True,
    },
}
# The vocabulary still holds the demo tokenizer's.
QUICK_CHANGES: dict[str, object] = {
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
}


def save_random_checkpoint(folder: Path, *, is_quick: bool) -> Path:
    return save_checkpoint(folder, {**SHAPE, **(QUICK_CHANGES if is_quick else {})})


def save_checkpoint(folder: Path, shape: Mapping[str, object]) -> Path:
    torch.manual_seed(0)
    model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**shape))
    model.save_pretrained(folder)
    for name in TEXT_FILES:
        shutil.copy(checkpoint_dir() / name, folder / name)
    return folder
