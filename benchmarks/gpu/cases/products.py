"""Products of few rows with plain weights, next to cuBLAS's: what a decode step reads of an MLP, of
the mixers' outputs and of the head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.sizes import Sizes
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import LIMITS, Case, Check
from segue.kernels.product import reference, triton
from segue.kernels.product.epilogue import Epilogue
from segue.model.config import DenseConfig


def product_cases(
    shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype
) -> Iterator[partial[Case]]:
    hidden_size, values = shape.hidden_size, shape.num_v_heads * shape.gdn_dim
    matrices = [("head", shape.vocab_size, hidden_size, Epilogue.FLOAT32)]
    if isinstance(shape.mlp, DenseConfig):
        width = shape.mlp.intermediate_size
        matrices.append(("gate and up", 2 * width, hidden_size, Epilogue.SILU_GATE))
        matrices.append(("down", hidden_size, width, Epilogue.NONE))
    matrices.append(("a mixer's output", hidden_size, values, Epilogue.NONE))
    for num_rows in sizes.few_rows:
        for name, num_outputs, num_columns, epilogue in matrices:
            yield partial(
                _product, name, num_rows, num_outputs, num_columns, epilogue, device, dtype
            )


def _product(
    name: str,
    num_rows: int,
    num_outputs: int,
    num_columns: int,
    epilogue: Epilogue,
    device: str,
    dtype: torch.dtype,
) -> Case:
    x_TK = torch.randn(num_rows, num_columns, device=device, dtype=dtype)
    weight_NK = torch.randn(num_outputs, num_columns, device=device, dtype=dtype)
    weight_NK *= num_columns**-0.5

    def expected() -> Sequence[Tensor]:
        return [exact.product(x_TK, weight_NK.double(), epilogue)]

    return Case(
        operator=f"product of few rows, {name}",
        size=f"{num_rows} x {num_columns} x {num_outputs}",
        run=partial(triton.product, x_TK, weight_NK, epilogue),
        check=Check(exact=expected, seen=lambda out: [out], limit=LIMITS[dtype]),
        num_bytes=weight_NK.nbytes + x_TK.nbytes,
        flops=2.0 * num_rows * weight_NK.numel(),
        peers={"cuBLAS": partial(reference.product, x_TK, weight_NK, epilogue)},
    )
