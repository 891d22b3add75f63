"""Load a checkpoint's tensors into the places that the table of weights names."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.cache.huge_pages import on_huge_pages
from segue.model.checkpoint.headers import reason_to_skip
from segue.model.checkpoint.tensors import CheckpointFiles, copy_mapped, open_checkpoint
from segue.model.checkpoint.typed_json import counted
from segue.model.config import ModelConfig
from segue.model.weights.quantization import without_prefix
from segue.model.weights.stored import stored_table
from segue.model.weights.table import FLOAT_DTYPES, TensorPiece, WeightTable

logger = logging.getLogger(__name__)


def load_weights(
    folder: Path, config: ModelConfig, *, dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    """Every target of the table, filled from the checkpoint in `folder`.

    In a tied checkpoint "lm_head" is another name for "embed"; without draft weights there is no
    target under "mtp.". Raises InvalidCheckpoint, naming the tensors, if one is missing,
    unexpected or duplicated, or if its shape or kind does not fit the config.
    """
    with open_checkpoint(folder) as checkpoint:
        sources = _sources(checkpoint, config)
        table = stored_table(config, sources)
        _refuse_differences(folder, sources, table)
        weights = _fill(checkpoint, sources, table, dtype, device)
    if config.tie_word_embeddings:
        weights["lm_head"] = weights["embed"]
    return weights


def _sources(checkpoint: CheckpointFiles, config: ModelConfig) -> dict[str, str]:
    """Name without prefix → name in the checkpoint, for tensors that are not skipped."""
    sources: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    for name in checkpoint.files:
        if reason := reason_to_skip(name, config):
            skipped[reason] += 1
            continue
        known = without_prefix(name)
        if known in sources:
            raise InvalidCheckpoint(
                f"{checkpoint.folder}: {sources[known]} and {name} are the same weight"
            )
        sources[known] = name
    if skipped:
        logger.info("skipped checkpoint tensors", extra={"num_tensors": dict(skipped)})
    return sources


def _refuse_differences(folder: Path, sources: Mapping[str, str], table: WeightTable) -> None:
    missing = sorted(table.pieces.keys() - sources.keys())
    unexpected = sorted(sources[name] for name in sources.keys() - table.pieces.keys())
    if missing or unexpected:
        raise InvalidCheckpoint(
            f"{folder}: the weights do not fit config.json: "
            f"{counted(missing, 'missing')}, {counted(unexpected, 'unexpected')}"
        )


def _fill(
    checkpoint: CheckpointFiles,
    sources: Mapping[str, str],
    table: WeightTable,
    dtype: torch.dtype,
    device: str,
) -> dict[str, Tensor]:
    weights = {
        name: on_huge_pages(torch.empty(target.shape, dtype=target.dtype or dtype, device=device))
        for name, target in table.targets.items()
    }
    for known, name in sources.items():
        piece, tensor = table.pieces[known], checkpoint.read(name)
        if not _fits(tensor, piece):
            kinds = "floats" if piece.dtypes == FLOAT_DTYPES else f"{piece.dtypes[0]}"
            raise InvalidCheckpoint(
                f"{checkpoint.folder}: {name} must be {kinds} of shape {piece.shape}, "
                f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
        place = weights[piece.target][piece.index]
        if not piece.shape:
            place.fill_(tensor.item())
        elif piece.repeats > 1:
            place.copy_(tensor.repeat_interleave(piece.repeats, 0)[: len(place)])
        else:
            copy_mapped(place, tensor.view(place.shape))
    return weights


def _fits(tensor: Tensor, piece: TensorPiece) -> bool:
    is_scalar = not piece.shape and tensor.numel() == 1
    return tensor.dtype in piece.dtypes and (is_scalar or tuple(tensor.shape) == piece.shape)
