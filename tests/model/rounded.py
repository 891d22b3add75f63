"""The oracle's weights for a checkpoint that is quantised at load: the rounded ones, as plain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segue.model.weights.at_load import HEAD, format_at_load
from segue.model.weights.quantization import WeightFormat, without_prefix
from segue.model.weights.rounding import rounded

EMBEDDING = "model.embed_tokens.weight"


def rounded_folder(source: Path, folder: Path, quantization: str) -> Path:
    """A copy for transformers, in float32 and without the draft layer. A tied head becomes one of
    its own, as it is rounded and the embedding is not."""
    shutil.copytree(source, folder)
    config = json.loads((source / "config.json").read_text())
    config |= {"dtype": "float32", "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    stored = load_file(source / "model.safetensors")
    stored.setdefault(HEAD, stored[EMBEDDING])
    plain = {
        name: as_rounded(tensor.float(), format_at_load(without_prefix(name), quantization))
        for name, tensor in stored.items()
        if not name.startswith("mtp.")
    }
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def as_rounded(weight: Tensor, how: WeightFormat) -> Tensor:
    """The numbers that the codes and scales stand for; the weight itself if it stays plain."""
    if how is WeightFormat.PLAIN:
        return weight.clone()
    codes, scales = rounded("name", weight, how)
    if how is WeightFormat.INT4:
        halves = torch.stack([codes % 16, codes // 16], dim=-1).flatten(-2).double()
        codes = torch.where(halves > 7, halves - 16, halves)
    group = 128 if how is WeightFormat.INT8 else 32
    by_column = torch.arange(weight.shape[-1]) // group
    return (codes.double() * scales.double()[..., by_column]).float()
