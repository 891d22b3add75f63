"""Loads a checkpoint's tensors into the model's, as specified by the table of weights."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.cache.allocation import on_huge_pages
from segue.model.checkpoint.headers import HEAD_PREFIX, reason_to_skip
from segue.model.checkpoint.tensors import CheckpointFiles, copy_mapped, open_checkpoint
from segue.model.checkpoint.typed_json import counted
from segue.model.config import ModelConfig
from segue.model.ranks.config import config_of_rank
from segue.model.ranks.cuts import Cut, cuts_of, stored_cut
from segue.model.weights.at_load import GROUPS, HEAD, NONE, format_at_load, num_groups
from segue.model.weights.draft_tokens import rows_beside_head
from segue.model.weights.quantization import WeightFormat, weight_of_scale, without_prefix
from segue.model.weights.rounding import rounded
from segue.model.weights.stored import SCALES, stored_table
from segue.model.weights.table import FLOAT_DTYPES, TensorPiece, WeightTable
from segue.parallel.rank import FIRST_OF_ONE, Rank

logger = logging.getLogger(__name__)


def load_weights(
    folder: Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    device: str,
    rank: Rank = FIRST_OF_ONE,
    quantization: str = NONE,
) -> dict[str, Tensor]:
    """Every target of the table, filled with the rank's part of the checkpoint in `folder`.

    `config` is the whole model's. Other parts of the files are not read. With a `quantization`,
    matrices are converted to codes and scales one by one. In a tied checkpoint "lm_head" is another
    name for "embed", or quantised from it. Without draft weights there is no target under "mtp.".
    Raises InvalidCheckpoint, with names, for a missing, unexpected or duplicated tensor, and if a
    shape or dtype does not fit the config.
    """
    with open_checkpoint(folder) as checkpoint:
        sources = _sources(checkpoint, config)
        whole = stored_table(config, sources, quantization)
        _refuse_differences(folder, sources, whole)
        _check_sources(checkpoint, sources, whole)
        own = config_of_rank(config, rank)
        table = whole if rank.count == 1 else stored_table(own, sources, quantization)
        cuts = partial(_cut_of, whole, cuts_of(config, rank))
        weights = _fill(checkpoint, sources, table, dtype, device, cuts)
        if rows := rows_beside_head(config, rank):
            drafts, of_rows = _draft_head(whole, rows), {0: rows}
            weights |= _fill(checkpoint, sources, drafts, dtype, device, lambda name: of_rows)
    if config.tie_word_embeddings:
        head, embed = own.head, weights["embed"]
        plain = embed if head is None else embed[head.start : head.stop]
        weights |= _stored("lm_head", plain, format_at_load(HEAD, quantization))
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


def _check_sources(
    checkpoint: CheckpointFiles, sources: Mapping[str, str], whole: WeightTable
) -> None:
    for known, name in sources.items():
        piece, tensor = whole.pieces[known], checkpoint.read(name)
        is_scalar = not piece.shape and tensor.numel() == 1
        has_shape = is_scalar or tuple(tensor.shape) == piece.shape
        if not has_shape or tensor.dtype not in piece.dtypes:
            kinds = "floats" if piece.dtypes == FLOAT_DTYPES else f"{piece.dtypes[0]}"
            raise InvalidCheckpoint(
                f"{checkpoint.folder}: {name} must be {kinds} of shape {piece.shape}, "
                f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
            )


def _cut_of(whole: WeightTable, cuts: Callable[[str], Cut], name: str) -> Cut:
    """The cut of a checkpoint's tensor, which may be codes or scales of a quantised matrix."""
    matrix = weight_of_scale(name) or name
    cut, piece, codes = cuts(matrix), whole.pieces[name], whole.pieces[matrix]
    how = whole.targets[codes.target].rounded_to
    if how in GROUPS:
        # Only a check: a rank's groups must be the whole model's, so that caches can be exchanged.
        by_group = (*codes.shape[:-1], num_groups(codes.shape[-1], how))
        stored_cut(name, by_group, codes.shape[-1], cut)
    if not cut or not codes.shape or codes.dtypes == FLOAT_DTYPES:
        return cut
    columns = codes.shape[-1] * (2 if codes.dtypes == (torch.uint8,) else 1)
    return stored_cut(name, piece.shape, columns, cut)


def _draft_head(whole: WeightTable, rows: Sequence[range]) -> WeightTable:
    """These rows of the head's tensors, as "draft_head"."""
    num_rows = sum(map(len, rows))
    pieces = {
        source: replace(piece, target=piece.target.replace("lm_head", "draft_head", 1))
        for source, piece in whole.pieces.items()
        if source.startswith(HEAD_PREFIX)
    }
    targets = {
        name.replace("lm_head", "draft_head", 1): replace(
            target, shape=(num_rows, *target.shape[1:])
        )
        for name, target in whole.targets.items()
        if name.startswith("lm_head")
    }
    return WeightTable(pieces, targets)


def _fill(
    checkpoint: CheckpointFiles,
    sources: Mapping[str, str],
    table: WeightTable,
    dtype: torch.dtype,
    device: str,
    cuts: Callable[[str], Cut],
) -> dict[str, Tensor]:
    pieces_of: dict[str, list[tuple[str, TensorPiece]]] = {}
    for known, piece in table.pieces.items():
        pieces_of.setdefault(piece.target, []).append((known, piece))
    weights: dict[str, Tensor] = {}
    for name, target in table.targets.items():
        tensor = torch.empty(target.shape, dtype=target.dtype or dtype, device=device)
        filled = on_huge_pages(tensor)
        for known, piece in pieces_of.get(name, ()):
            _copy(checkpoint.read(sources[known]), filled[piece.index], piece, cuts(known))
        weights |= _stored(name, filled, target.rounded_to)
    return weights


def _copy(tensor: Tensor, place: Tensor, piece: TensorPiece, cut: Cut) -> None:
    if not piece.shape:
        place.fill_(tensor.item())
    elif piece.repeats > 1:
        # Rows are repeated before they are cut: a rank's first row may be inside a block.
        of_columns = {axis: ranges for axis, ranges in cut.items() if axis > 0}
        of_rows = {axis: ranges for axis, ranges in cut.items() if axis == 0}
        repeated = sliced(tensor, of_columns).repeat_interleave(piece.repeats, 0)
        place.copy_(sliced(repeated, of_rows)[: len(place)])
    elif cut:
        place.copy_(sliced(tensor, cut).reshape(place.shape))
    else:
        copy_mapped(place, tensor.view(place.shape))


def _stored(name: str, weight: Tensor, how: WeightFormat) -> dict[str, Tensor]:
    """The model's tensors for a filled one: itself, or codes and scales."""
    if how is WeightFormat.PLAIN:
        return {name: weight}
    codes, scales = rounded(name, weight, how)
    return {name: codes, f"{name}.{SCALES}": scales}


def sliced(tensor: Tensor, cut: Cut) -> Tensor:
    """The cut part of a tensor; a view if each axis has one range."""
    for axis, ranges in cut.items():
        parts = [tensor.narrow(axis, part.start, len(part)) for part in ranges]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
    return tensor
