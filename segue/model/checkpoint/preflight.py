"""Checks of a model folder without torch, before any process is started for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segue.api.errors import InvalidCheckpoint
from segue.cache.layout import DTYPE_BYTES
from segue.model.checkpoint.formats import refuse_foreign_folder, refuse_lfs_pointer
from segue.model.checkpoint.headers import (
    DTYPES,
    MTP_PREFIX,
    QUANTIZED_DTYPES,
    TensorHeader,
    read_headers,
    reason_to_skip,
)
from segue.model.checkpoint.typed_json import listed, read_object, section
from segue.model.config import ModelConfig
from segue.model.weights.quantization import unsupported, weight_of_scale

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFacts:
    """A folder that has all its files."""

    config: ModelConfig
    tensors: Mapping[str, TensorHeader]
    """Only the tensors that are read."""

    @property
    def has_mtp_layer(self) -> bool:
        return any(name.startswith(MTP_PREFIX) for name in self.tensors)

    def weight_bytes(self, dtype: str, *, mtp: bool) -> int:
        """Memory of a worker that loads the weights in `dtype`."""
        return sum(
            self._bytes_of(name, dtype)
            for name in self.tensors
            if mtp or not name.startswith(MTP_PREFIX)
        )

    def _bytes_of(self, name: str, dtype: str) -> int:
        tensor = self.tensors[name]
        weight = self.tensors.get(weight_of_scale(name))
        if weight is not None and tensor.dtype not in QUANTIZED_DTYPES:
            # Scales of blocks and matrices are repeated for each row, in float32.
            return 4 * weight.shape[0] * (tensor.shape[1] if len(tensor.shape) > 1 else 1)
        if tensor.dtype in QUANTIZED_DTYPES:
            return tensor.size
        is_matrix = len(tensor.shape) >= 2 and "conv1d" not in name
        # Vectors and convolutions are always float32.
        return tensor.size * (DTYPE_BYTES[dtype] if is_matrix else 4)


def check_folder(folder: Path, *, skip_tokenizer: bool = False) -> FolderFacts:
    """Raises InvalidCheckpoint, which says what the folder is or lacks."""
    if not folder.is_dir():
        raise InvalidCheckpoint(f"no such model folder: {folder}")
    refuse_foreign_folder(folder)
    config = ModelConfig.from_folder(folder)
    _check_tokenizer(folder, skip_tokenizer)
    tensors = {
        name: header
        for path in _weight_files(folder)
        for name, header in _headers(path).items()
        if not reason_to_skip(name, config)
    }
    served = [*DTYPES, *(QUANTIZED_DTYPES if config.quantization is not None else ())]
    if other := sorted({h.dtype for h in tensors.values() if h.dtype not in served}):
        raise InvalidCheckpoint(f"{folder}: {unsupported('stored as ' + ', '.join(other))}")
    return FolderFacts(config=config, tensors=tensors)


def _check_tokenizer(folder: Path, skip_tokenizer: bool) -> None:
    path = folder / "tokenizer.json"
    if skip_tokenizer:
        return
    if path.is_file():
        refuse_lfs_pointer(path)
        return
    is_slow = (folder / "vocab.json").is_file() or any(folder.glob("*.tiktoken"))
    found = " (it has an older tokenizer format)" if is_slow else ""
    raise InvalidCheckpoint(
        f"{folder} has no tokenizer.json{found}: add the one the model was published with, or "
        "serve token ids only with --skip-tokenizer"
    )


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX_NAME
    if index.exists():
        files = {str(name) for name in section(read_object(index), "weight_map").values()}
    else:
        files = {SINGLE_NAME}
    if missing := sorted(name for name in files if not (folder / name).is_file()):
        hint = f"{INDEX_NAME} names them" if index.exists() else f"no {INDEX_NAME} either"
        raise InvalidCheckpoint(
            f"{folder} lacks the weights {listed(missing)} ({hint}); download it again"
        )
    return [folder / name for name in sorted(files)]


def _headers(path: Path) -> Mapping[str, TensorHeader]:
    refuse_lfs_pointer(path)
    return read_headers(path)
