"""The oracle's weights for a quantised checkpoint: dequantised independently of our code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoints import Tensors


def dequantized_folder(source: Path, folder: Path, dtype: torch.dtype) -> Path:
    """A copy with plain weights in `dtype`, for transformers; one file, without the draft layer."""
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    config.pop("quantization_config", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, folder)
    stored: Tensors = {}
    for path in source.glob("*.safetensors"):
        stored |= load_file(path)
    plain = {
        name: (plain_weight(name, stored).to(dtype) if _is_quantized(tensor) else tensor)
        for name, tensor in stored.items()
        if not name.endswith(("_scale", "_scale_inv", "_scale_2")) and not name.startswith("mtp.")
    }
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def plain_weight(name: str, stored: Tensors) -> Tensor:
    """The weight in float64: exact, since codes and scales are short."""
    codes = stored[name]
    if codes.dtype is torch.uint8:
        rows, bytes_of_row = codes.shape
        table = torch.tensor([e2m1(code) for code in range(16)], dtype=torch.float64)
        halves = torch.stack([table[codes.long() % 16], table[codes.long() // 16]], dim=-1)
        groups = halves.view(rows, bytes_of_row // 8, 16)
        scaled = groups * stored[f"{name}_scale"].double()[..., None]
        return scaled.view(rows, -1) * stored[f"{name}_scale_2"].double()
    if (scale := stored.get(f"{name}_scale")) is not None:
        return codes.double() * scale.double()
    blocks = stored[f"{name}_scale_inv"].double()
    weight = codes.double()
    for row, column in torch.cartesian_prod(*map(torch.arange, blocks.shape)).tolist():
        at = (slice(128 * row, 128 * row + 128), slice(128 * column, 128 * column + 128))
        weight[at] *= blocks[row, column]
    return weight


def e2m1(code: int) -> float:
    """A sign, two bits of exponent with bias 1, one bit of mantissa; exponent 0 is subnormal."""
    sign = -1.0 if code & 8 else 1.0
    exponent, mantissa = code >> 1 & 3, code & 1
    return sign * (mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1))


def _is_quantized(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.uint8, torch.float8_e4m3fn)
