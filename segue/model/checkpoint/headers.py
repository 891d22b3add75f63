"""The files of a checkpoint, and their headers: names, dtypes and shapes, without data. No torch.

A safetensors file has the length of its header in 8 bytes, the header in JSON, then the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segue.api.errors import InvalidCheckpoint
from segue.model.checkpoint.typed_json import listed, read_object, section
from segue.model.config import ModelConfig

DTYPES = ("F32", "BF16", "F16")
"""Dtypes of plain weights, as named in files."""
QUANTIZED_DTYPES = ("F8_E4M3", "U8")
"""Dtypes of quantised weights, if the configuration specifies their format."""
PACKED_DTYPE = "U8"
"""Two weights per number."""
_INDEX = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True, slots=True)
class TensorHeader:
    dtype: str
    """As named in the file: "BF16"."""
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def read_index(folder: Path) -> dict[str, set[str]]:
    """File name → the tensors that the index places there; none without an index. Raises
    InvalidCheckpoint if a file is missing."""
    path = folder / _INDEX
    index: dict[str, set[str]] = {}
    if path.exists():
        for tensor_name, file_name in section(read_object(path), "weight_map").items():
            index.setdefault(str(file_name), set()).add(tensor_name)
        hint = f"{_INDEX} names them"
    else:
        index, hint = {"model.safetensors": set()}, f"no {_INDEX} either"
    if missing := sorted(name for name in index if not (folder / name).is_file()):
        raise InvalidCheckpoint(
            f"{folder} lacks the weights {listed(missing)} ({hint}); download it again"
        )
    return index


def read_headers(path: Path) -> Mapping[str, TensorHeader]:
    """Name → header. Raises InvalidCheckpoint if the file is truncated or not safetensors."""
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= _MAX_HEADER_BYTES:
                raise ValueError(f"its header would have {header_bytes} bytes")
            entries = json.loads(file.read(header_bytes))
        headers, data_bytes = _parse(entries)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidCheckpoint(f"{path} is truncated or not safetensors: {error}") from None
    expected, actual = 8 + header_bytes + data_bytes, path.stat().st_size
    if actual < expected:
        raise InvalidCheckpoint(
            f"{path} is truncated: it has {actual} of {expected} bytes; download it again"
        )
    return headers


def _parse(entries: Mapping[str, Mapping[str, object]]) -> tuple[dict[str, TensorHeader], int]:
    headers: dict[str, TensorHeader] = {}
    data_bytes = 0
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not (isinstance(shape, list) and isinstance(offsets, list)):
            raise ValueError(f"{name} has no shape or no data_offsets")
        headers[name] = TensorHeader(str(entry["dtype"]), tuple(int(n) for n in shape))
        data_bytes = max(data_bytes, int(offsets[1]))
    return headers, data_bytes


VISION_PREFIXES = ("model.visual.", "visual.")
MTP_PREFIX = "mtp."
HEAD_PREFIX = "lm_head."
KV_SCALES = (("k_proj.k_scale", "v_proj.v_scale"), ("k_scale", "v_scale"))
"""Names in an attention layer of the scales for keys and values in 8 bits: ModelOpt's, then those
of other tools. A checkpoint has both of a pair or none."""
_READ_SCALES = tuple(f".self_attn.{name}" for pair in KV_SCALES for name in pair)
INPUT_SCALE = ".input_scale"
"""Suffix of a module's name: the scale of its inputs."""
_UNUSED_SCALES = (INPUT_SCALE, ".k_scale", ".v_scale", ".k_bmm_scale", ".v_bmm_scale")


def reason_to_skip(name: str, config: ModelConfig) -> str:
    """Why the tensor is skipped; empty if it is read."""
    if name.startswith(VISION_PREFIXES):
        return "vision tower"
    if name.startswith(MTP_PREFIX) and config.num_mtp_layers == 0:
        return "draft layer that is not used"
    if name.endswith(_UNUSED_SCALES) and not _is_read(name, config):
        return "scale of activations, which are not quantised"
    if name == "lm_head.weight" and config.tie_word_embeddings:
        return "head that is tied to the embedding"
    return ""


def _is_read(scale: str, config: ModelConfig) -> bool:
    """The head's inputs are never quantised: the error would directly affect the logits."""
    if scale.endswith(INPUT_SCALE):
        return config.quantizes_activations and not scale.startswith(HEAD_PREFIX)
    return scale.endswith(_READ_SCALES)
