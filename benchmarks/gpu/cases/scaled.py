"""Products of many rows with quantised weights and quantised inputs, by our kernels and by the way
that this GPU uses, next to products of the same weight with plain inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.products import Matrix, mlp_matrices
from benchmarks.gpu.cases.setup import Make, Setup
from benchmarks.gpu.cases.stored import FP8, NVFP4, QUANTIZED, num_bytes, values_of, weight_of
from benchmarks.gpu.operators import Case
from segue.kernels import quantized_product
from segue.kernels.quantized_product.reference import Format
from segue.kernels.scaled_product import reference, triton, ways
from segue.kernels.scaled_product.ways import FIRST, ScaledPath

FLOPS_OF_BFLOAT16 = {FP8: 2.0, NVFP4: 4.0}
"""The FLOPs that tensor cores compute in the time of one in bfloat16, with which floors are
measured."""
_CHECKED_ROWS = 32
as_rounded = reference.as_quantized


def codes_cases(setup: Setup) -> Iterator[Make]:
    for num_rows in setup.sizes.scaled_rows:
        for stored in QUANTIZED:
            for has_scale in {False, True} if stored == FP8 else {True}:
                yield partial(_codes, setup, stored, num_rows, has_scale=has_scale)


def scaled_cases(setup: Setup) -> Iterator[Make]:
    for num_rows in setup.sizes.scaled_rows:
        for matrix in mlp_matrices(setup.shape):
            for stored in multiplied_on(setup.device):
                yield partial(_product, setup, stored, num_rows, matrix)


def multiplied_on(device: str) -> Sequence[str]:
    """The formats whose codes this device's tensor cores multiply; the interpreter takes both."""
    if device != "cuda":
        return QUANTIZED
    capability = torch.cuda.get_device_capability()
    return [stored for stored in QUANTIZED if capability >= FIRST[Format[stored]]]


def input_scale_of(x: Tensor, stored: str) -> Tensor | None:
    """As calibration would find it; None for FP8, whose blocks have scales of their own."""
    return None if stored == FP8 else _calibrated(x, stored)


def _calibrated(x: Tensor, stored: str) -> Tensor:
    largest = reference.LARGEST_E4M3 * (reference.LARGEST_E2M1 if stored == NVFP4 else 1.0)
    return x.float().abs().amax() / largest


def _codes(setup: Setup, stored: str, num_rows: int, *, has_scale: bool) -> Case:
    num_columns = setup.shape.hidden_size
    x_TK = setup.randn(num_rows, num_columns)
    codes, scales, *rest = weight_of(stored, setup, (), 8, num_columns)
    scale = _calibrated(x_TK, stored) if has_scale else None
    has_one = stored == FP8 and has_scale
    weight = (codes, scales[:, :1] if has_one else scales, *rest)

    def seen(out: tuple[Tensor, Tensor, Tensor | None]) -> Sequence[Tensor]:
        codes, scales, whole = out
        parts = (codes, scales) if whole is None else (codes, scales, whole.expand(num_rows))
        return [values_of(stored, parts)]

    return Case(
        operator=f"inputs to {stored}{', one scale' if has_one else ''}",
        size=f"{num_rows} x {num_columns}",
        run=partial(triton.quantized, x_TK, weight, scale),
        exact=lambda: [as_rounded(x_TK, weight, scale).double()],
        seen=seen,
        limit=setup.limit,
        num_bytes=x_TK.nbytes + x_TK.numel() * (33 / 32 if stored == FP8 else 9 / 16),
    )


def _product(setup: Setup, stored: str, num_rows: int, matrix: Matrix) -> Case:
    name, num_outputs, num_columns, epilogue = matrix
    weight = weight_of(stored, setup, (), num_outputs, num_columns)
    x_TK, plain_NK = setup.randn(num_rows, num_columns), setup.randn(num_outputs, num_columns)
    scale = input_scale_of(x_TK, stored)
    rows = list(exact.some_rows(num_rows, _CHECKED_ROWS))

    def expected() -> Sequence[Tensor]:
        return [
            exact.product(
                as_rounded(x_TK[rows], weight, scale), values_of(stored, weight), epilogue
            )
        ]

    peers: dict[str, Callable[[], object]] = {
        "torch, plain": partial(F.linear, x_TK, plain_NK),
        "plain inputs": partial(quantized_product.quantized_product, x_TK, weight, epilogue),
    }
    if ways.way_on(x_TK, weight) is ScaledPath.LIBRARY:
        peers["torch, quantised"] = partial(ways.scaled_product, x_TK, weight, scale, epilogue)
    return Case(
        operator=f"product in {stored} of quantised inputs, {name}",
        size=f"{num_rows} x {num_columns} x {num_outputs}",
        run=partial(triton.scaled_product, x_TK, weight, scale, epilogue),
        exact=expected,
        seen=lambda out: [out[rows]],
        limit=setup.limit,
        num_bytes=num_bytes(weight) + x_TK.nbytes,
        flops=2.0 * num_rows * num_columns * num_outputs / FLOPS_OF_BFLOAT16[stored],
        peers=peers,
    )
