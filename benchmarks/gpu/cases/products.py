"""Products of few rows, as in a decode step: an MLP, a mixer's output, the head. With plain weights
next to cuBLAS's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.setup import Make, Setup
from benchmarks.gpu.cases.stored import (
    PLAIN,
    QUANTIZED,
    num_bytes,
    values_of,
    weight_of,
)
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import Case
from segue.kernels.product import reference, triton
from segue.kernels.product.reference import Epilogue
from segue.kernels.quantized_product import triton as quantized
from segue.model.config import DenseConfig

Matrix = tuple[str, int, int, Epilogue]
"""Its name, outputs, columns, and what follows the product."""


def product_cases(setup: Setup) -> Iterator[Make]:
    shape = setup.shape
    hidden_size, values = shape.hidden_size, shape.num_v_heads * shape.gdn_dim
    matrices = [
        ("head", shape.vocab_size, hidden_size, Epilogue.FLOAT32),
        *(mlp_matrices(shape) if isinstance(shape.mlp, DenseConfig) else ()),
        ("a mixer's output", hidden_size, values, Epilogue.NONE),
    ]
    for num_rows in setup.sizes.few_rows:
        for matrix in matrices:
            yield partial(_product, setup, PLAIN, num_rows, matrix)


def quantized_cases(setup: Setup) -> Iterator[Make]:
    for num_rows in setup.sizes.quantized_rows:
        for matrix in mlp_matrices(setup.shape):
            for stored in QUANTIZED:
                yield partial(_product, setup, stored, num_rows, matrix)


def mlp_matrices(shape: Shape) -> tuple[Matrix, ...]:
    """The matrices of an MLP or of the shared expert."""
    width = (
        shape.mlp.intermediate_size
        if isinstance(shape.mlp, DenseConfig)
        else shape.mlp.shared_intermediate_size
    )
    return (
        ("gate and up", 2 * width, shape.hidden_size, Epilogue.SILU_GATE),
        ("down", shape.hidden_size, width, Epilogue.NONE),
    )


def _product(setup: Setup, stored: str, num_rows: int, matrix: Matrix) -> Case:
    name, num_outputs, num_columns, epilogue = matrix
    weight = weight_of(stored, setup, (), num_outputs, num_columns)
    x_TK = setup.randn(num_rows, num_columns)
    run: Callable[[], Tensor]
    peers: dict[str, Callable[[], object]]
    if stored == PLAIN:
        run = partial(triton.product, x_TK, weight[0], epilogue)
        peers = {"cuBLAS": partial(reference.product, x_TK, weight[0], epilogue)}
    else:
        run = partial(quantized.quantized_product, x_TK, weight, epilogue)
        peers = {"torch, plain": partial(F.linear, x_TK, setup.randn(num_outputs, num_columns))}

    def expected() -> Sequence[Tensor]:
        return [exact.product(x_TK, values_of(stored, weight), epilogue)]

    return Case(
        operator=f"product {'of few rows' if stored == PLAIN else f'in {stored}'}, {name}",
        size=f"{num_rows} x {num_columns} x {num_outputs}",
        run=run,
        exact=expected,
        limit=setup.limit,
        num_bytes=num_bytes(weight) + x_TK.nbytes,
        flops=2.0 * num_rows * num_columns * num_outputs,
        peers=peers,
    )
