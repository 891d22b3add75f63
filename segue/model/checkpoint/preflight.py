"""Checks a model folder without torch, before any process is started for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from segue.api.errors import InvalidCheckpoint
from segue.cache.layout import DTYPE_BYTES
from segue.model.checkpoint.formats import refuse_foreign_folder, refuse_lfs_pointer
from segue.model.checkpoint.headers import (
    DTYPES,
    HEAD_PREFIX,
    MTP_PREFIX,
    PACKED_DTYPE,
    QUANTIZED_DTYPES,
    TensorHeader,
    read_headers,
    read_index,
    reason_to_skip,
)
from segue.model.config import ModelConfig
from segue.model.ranks.config import config_of_rank
from segue.model.ranks.cuts import Cut, cut_shape, cuts_of, stored_cut
from segue.model.weights.at_load import HEAD, NONE, format_at_load, quantized_bytes
from segue.model.weights.draft_tokens import rows_beside_head
from segue.model.weights.quantization import (
    WeightFormat,
    unsupported,
    weight_of_scale,
    without_prefix,
)
from segue.parallel.rank import FIRST_OF_ONE, Rank


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFacts:
    """The contents of a folder that has all its files."""

    config: ModelConfig
    tensors: Mapping[str, TensorHeader]
    """The tensors that are read, by name."""

    @property
    def has_mtp_layer(self) -> bool:
        return any(name.startswith(MTP_PREFIX) for name in self.tensors)

    def weight_bytes(
        self,
        dtype: str,
        *,
        mtp: bool,
        rank: Rank = FIRST_OF_ONE,
        quantization: str = NONE,
    ) -> int:
        """Memory of a rank's part of the weights in `dtype`, or quantised at load. Raises
        InvalidConfig if the model cannot be split like this."""
        own = config_of_rank(self.config, rank)
        cuts = cuts_of(self.config, rank)
        tied = 0
        if quantization != NONE and self.config.tie_word_embeddings:
            # The head becomes a quantised copy of the embedding.
            shape = (len(own.head_tokens), self.config.hidden_size)
            tied = quantized_bytes(shape, format_at_load(HEAD, quantization))
        whole = tied + sum(
            self._bytes_of(name, dtype, cuts, quantization)
            for name in self.tensors
            if mtp or not name.startswith(MTP_PREFIX)
        )
        extra: Cut = {0: rows_beside_head(self.config, rank)}
        return whole + sum(
            self._bytes_of(name, dtype, lambda _: extra, quantization)
            for name in self.tensors
            if extra[0] and without_prefix(name).startswith(HEAD_PREFIX)
        )

    def _bytes_of(
        self, name: str, dtype: str, cuts: Callable[[str], Cut], quantization: str
    ) -> int:
        tensor = self.tensors[name]
        how = format_at_load(without_prefix(name), quantization)
        if how is not WeightFormat.PLAIN:
            return quantized_bytes(cut_shape(tensor.shape, cuts(without_prefix(name))), how)
        weight_name = weight_of_scale(name)
        weight = self.tensors.get(weight_name)
        cut = cuts(without_prefix(name if weight is None else weight_name))
        stored = weight or tensor
        if stored.dtype in QUANTIZED_DTYPES:
            columns = stored.shape[-1] * (2 if stored.dtype == PACKED_DTYPE else 1)
            cut = stored_cut(name, tensor.shape, columns, cut)
        if weight is not None and tensor.dtype not in QUANTIZED_DTYPES:
            # Scales of blocks and matrices are stored once per row, in float32.
            return 4 * prod(cut_shape((weight.shape[0], *tensor.shape[1:]), cut))
        size = prod(cut_shape(tensor.shape, cut))
        if tensor.dtype in QUANTIZED_DTYPES:
            return size
        is_matrix = len(tensor.shape) >= 2 and "conv1d" not in name
        # Vectors and convolutions are always float32.
        return size * (DTYPE_BYTES[dtype] if is_matrix else 4)


def check_folder(
    folder: Path, *, skip_tokenizer: bool = False, quantizes_activations: bool = False
) -> FolderFacts:
    """Raises InvalidCheckpoint, which states what the folder is or lacks."""
    if not folder.is_dir():
        raise InvalidCheckpoint(f"no such model folder: {folder}")
    refuse_foreign_folder(folder)
    config = replace(ModelConfig.from_folder(folder), quantizes_activations=quantizes_activations)
    _check_tokenizer(folder, skip_tokenizer)
    tensors = {
        name: header
        for file_name in sorted(read_index(folder))
        for name, header in _headers(folder / file_name).items()
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
        # Finds truncated downloads. Parsing a large vocabulary takes half a second.
        if not _end_of(path).rstrip().endswith(b"}"):
            raise InvalidCheckpoint(f"{path} is truncated: download it again")
        return
    is_slow = (folder / "vocab.json").is_file() or any(folder.glob("*.tiktoken"))
    found = " (it has an older tokenizer format)" if is_slow else ""
    raise InvalidCheckpoint(
        f"{folder} has no tokenizer.json{found}: add the one the model was published with, or "
        "serve token ids only with --skip-tokenizer"
    )


def _end_of(path: Path, num_bytes: int = 64) -> bytes:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - num_bytes, 0))
        return file.read()


def _headers(path: Path) -> Mapping[str, TensorHeader]:
    refuse_lfs_pointer(path)
    return read_headers(path)
