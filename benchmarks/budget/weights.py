"""Bytes of a rank's weights by what reads them, from a configuration alone.

The table of weights is the loader's, with the names that a checkpoint of this configuration has.
It is made with one expert in a layer: the others take the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import torch

from segue.model.checkpoint.headers import MTP_PREFIX
from segue.model.config import ModelConfig
from segue.model.ranks.config import config_of_rank
from segue.model.ranks.cuts import cuts_of, stored_cut
from segue.model.weights.draft_tokens import rows_beside_head, share_of
from segue.model.weights.quantization import WeightFormat, weight_of_scale
from segue.model.weights.stored import SCALES, stored_table
from segue.model.weights.table import TensorPiece, WeightTable
from segue.parallel.rank import Rank

_SCALES = {
    WeightFormat.PLAIN: (),
    WeightFormat.FP8_BLOCKS: ("_scale_inv",),
    WeightFormat.FP8: ("_scale",),
    WeightFormat.NVFP4: ("_scale", "_scale_2"),
}


class Part(StrEnum):
    EMBEDDING = "embedding"
    HEAD = "head"
    LAYERS = "layers"
    EXPERTS = "routed experts"
    DRAFT = "draft layer"
    DRAFT_EXPERTS = "draft layer's routed experts"


@dataclass(frozen=True, slots=True)
class Size:
    num_bytes: float = 0
    parameters: float = 0
    """Parameters of matrices."""

    def __add__(self, other: Size) -> Size:
        return Size(self.num_bytes + other.num_bytes, self.parameters + other.parameters)

    def __mul__(self, factor: float) -> Size:
        return Size(self.num_bytes * factor, self.parameters * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankWeights:
    """The first rank's weights, with one routed expert in each layer."""

    own: ModelConfig
    """The rank's part of the model."""
    rank: Rank
    sizes: dict[Part, Size]
    num_products: dict[str, int]
    """For each matrix that is stored in several runs, their number."""
    quantized: Mapping[str, torch.dtype | None]
    """Names of matrices, with the dtype of their codes."""

    @property
    def num_experts_held(self) -> int:
        return len(self.own.moe.experts) if self.own.moe else 0

    @property
    def num_bytes(self) -> int:
        """All that the rank holds."""
        experts = (Part.EXPERTS, Part.DRAFT_EXPERTS)
        beside = sum(map(len, rows_beside_head(self.own, self.rank)))
        return int(
            beside * self._row_of_head.num_bytes
            + sum(
                size.num_bytes * (self.num_experts_held if part in experts else 1)
                for part, size in self.sizes.items()
            )
        )

    @property
    def head(self) -> Size:
        return self._row_of_head * len(self.own.head_tokens)

    @property
    def draft_head(self) -> Size:
        """The rows of it that a draft reads."""
        if self.own.draft_tokens is None:
            return self.head
        return self._row_of_head * sum(map(len, share_of(self.own.draft_tokens, self.rank)))

    @property
    def _row_of_head(self) -> Size:
        """A tied head is the rank's rows of the embedding."""
        if self.own.tie_word_embeddings:
            return self.sizes[Part.EMBEDDING] * (1 / self.own.vocab_size)
        return self.sizes[Part.HEAD] * (1 / len(self.own.head_tokens))


def rank_weights(config: ModelConfig, rank: Rank, *, dtype: str, mtp: bool) -> RankWeights:
    """`config` is the whole model's. Raises InvalidConfig if the model has no such part."""
    config = replace(config, num_mtp_layers=config.num_mtp_layers if mtp else 0)
    own, first = config_of_rank(config, rank), _with_experts(config, 1)
    names = set(_names(first))
    _check_cuts(first, names, rank)
    held, plain = _with_experts(own, 1), WeightTable.of(_with_experts(own, 1), names)
    table = stored_table(held, names)
    itemsize = getattr(torch, dtype).itemsize
    sizes = dict.fromkeys(Part, Size())
    for name, target in table.targets.items():
        num_bytes = math.prod(target.shape) * (target.dtype.itemsize if target.dtype else itemsize)
        sizes[_part(name)] += Size(num_bytes)
    for name, target in plain.targets.items():
        if len(target.shape) > 1:
            sizes[_part(name)] += Size(0, math.prod(target.shape))
    return RankWeights(
        own=own,
        rank=rank,
        sizes=sizes,
        num_products={
            name: runs
            for name in plain.targets
            if (runs := sum(f"{name}.{number}" in table.targets for number in range(4)))
        },
        quantized={
            name: target.dtype
            for name, target in table.targets.items()
            if f"{name}.{SCALES}" in table.targets
        },
    )


def _with_experts(config: ModelConfig, num_experts: int) -> ModelConfig:
    if config.moe is None:
        return config
    return replace(config, mlp=replace(config.moe, held=range(num_experts)))


def _names(config: ModelConfig) -> Iterator[str]:
    """The names in a checkpoint, without prefix, with separate experts."""
    mtp = [f"{MTP_PREFIX}fc.weight"] if config.num_mtp_layers else []
    for name in WeightTable.of(config, mtp).pieces:
        yield name
        if config.quantization is not None:
            how = config.quantization.format_of(name.removesuffix(".weight"))
            yield from (f"{name}{ending}" for ending in _SCALES[how])


def _check_cuts(config: ModelConfig, names: set[str], rank: Rank) -> None:
    """As the loader does: a rank's columns must end where a scale does."""
    cuts, pieces = cuts_of(config, rank), stored_table(config, names).pieces
    for name, piece in pieces.items():
        if matrix := weight_of_scale(name):
            stored_cut(name, piece.shape, _columns(pieces[matrix]), cuts(matrix))


def _columns(codes: TensorPiece) -> int:
    return codes.shape[-1] * (2 if codes.dtypes == (torch.uint8,) else 1)


def _part(name: str) -> Part:
    is_draft, is_expert = name.startswith(MTP_PREFIX), ".experts." in name
    if name in ("embed", "lm_head"):
        return Part.EMBEDDING if name == "embed" else Part.HEAD
    if is_draft:
        return Part.DRAFT_EXPERTS if is_expert else Part.DRAFT
    return Part.EXPERTS if is_expert else Part.LAYERS
