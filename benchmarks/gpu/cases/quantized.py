"""Products with weights in FP8 and NVFP4, next to bfloat16's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.moe import CHECKED_TOKENS, num_touched
from benchmarks.gpu.cases.sizes import Sizes
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import LIMITS, Case, Check
from segue.kernels.product.epilogue import Epilogue
from segue.kernels.quantized_product import triton, triton_experts
from segue.kernels.quantized_product.reference import (
    FP8_COLUMNS,
    NVFP4_COLUMNS,
    fp8_values,
    nvfp4_values,
)
from segue.model.config import DenseConfig, MoeConfig

STORED = ("FP8", "NVFP4")
Weight = tuple[Tensor, ...]


def quantized_cases(
    shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype
) -> Iterator[partial[Case]]:
    for num_rows in sizes.quantized_rows:
        for name, num_outputs, num_columns, epilogue in matrices_of(shape):
            for stored in STORED:
                yield partial(
                    _product,
                    name,
                    stored,
                    num_rows,
                    num_outputs,
                    num_columns,
                    epilogue,
                    device,
                    dtype,
                )


def matrices_of(shape: Shape) -> tuple[tuple[str, int, int, Epilogue], ...]:
    """Gate and up, and down, of an MLP or of the shared expert: name, N, K and what follows."""
    width = (
        shape.mlp.intermediate_size
        if isinstance(shape.mlp, DenseConfig)
        else shape.mlp.shared_intermediate_size
    )
    return (
        ("gate and up", 2 * width, shape.hidden_size, Epilogue.SILU_GATE),
        ("down", shape.hidden_size, width, Epilogue.NONE),
    )


def quantized_expert_cases(
    shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype
) -> Iterator[partial[Case]]:
    assert isinstance(shape.mlp, MoeConfig)
    for num_tokens in sizes.expert_tokens:
        for stored in STORED:
            yield partial(_experts, stored, shape.hidden_size, shape.mlp, num_tokens, device, dtype)


def _product(
    name: str,
    stored: str,
    num_rows: int,
    num_outputs: int,
    num_columns: int,
    epilogue: Epilogue,
    device: str,
    dtype: torch.dtype,
) -> Case:
    weight = weight_of(stored, (), num_outputs, num_columns, device)
    x_TK = torch.randn(num_rows, num_columns, device=device, dtype=dtype)
    plain_NK = torch.randn(num_outputs, num_columns, device=device, dtype=dtype)
    multiply: Callable[..., Tensor] = (
        triton.fp8_product if stored == "FP8" else triton.nvfp4_product
    )

    def expected() -> Sequence[Tensor]:
        return [exact.product(x_TK, values_of(stored, weight), epilogue)]

    return Case(
        operator=f"product in {stored}, {name}",
        size=f"{num_rows} x {num_columns} x {num_outputs}",
        run=partial(multiply, x_TK, *weight, epilogue),
        check=Check(exact=expected, seen=lambda out: [out], limit=LIMITS[dtype]),
        num_bytes=sum(part.nbytes for part in weight) + x_TK.nbytes,
        peers={"torch, plain": partial(F.linear, x_TK, plain_NK)},
    )


def _experts(
    stored: str,
    hidden_size: int,
    config: MoeConfig,
    num_tokens: int,
    device: str,
    dtype: torch.dtype,
) -> Case:
    num_experts, width, each = (
        config.num_experts,
        config.intermediate_size,
        config.experts_per_token,
    )
    gate_up = weight_of(stored, (num_experts,), 2 * width, hidden_size, device)
    down = weight_of(stored, (num_experts,), hidden_size, width, device)
    x_TH = torch.randn(num_tokens, hidden_size, device=device, dtype=dtype)
    router_logits_TE = torch.randn(num_tokens, num_experts, device=device, dtype=dtype)
    chosen = num_touched(router_logits_TE, each)
    rows = list(exact.some_rows(num_tokens, CHECKED_TOKENS))

    def matrix(weight: Weight, expert: int) -> Tensor:
        return values_of(stored, tuple(part[expert] for part in weight))

    def expected() -> Sequence[Tensor]:
        return exact.experts(
            x_TH[rows],
            router_logits_TE[rows],
            partial(matrix, gate_up),
            partial(matrix, down),
            each,
        )

    return Case(
        operator=f"experts in {stored}",
        size=f"{num_tokens} x {each} of {num_experts}, {chosen} touched",
        run=partial(
            triton_experts.routed_experts,
            x_TH,
            router_logits_TE,
            gate_up,
            down,
            experts_per_token=each,
        ),
        check=Check(
            exact=expected, seen=lambda out: [out[0][rows], out[1][rows]], limit=LIMITS[dtype]
        ),
        num_bytes=chosen / num_experts * sum(part.nbytes for part in (*gate_up, *down))
        + x_TH.nbytes * (1 + each),
        flops=6.0 * num_tokens * each * width * hidden_size,
    )


def weight_of(
    stored: str, leading: tuple[int, ...], num_outputs: int, num_columns: int, device: str
) -> Weight:
    """Random codes without infinities and NaN; outputs are about as large as inputs."""
    size = num_columns**-0.5
    if stored == "FP8":
        codes_of = partial(torch.randint, size=(*leading, num_outputs, num_columns), device=device)
        codes = codes_of(0, 120, dtype=torch.uint8) | codes_of(0, 2, dtype=torch.uint8) << 7
        num_scales = -(-num_columns // FP8_COLUMNS)
        scales = torch.rand(*leading, num_outputs, num_scales, device=device) + 0.5
        return codes.view(torch.float8_e4m3fn), scales * (size / 64)
    codes = torch.randint(
        0, 256, (*leading, num_outputs, num_columns // 2), dtype=torch.uint8, device=device
    )
    num_scales = num_columns // NVFP4_COLUMNS
    scales = (torch.rand(*leading, num_outputs, num_scales, device=device) + 0.5).to(
        torch.float8_e4m3fn
    )
    return codes, scales, torch.full((*leading, num_outputs), size / 3, device=device)


def values_of(stored: str, weight: Weight) -> Tensor:
    """In float64."""
    convert: Callable[..., Tensor] = fp8_values if stored == "FP8" else nvfp4_values
    return convert(*weight, torch.float64)
