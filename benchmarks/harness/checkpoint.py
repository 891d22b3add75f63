"""Random checkpoints of Qwen3.5's shape."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from segue.demo import checkpoint_dir

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Copied from the demo model. Prompts are token ids here, and the answers' text means nothing."""

# Too large for a CPU cache: 107 M parameters in 9 GDN and 3 attention layers. Head dimensions are
# those of the published models, so the sizes of a page and a slot relative to the layers are the
# same.
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


# 24 M parameters, float32, 6 GDN and 2 attention layers: 16 KiB of keys and values and about 40
# MFLOP a token. Computing dominates: a prompt of 2,000 tokens takes seconds to compute and 40 ms
# to ship. Bytes per FLOP are ten times those of published models, because a loopback link is
# that much faster relative to two cores than a network relative to GPUs. A state is as large as
# the pages of 200 tokens; in published models of 1,500 to 6,000, which the default scale turns
# into 60 to 240.
_AGENTIC: dict[str, object] = {
    **SHAPE,
    "vocab_size": 8192,
    "hidden_size": 384,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000_000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    },
}


def save_random_checkpoint(folder: Path, *, is_quick: bool) -> Path:
    return save_checkpoint(folder, {**SHAPE, **(QUICK_CHANGES if is_quick else {})})


def save_agentic_checkpoint(folder: Path, *, is_quick: bool) -> Path:
    return save_small_checkpoint(folder) if is_quick else save_checkpoint(folder, _AGENTIC)


def save_small_checkpoint(folder: Path) -> Path:
    """A model that is cheap enough to compute that moving hardly ever pays."""
    return save_checkpoint(folder, {**SHAPE, **QUICK_CHANGES})


def save_checkpoint(folder: Path, shape: Mapping[str, object]) -> Path:
    torch.manual_seed(0)
    model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**shape))
    model.save_pretrained(folder)
    for name in TEXT_FILES:
        shutil.copy(checkpoint_dir() / name, folder / name)
    return folder
