"""Random checkpoints whose bytes weigh against their FLOPs here as published ones do on GPUs.

A 397B-A17B model has 30 KiB of keys and values and 34 GFLOP a token; a node of eight GPUs computes
about 3e15 FLOP/s and sends 5e10 bytes/s: 1.1 us to compute a token, 0.6 us to ship it, but 50,000
are shipped where 800 are computed. Two shared cores compute 4e10 FLOP/s and send 3e8 bytes/s, so
the same balance takes about 400 bytes for a MFLOP. A state is the pages of 190 tokens: scaled by
25, between the 3,000 and the 6,000 of the published models.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.serving.checkpoint import QUICK_CHANGES, SHAPE, save_checkpoint

# 24 M parameters in 6 GDN and 2 attention layers: 16 KiB and 40 MFLOP a token.
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
    shape = {**SHAPE, **QUICK_CHANGES} if is_quick else _AGENTIC
    return save_checkpoint(folder, shape)
