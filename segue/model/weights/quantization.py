"""The quantisation that a checkpoint's configuration declares. No torch.

Two layouts are published for these models:

- `quant_method: fp8`: FP8 (e4m3) with a scale for each block of 128 by 128 weights.
- `quant_method: modelopt` in config.json, or hf_quant_config.json: FP8 with one scale per matrix,
  NVFP4 with a scale for each 16 weights of a row and one for the matrix, or a mixture that lists
  the format of each module.

By default only weights are quantised. A checkpoint's scales for activations are used with `[engine]
quantize_activations`; products without it are at least as exact.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

from segue.api.errors import InvalidCheckpoint
from segue.model.checkpoint.typed_json import Json, read_object, section

MODELOPT_FILE = "hf_quant_config.json"
FP8_BLOCK = 128
"""Rows and columns of a weight that share a scale."""
NVFP4_GROUP = 16
"""Weights of a row that share a scale."""

_TEXT_PREFIXES = ("model.language_model.", "model.")
_SCALE_ENDINGS = ("_scale_inv", "_scale_2", "_scale")


class WeightFormat(StrEnum):
    PLAIN = "plain"
    FP8_BLOCKS = "fp8 in blocks"
    """e4m3, with a scale for each block."""
    FP8 = "fp8"
    """e4m3, with one scale."""
    NVFP4 = "nvfp4"
    INT8 = "int8"
    """This and INT4: never in a checkpoint, only quantised at load."""
    INT4 = "int4"


_OF_ALGORITHM = {
    "FP8": WeightFormat.FP8,
    "NVFP4": WeightFormat.NVFP4,
    "W4A16_NVFP4": WeightFormat.NVFP4,
}
_LINEAR = re.compile(
    r"(^|\.)(lm_head|[qkvo]_proj|in_proj_(qkv|z|b|a)|out_proj|(gate|up|down)_proj"
    r"|shared_expert_gate|fc)$"
)
_EXPERT = re.compile(r"(?<=\.experts)\.\d+(?=\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Modules are named as in the checkpoint, without the text model's prefix and `.weight`."""

    method: str
    default: WeightFormat
    """The format of linear layers that are neither excluded nor named."""
    excluded: tuple[str, ...] = ()
    """Modules with plain weights, or patterns with `*`."""
    named: tuple[tuple[str, WeightFormat], ...] = ()
    """Modules and their format, which includes their submodules."""
    quantizes_mtp: bool

    def format_of(self, module: str) -> WeightFormat:
        """The declared format of a module's weight. All experts of a layer have the same."""
        return _format_of(self, _EXPERT.sub("", module))


@functools.cache
def _format_of(settings: Quantization, module: str) -> WeightFormat:
    """Cached: large models have hundreds of patterns and a hundred thousand expert matrices."""
    named = dict(settings.named)
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if found := named.get(".".join(parts[:end])):
            return found
    is_candidate = _LINEAR.search(module) is not None
    if module.startswith("mtp.") and not settings.quantizes_mtp:
        is_candidate = False
    if not is_candidate or any(_matches(module, pattern) for pattern in settings.excluded):
        return WeightFormat.PLAIN
    return settings.default


def quantization_of(outer: Json, text: Json, folder: Path) -> Quantization | None:
    """From config.json or ModelOpt's own file in `folder`. `text`: the text config in config.json.
    Raises InvalidCheckpoint for a method that cannot be served."""
    for config in (outer, text):
        if config.get("quantization_config"):
            return parse(section(config, "quantization_config"))
    path = folder / MODELOPT_FILE
    if not path.is_file():
        return None
    found = read_object(path)
    try:
        return parse({"quant_method": "modelopt", **section(found, "quantization")})
    except InvalidCheckpoint as error:
        raise InvalidCheckpoint(f"{MODELOPT_FILE}: {error}") from None


def parse(settings: Json) -> Quantization:
    """Parses the section of a configuration. Raises InvalidCheckpoint."""
    method = str(settings.get("quant_method", "")).lower()
    if method == "fp8":
        return _block_fp8(settings)
    if method.startswith("modelopt"):
        return _modelopt(settings)
    raise InvalidCheckpoint(unsupported(_described(settings)))


def weight_of_scale(name: str) -> str:
    """The name of the weight that a scale belongs to; empty for other tensors."""
    for ending in _SCALE_ENDINGS:
        if name.endswith(f".weight{ending}"):
            return name.removesuffix(ending)
    return ""


def unsupported(how: str) -> str:
    """The error message for a method."""
    return (
        f"quantised weights ({how}) are not supported; served are bfloat16 and float32, FP8 with "
        "128x128 blocks, and ModelOpt's FP8 and NVFP4: use such a release of this model"
    )


def _block_fp8(settings: Json) -> Quantization:
    if (fmt := str(settings.get("fmt", "e4m3"))) != "e4m3":
        raise InvalidCheckpoint(unsupported(f"fp8 in the format {fmt}"))
    block = settings.get("weight_block_size")
    if block not in (None, [FP8_BLOCK, FP8_BLOCK]):
        raise InvalidCheckpoint(
            f"weight_block_size must be [{FP8_BLOCK}, {FP8_BLOCK}], got {block!r:.40}"
        )
    return Quantization(
        method="fp8",
        default=WeightFormat.FP8_BLOCKS if block else WeightFormat.FP8,
        excluded=_names(settings, "modules_to_not_convert", "ignored_layers"),
        quantizes_mtp=True,
    )


def _modelopt(settings: Json) -> Quantization:
    named: tuple[tuple[str, WeightFormat], ...]
    algorithm = str(settings.get("quant_algo") or "")
    if not algorithm and (settings.get("kv_cache_quant_algo") or settings.get("kv_cache_scheme")):
        # Only keys and values, whose scales `segue.model.attention` reads.
        default, named = WeightFormat.PLAIN, ()
    elif algorithm != "MIXED_PRECISION":
        default, named = _format(algorithm, settings), ()
    else:
        default = WeightFormat.PLAIN
        layers = section(settings, "quantized_layers")
        named = tuple(
            (
                without_prefix(module),
                _format(str(section(layers, module).get("quant_algo")), layers[module]),
            )
            for module in layers
        )
        if not named:
            raise InvalidCheckpoint("MIXED_PRECISION needs quantized_layers, which is empty")
    return Quantization(
        method="modelopt",
        default=default,
        excluded=_names(settings, "exclude_modules", "ignore"),
        named=named,
        quantizes_mtp=False,
    )


def _format(algorithm: str, settings: object) -> WeightFormat:
    if algorithm not in _OF_ALGORITHM:
        raise InvalidCheckpoint(unsupported(f"ModelOpt, {algorithm or 'no quant_algo'}"))
    group = settings.get("group_size") if isinstance(settings, Mapping) else None
    if _OF_ALGORITHM[algorithm] is WeightFormat.NVFP4 and group not in (None, NVFP4_GROUP):
        raise InvalidCheckpoint(f"NVFP4 needs group_size {NVFP4_GROUP}, got {group!r:.40}")
    return _OF_ALGORITHM[algorithm]


def _names(settings: Json, *keys: str) -> tuple[str, ...]:
    for key in keys:
        names = settings.get(key)
        if names is None:
            continue
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InvalidCheckpoint(f"{key} must be a list of module names, got {names!r:.80}")
        return tuple(without_prefix(name) for name in names)
    return ()


def without_prefix(module: str) -> str:
    """A module's or tensor's name in the table of weights."""
    prefix = next((p for p in _TEXT_PREFIXES if module.startswith(p)), "")
    return module.removeprefix(prefix)


def _matches(module: str, pattern: str) -> bool:
    if "*" in pattern:
        return fnmatchcase(module, pattern)
    return module == pattern or module.startswith(f"{pattern}.") or module.endswith(f".{pattern}")


def _described(settings: Json) -> str:
    named = [settings.get(key) for key in ("quant_method", "quant_algo", "format")]
    parts = [str(name) for name in named if isinstance(name, str)]
    bits = settings.get("bits") or settings.get("w_bit")
    if isinstance(bits, int):
        parts.append(f"{bits} bits")
    parts += [key.removeprefix("load_in_") for key in settings if str(key).startswith("load_in_")]
    return ", ".join(parts) or "unknown method"
