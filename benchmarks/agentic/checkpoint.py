"""Random checkpoints of Qwen3.5's shape. Computing dominates: a prompt of 2,000 tokens takes
seconds to compute and 40 ms to ship.

24 M parameters, float32, 6 GDN and 2 attention layers: 16 KiB of keys and values and about 40 MFLOP
per token. These are ten times the bytes per FLOP of published models, because a loopback link is
that much faster relative to two cores than a network relative to GPUs. A state is as large as the
pages of 200 tokens; in published models it is 1,500 to 6,000, which the default scale turns into 60
to 240.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness.checkpoint import QUICK_CHANGES, SHAPE, save_checkpoint

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


def save_agentic_checkpoint(folder: Path, *, is_quick: bool) -> Path:
    return save_small_checkpoint(folder) if is_quick else save_checkpoint(folder, _AGENTIC)


def save_small_checkpoint(folder: Path) -> Path:
    """A model that is cheap enough to compute that moving hardly ever pays."""
    return save_checkpoint(folder, {**SHAPE, **QUICK_CHANGES})
