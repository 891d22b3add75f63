"""Quantises a checkpoint's weights in one of the layouts that are published for these models.

`python -m scripts.quantize FOLDER NEW_FOLDER --layout fp8`. Rounds to the nearest code, with the
scale that a block's largest weight needs; a published checkpoint may have been calibrated, and be
more accurate. Layouts:

- `fp8`: FP8 in blocks of 128 by 128, experts and draft layer too, as Qwen publishes them;
- `nvfp4`: MLPs and experts in NVFP4, as NVIDIA publishes the largest models;
- `mixed`: mixers in FP8, MLPs, experts and head in NVFP4, as NVIDIA publishes the smaller ones.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.model.checkpoint.tensors import open_checkpoint
from segue.model.weights.quantization import (
    FP8_BLOCK,
    MODELOPT_FILE,
    NVFP4_GROUP,
    Quantization,
    WeightFormat,
    parse,
    without_prefix,
)

LAYOUTS = ("fp8", "nvfp4", "mixed")
_FP8_MAX, _E2M1_MAX = 448.0, 6.0
_E2M1_BOUNDS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
"""Halfway between two magnitudes: the number of bounds below a magnitude is its code."""

Named = Iterator[tuple[str, Tensor]]


def quantize(source: Path, folder: Path, layout: str) -> None:
    """Writes `folder`, which must not exist, file by file."""
    folder.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    with open_checkpoint(source) as checkpoint:
        modules = [name.removesuffix(".weight") for name in checkpoint.files]
    section = _section(layout, modules)
    settings = parse(section)
    weight_map: dict[str, str] = {}
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            read = {
                name: tensor.contiguous()
                for stored in file.keys()  # noqa: SIM118
                for name, tensor in _quantized(stored, file.get_tensor(stored), settings)
            }
        save_file(read, folder / path.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(read, path.name)
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, folder)
    if (folder / "model.safetensors.index.json").exists():
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
    if settings.method == "modelopt":
        (folder / MODELOPT_FILE).write_text(json.dumps({"quantization": section}))


def _section(layout: str, modules: list[str]) -> dict[str, object]:
    """The configuration's section, as it is published."""
    kept = [m for m in modules if m.endswith(("in_proj_a", "in_proj_b", "shared_expert_gate"))]
    if layout == "fp8":
        plain = [m for m in modules if m.endswith((".gate", "norm", "conv1d", "mtp.fc"))]
        return {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
            "modules_to_not_convert": ["lm_head", "model.embed_tokens", "visual", *kept, *plain],
        }
    if layout == "nvfp4":
        mixers = {f"{m.partition('_attn')[0]}_attn*" for m in modules if "_attn." in m}
        shared = {f"{m.partition('.shared_expert')[0]}.shared_expert*" for m in modules}
        return {
            "quant_method": "modelopt",
            "quant_algo": "NVFP4",
            "ignore": ["lm_head", "model.visual*", "mtp*", *sorted(mixers | shared)],
        }
    layers: dict[str, dict[str, object]] = {}
    for module in modules:
        bare = without_prefix(module)
        if bare.startswith(("mtp.", "visual")) or module in kept:
            continue
        if bare.endswith(("in_proj_qkv", "in_proj_z", "out_proj")) or "self_attn" in bare:
            if bare.endswith("_proj") or "in_proj" in bare:
                layers[module] = {"quant_algo": "FP8"}
        elif bare.endswith(("gate_proj", "up_proj", "down_proj", "lm_head")):
            named = module.partition(".experts.")[0] + ".experts" if ".experts." in module else ""
            algorithm = {"quant_algo": "W4A16_NVFP4", "group_size": NVFP4_GROUP}
            layers[named or module] = algorithm
    return {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": layers,
        "exclude_modules": ["mtp*"],
    }


def _quantized(stored: str, tensor: Tensor, settings: Quantization) -> Named:
    """The tensors that are stored for one of the source; fused experts become separate ones."""
    at, _, part = stored.rpartition(".experts.")
    if at and part in ("gate_up_proj", "down_proj"):
        for expert, matrix in enumerate(tensor):
            split = {part: matrix}
            if part == "gate_up_proj":
                split = dict(zip(("gate_proj", "up_proj"), matrix.chunk(2), strict=True))
            for name, half in split.items():
                yield from _quantized(f"{at}.experts.{expert}.{name}.weight", half, settings)
        return
    module = stored.removesuffix(".weight")
    match settings.format_of(without_prefix(module)):
        case WeightFormat.PLAIN:
            yield stored, tensor
        case WeightFormat.FP8_BLOCKS:
            yield from _fp8_blocks(stored, tensor.float())
        case WeightFormat.FP8:
            scale = tensor.abs().amax().float() / _FP8_MAX
            yield stored, (tensor.float() / scale).to(torch.float8_e4m3fn)
            yield f"{stored}_scale", scale
            yield f"{module}.input_scale", torch.tensor(1.0)
        case WeightFormat.NVFP4:
            yield from _nvfp4(stored, tensor.float())
            if settings.default is WeightFormat.NVFP4:
                # The mixture is W4A16: inputs keep their 16 bits.
                yield f"{module}.input_scale", torch.tensor(1.0)


def _fp8_blocks(name: str, weight_NK: Tensor) -> Named:
    rows, columns = weight_NK.shape
    padding = (0, -columns % FP8_BLOCK, 0, -rows % FP8_BLOCK)
    padded = torch.nn.functional.pad(weight_NK, padding)
    blocks = padded.unfold(0, FP8_BLOCK, FP8_BLOCK).unfold(1, FP8_BLOCK, FP8_BLOCK)
    scales = (blocks.abs().amax((2, 3)) / _FP8_MAX).clamp(min=1e-12)
    by_row = scales.repeat_interleave(FP8_BLOCK, 0)[:rows]
    by_weight = by_row.repeat_interleave(FP8_BLOCK, 1)[:, :columns]
    yield name, (weight_NK / by_weight).to(torch.float8_e4m3fn)
    yield f"{name}_scale_inv", scales


def _nvfp4(name: str, weight_NK: Tensor) -> Named:
    if weight_NK.shape[1] % NVFP4_GROUP:
        raise InvalidCheckpoint(
            f"{name} has {weight_NK.shape[1]} columns: NVFP4 needs a multiple of {NVFP4_GROUP}"
        )
    whole = (weight_NK.abs().amax() / (_FP8_MAX * _E2M1_MAX)).clamp(min=1e-12)
    groups = weight_NK.view(len(weight_NK), -1, NVFP4_GROUP)
    scales = (groups.abs().amax(-1) / _E2M1_MAX / whole).to(torch.float8_e4m3fn)
    scaled = groups / (scales.float() * whole).clamp(min=1e-30)[..., None]
    codes = torch.bucketize(scaled.abs(), torch.tensor(_E2M1_BOUNDS), right=True)
    codes = (codes + 8 * (scaled < 0)).to(torch.uint8).flatten(1)
    yield name, codes[:, ::2] | codes[:, 1::2] << 4
    yield f"{name}_scale", scales
    yield f"{name}_scale_2", whole


def main(arguments: Mapping[str, str]) -> None:
    source, folder = Path(arguments["folder"]), Path(arguments["new_folder"])
    if folder.exists():
        raise SystemExit(f"{folder} exists")
    try:
        quantize(source, folder, arguments["layout"])
    except InvalidCheckpoint as error:
        raise SystemExit(str(error)) from None
    sys.stdout.write(f"wrote {folder}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("new_folder")
    parser.add_argument("--layout", choices=LAYOUTS, required=True)
    main(vars(parser.parse_args()))
