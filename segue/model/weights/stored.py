"""The table of weights for a checkpoint that stores some of them quantised.

A quantised matrix [N, K] of a module M becomes these tensors of the model, named like the plain
matrix:

    FP8     M.weight → name [N, K]        M.weight_scale_inv [N/128, K/128] → name.scales [N, K/128]
                                          or M.weight_scale, a scalar → name.scales [N, 1]
    NVFP4   M.weight → name [N, K/2]      M.weight_scale → name.scales [N, K/16]
                                          M.weight_scale_2, a scalar → name.row_scales [N]

FP8's scales are repeated for each row, which adds 3 % to the weight, so that matrices can be
stacked and cut at any row. In a stack of matrices with several formats, such as a Gated Delta Net's
input projections, each run with one format is a separate tensor: name.0, name.1, ...

If inputs are quantised too (`ModelConfig.quantizes_activations`), a matrix with an input scale has

    M.input_scale, a scalar of each matrix of the stack → name.input_scales, a vector

For FP8 in blocks it is empty: scales are computed from the inputs. The head has none.

A plain matrix that is quantised at load has the same names:

    INT8    M.weight → name [N, K]        and name.scales [N, K/128]
    INT4    M.weight → name [N, K/2]      and name.scales [N, K/32]
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch

from segue.api.errors import InvalidCheckpoint
from segue.model.checkpoint.headers import INPUT_SCALE
from segue.model.checkpoint.typed_json import counted
from segue.model.config import ModelConfig
from segue.model.weights.at_load import GROUPS, NONE, format_at_load
from segue.model.weights.quantization import (
    FP8_BLOCK,
    NVFP4_GROUP,
    Quantization,
    WeightFormat,
)
from segue.model.weights.table import TensorPiece, TensorTarget, WeightTable

logger = logging.getLogger(__name__)

FP8 = torch.float8_e4m3fn
SCALES, ROW_SCALES, INPUT_SCALES = "scales", "row_scales", "input_scales"
Pieces = Sequence[tuple[str, TensorPiece]]


def stored_table(
    config: ModelConfig, names: Collection[str], quantization: str = NONE
) -> WeightTable:
    """The table for a checkpoint with these tensor names, prefix removed. `quantization`: the
    format at load of a plain checkpoint. Raises InvalidCheckpoint if the experts of a layer have
    different formats."""
    plain = WeightTable.of(config, names)
    if config.quantization is None and quantization == NONE:
        return plain
    if config.quantization is None:
        formats = {name: format_at_load(name, quantization) for name in plain.pieces}
    else:
        formats = {name: stored_format(name, names) for name in plain.pieces}
        _log_differences(config.quantization, formats)
    table = WeightTable()
    in_place = sorted(plain.pieces.items(), key=_place)
    for target, pieces in groupby(in_place, key=lambda item: item[1].target):
        _add(table, plain.targets[target], list(pieces), formats)
    if config.quantizes_activations:
        _add_input_scales(table, names)
    return table


def stored_format(name: str, names: Collection[str]) -> WeightFormat:
    """A weight's format, which follows from the scales beside it."""
    if f"{name}_scale_2" in names:
        return WeightFormat.NVFP4
    if f"{name}_scale_inv" in names:
        return WeightFormat.FP8_BLOCKS
    if f"{name}_scale" in names:
        return WeightFormat.FP8
    return WeightFormat.PLAIN


def _place(item: tuple[str, TensorPiece]) -> tuple[str, list[int]]:
    """By target, then by position in it."""
    _, piece = item
    starts = [part.start or 0 if isinstance(part, slice) else part for part in piece.index]
    return piece.target, starts


def _add(
    table: WeightTable, target: TensorTarget, pieces: Pieces, formats: Mapping[str, WeightFormat]
) -> None:
    """Adds all matrices of one target of the plain table."""
    runs = [(how, list(run)) for how, run in groupby(pieces, key=lambda item: formats[item[0]])]
    name = pieces[0][1].target
    if len(runs) == 1:
        _add_run(table, target, name, *runs[0])
        return
    if len(target.shape) > 2:
        raise InvalidCheckpoint(f"the experts under {name} must all be stored alike")
    for number, (how, run) in enumerate(runs):
        rows = sum(piece.shape[0] for _, piece in run)
        part = replace(target, shape=(rows, *target.shape[1:]))
        _add_run(table, part, f"{name}.{number}", how, list(_from_row_0(run)))


def _from_row_0(run: Pieces) -> Iterator[tuple[str, TensorPiece]]:
    first = 0
    for source, piece in run:
        end = first + piece.shape[0]
        yield source, replace(piece, index=(slice(first, end),))
        first = end


def _add_run(
    table: WeightTable, target: TensorTarget, name: str, how: WeightFormat, run: Pieces
) -> None:
    """Adds matrices of one format, as one tensor with its scales."""
    *rows, columns = target.shape
    match how:
        case WeightFormat.PLAIN | WeightFormat.INT8 | WeightFormat.INT4:
            stored, dtype, scales = columns, target.dtype, None
        case WeightFormat.FP8:
            stored, dtype, scales = columns, FP8, (1, torch.float32)
        case WeightFormat.FP8_BLOCKS:
            stored, dtype, scales = columns, FP8, (-(-columns // FP8_BLOCK), torch.float32)
        case WeightFormat.NVFP4:
            stored, dtype, scales = columns // 2, torch.uint8, (columns // NVFP4_GROUP, FP8)
            table.targets[f"{name}.{ROW_SCALES}"] = TensorTarget(
                shape=tuple(rows), dtype=torch.float32
            )
    rounded_to = how if how in GROUPS else WeightFormat.PLAIN
    table.targets[name] = TensorTarget(shape=(*rows, stored), dtype=dtype, rounded_to=rounded_to)
    if scales is not None:
        num_scales, scale_dtype = scales
        table.targets[f"{name}.{SCALES}"] = TensorTarget(
            shape=(*rows, num_scales), dtype=scale_dtype
        )
    for source, piece in run:
        table.pieces.update(_stored(source, replace(piece, target=name), how))


def _stored(source: str, piece: TensorPiece, how: WeightFormat) -> dict[str, TensorPiece]:
    """The stored tensors of a matrix, with their places."""
    if how is WeightFormat.PLAIN or how in GROUPS:
        return {source: piece}
    num_rows, columns = piece.shape
    scales = replace(piece, target=f"{piece.target}.{SCALES}")
    codes = replace(piece, dtypes=(FP8,))
    if how is WeightFormat.FP8:
        return {source: codes, f"{source}_scale": replace(scales, shape=(), repeats=num_rows)}
    if how is WeightFormat.FP8_BLOCKS:
        shape = (-(-num_rows // FP8_BLOCK), -(-columns // FP8_BLOCK))
        by_block = replace(scales, shape=shape, repeats=FP8_BLOCK)
        return {source: codes, f"{source}_scale_inv": by_block}
    by_row = replace(piece, shape=(), target=f"{piece.target}.{ROW_SCALES}", repeats=num_rows)
    return {
        source: replace(piece, shape=(num_rows, columns // 2), dtypes=(torch.uint8,)),
        f"{source}_scale": replace(scales, shape=(num_rows, columns // NVFP4_GROUP), dtypes=(FP8,)),
        f"{source}_scale_2": by_row,
    }


def _add_input_scales(table: WeightTable, names: Collection[str]) -> None:
    sources_of: dict[str, list[str]] = {}
    for source, piece in table.pieces.items():
        if f"{piece.target}.{SCALES}" in table.targets and piece.target != "lm_head":
            sources_of.setdefault(piece.target, []).append(source)
    for target, sources in sources_of.items():
        scales = [f"{source.removesuffix('.weight')}{INPUT_SCALE}" for source in sources]
        given = [name for name in scales if name in names]
        if given or any(f"{source}_scale_inv" in names for source in sources):
            table.scales(f"{target}.{INPUT_SCALES}", given)


def _log_differences(settings: Quantization, formats: Mapping[str, WeightFormat]) -> None:
    """Published configurations are not always correct; the scales in the files are."""
    differing = sorted(
        name
        for name, stored in formats.items()
        if name.endswith(".weight")
        and settings.format_of(name.removesuffix(".weight")) is not stored
    )
    if differing:
        logger.warning(
            "config.json declares other formats for some weights; using those of the files",
            extra={"weights": counted(differing, "differ")},
        )
