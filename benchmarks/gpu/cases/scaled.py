"""Products of many rows with quantised weights whose inputs are quantised too: by our kernels, and
if this GPU's way is another one by that, next to products of the same weight with plain inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.cases import exact
from benchmarks.gpu.cases.moe import CHECKED_TOKENS, num_touched
from benchmarks.gpu.cases.quantized import STORED, Weight, matrices_of, values_of, weight_of
from benchmarks.gpu.cases.sizes import Sizes
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import LIMITS, Case, Check
from segue.kernels import quantized_product
from segue.kernels.product.epilogue import Epilogue
from segue.kernels.quantized_product.reference import Format
from segue.kernels.scaled_product import reference, triton, triton_experts, ways
from segue.kernels.scaled_product.ways import FIRST, Way
from segue.model.config import MoeConfig

FLOPS_OF_BFLOAT16 = {"FP8": 2.0, "NVFP4": 4.0}
"""That tensor cores compute in the time of one: floors are measured with bfloat16."""
_CHECKED_ROWS = 32


def codes_cases(
    shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype
) -> Iterator[partial[Case]]:
    for num_rows in sizes.scaled_rows:
        for stored in STORED:
            for has_scale in {False, True} if stored == "FP8" else {True}:
                size = (num_rows, shape.hidden_size)
                yield partial(_codes, stored, has_scale, size, device, dtype)


def scaled_cases(
    shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype
) -> Iterator[partial[Case]]:
    for num_rows in sizes.scaled_rows:
        for name, num_outputs, num_columns, epilogue in matrices_of(shape):
            for stored in multiplied_on(device):
                size = (num_rows, num_columns, num_outputs)
                yield partial(_product, name, stored, size, epilogue, device, dtype)


def scaled_expert_cases(
    shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype
) -> Iterator[partial[Case]]:
    assert isinstance(shape.mlp, MoeConfig)
    for num_tokens in sizes.scaled_rows:
        for stored in multiplied_on(device):
            yield partial(_experts, stored, shape.hidden_size, shape.mlp, num_tokens, device, dtype)


def multiplied_on(device: str) -> Sequence[str]:
    """The formats whose codes this device's tensor cores multiply; the interpreter takes both."""
    if device != "cuda":
        return STORED
    capability = torch.cuda.get_device_capability()
    return [stored for stored in STORED if capability >= FIRST[Format[stored]]]


def input_scale_of(x: Tensor, stored: str) -> Tensor:
    """As calibration would find it."""
    largest = reference.LARGEST_E4M3 * (reference.LARGEST_E2M1 if stored == "NVFP4" else 1.0)
    return x.float().abs().amax() / largest


def _codes(
    stored: str, has_scale: bool, size: tuple[int, int], device: str, dtype: torch.dtype
) -> Case:
    num_rows, num_columns = size
    x_TK = torch.randn(num_rows, num_columns, device=device, dtype=dtype)
    codes, scales, *rest = weight_of(stored, (), 8, num_columns, device)
    scale = input_scale_of(x_TK, stored) if has_scale else None
    weight = (codes, scales[:, :1] if stored == "FP8" and has_scale else scales, *rest)

    def seen(out: tuple[Tensor, Tensor, Tensor | None]) -> Sequence[Tensor]:
        codes, scales, whole = out
        parts = (codes, scales) if whole is None else (codes, scales, whole.expand(num_rows))
        return [values_of(stored, parts)]

    return Case(
        operator=f"inputs to {stored}{', one scale' if stored == 'FP8' and has_scale else ''}",
        size=f"{num_rows} x {num_columns}",
        run=partial(triton.quantized, x_TK, weight, scale),
        check=Check(
            exact=lambda: [reference.as_quantized(x_TK, weight, scale).double()],
            seen=seen,
            limit=LIMITS[dtype],
        ),
        num_bytes=x_TK.nbytes + x_TK.numel() * (33 / 32 if stored == "FP8" else 9 / 16),
    )


def _product(
    name: str,
    stored: str,
    size: tuple[int, int, int],
    epilogue: Epilogue,
    device: str,
    dtype: torch.dtype,
) -> Case:
    num_rows, num_columns, num_outputs = size
    weight = weight_of(stored, (), num_outputs, num_columns, device)
    x_TK = torch.randn(num_rows, num_columns, device=device, dtype=dtype)
    plain_NK = torch.randn(num_outputs, num_columns, device=device, dtype=dtype)
    scale = None if stored == "FP8" else input_scale_of(x_TK, stored)
    rows = list(exact.some_rows(num_rows, _CHECKED_ROWS))

    def expected() -> Sequence[Tensor]:
        rounded = reference.as_quantized(x_TK[rows], weight, scale)
        return [exact.product(rounded, values_of(stored, weight), epilogue)]

    plain = quantized_product.PRODUCTS[Format[stored]]
    peers: dict[str, Callable[[], object]] = {
        "torch, plain": partial(F.linear, x_TK, plain_NK),
        "plain inputs": partial(plain, x_TK, *weight, epilogue=epilogue),
    }
    if ways.way_on(x_TK, weight) is Way.LIBRARY:
        peers["torch, quantised"] = partial(ways.scaled_product, x_TK, weight, scale, epilogue)
    return Case(
        operator=f"product in {stored} of quantised inputs, {name}",
        size=f"{num_rows} x {num_columns} x {num_outputs}",
        run=partial(triton.scaled_product, x_TK, weight, scale, epilogue),
        check=Check(exact=expected, seen=lambda out: [out[rows]], limit=LIMITS[dtype]),
        num_bytes=sum(part.nbytes for part in weight) + x_TK.nbytes,
        flops=2.0 * num_rows * num_columns * num_outputs / FLOPS_OF_BFLOAT16[stored],
        peers=peers,
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
    scale = None if stored == "FP8" else input_scale_of(x_TH, stored)
    rows = list(exact.some_rows(num_tokens, CHECKED_TOKENS))

    def rounded(x: Tensor) -> Tensor:
        return reference.as_quantized(x.to(dtype)[None], gate_up, scale)[0]

    def matrix(weight: Weight, expert: int) -> Tensor:
        return values_of(stored, tuple(part[expert] for part in weight))

    def expected() -> Sequence[Tensor]:
        return exact.experts(
            x_TH[rows],
            router_logits_TE[rows],
            partial(matrix, gate_up),
            partial(matrix, down),
            each,
            rounded=(rounded, rounded),
        )

    chosen = num_touched(router_logits_TE, each)
    return Case(
        operator=f"experts in {stored} of quantised inputs",
        size=f"{num_tokens} x {each} of {num_experts}, {chosen} touched",
        run=partial(
            triton_experts.routed_experts,
            x_TH,
            router_logits_TE,
            gate_up,
            down,
            (scale, scale),
            experts_per_token=each,
        ),
        check=Check(
            exact=expected, seen=lambda out: [out[0][rows], out[1][rows]], limit=LIMITS[dtype]
        ),
        num_bytes=chosen / num_experts * sum(part.nbytes for part in (*gate_up, *down))
        + x_TH.nbytes * (1 + each),
        flops=6.0 * num_tokens * each * width * hidden_size / FLOPS_OF_BFLOAT16[stored],
        peers={
            "plain inputs": partial(
                quantized_product.routed_experts,
                x_TH,
                router_logits_TE,
                gate_up,
                down,
                experts_per_token=each,
            )
        },
    )
