"""The machine's ceiling: the bytes that a token must read, and the read bandwidth of its memory.

The bandwidth is measured in this process with as many threads as an engine has, in the two ways in
which decoding reads: a sum over one large array, and a matrix-vector product over matrices that
rotate, so that no cache holds the next one. The best pass of both counts: a ceiling is not a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness.samples import times_s
from segue.cache.layout import CacheLayout

_ROTATING_BYTES = 512 << 20
"""Far larger than a last-level cache."""
_MATRIX_SHAPE = (2048, 4096)
_PASSES = 5
_PRODUCT_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    sum_bytes_per_s: float
    gemv_bytes_per_s: float
    matmul_flops_per_s: float

    @property
    def read_bytes_per_s(self) -> float:
        return max(self.sum_bytes_per_s, self.gemv_bytes_per_s)


def measure_machine() -> Machine:
    """In float32, with torch's current number of threads. Takes about two seconds and 512 MiB."""
    rows, columns = _MATRIX_SHAPE
    num_matrices = _ROTATING_BYTES // (4 * rows * columns)
    matrices = torch.ones(num_matrices, rows, columns)
    vector = torch.ones(1, columns)
    left, right = torch.ones(1024, 1024), torch.ones(1024, 4096)

    def multiply_vector() -> None:
        for matrix in matrices:
            F.linear(vector, matrix)

    return Machine(
        sum_bytes_per_s=matrices.nbytes / best_s(lambda: matrices.sum()),
        gemv_bytes_per_s=matrices.nbytes / best_s(multiply_vector),
        matmul_flops_per_s=2 * left.numel() * right.shape[1] / best_s(lambda: left @ right),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    read_bytes_per_s: float
    bf16_row_bytes_per_s: float
    """The rate at which torch's bf16 product of one row reads."""
    bf16_flops_per_s: float
    float32_flops_per_s: float

    @property
    def flops_per_s(self) -> float:
        return max(self.bf16_flops_per_s, self.float32_flops_per_s)


@torch.inference_mode()
def measure_ceilings() -> Ceilings:
    """With torch's current number of threads. The bandwidth is the best of `measure_machine`'s and
    that of a product of one row in bf16."""
    machine = measure_machine()
    # 512 MiB in matrices of the model's shape, so that no cache holds the next one.
    matrices = torch.randn(64, 4096, 1024).bfloat16()
    row = torch.randn(1, 1024).bfloat16()
    rows = torch.randn(_PRODUCT_ROWS, 1024)
    flops = 2 * rows.numel() * 4096
    weight = matrices[0].float()

    def read_all() -> None:
        for matrix in matrices:
            F.linear(row, matrix)

    bf16_row = matrices.nbytes / best_s(read_all)
    return Ceilings(
        read_bytes_per_s=max(machine.read_bytes_per_s, bf16_row),
        bf16_row_bytes_per_s=bf16_row,
        bf16_flops_per_s=flops / best_s(lambda: F.linear(rows.bfloat16(), matrices[0])),
        float32_flops_per_s=max(
            machine.matmul_flops_per_s, flops / best_s(lambda: F.linear(rows, weight))
        ),
    )


def best_s(run: Callable[[], object]) -> float:
    with torch.inference_mode():
        return min(times_s(run, _PASSES))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """The cost of one token, independent of the implementation."""

    num_parameters: int
    weight_bytes_per_token: int
    """Every weight once, but only one row of an untied embedding, and only the experts that a token
    visits.
    """
    flops_per_prompt_token: int
    """Two for each weight of a layer. The head is computed only for the last token."""
    cache_bytes_per_token: int
    """The state, read and written."""
    kv_bytes_per_position: int
    """Read again for every later token."""

    def decode_tokens_per_s(self, read_bytes_per_s: float) -> float:
        """At batch 1, from the weights alone."""
        return read_bytes_per_s / self.weight_bytes_per_token


def model_cost(
    named_weights: Iterable[tuple[str, Tensor]],
    layout: CacheLayout,
    *,
    is_tied: bool,
    expert_share: float,
) -> ModelCost:
    """`expert_share`: visited experts over all experts; it has no effect without experts."""
    num_parameters, read_bytes, layer_parameters = 0, 0.0, 0.0
    for name, weight in named_weights:
        num_parameters += weight.numel()
        share = expert_share if ".experts." in name else 1.0
        is_embedding = name.endswith("embed_tokens.weight")
        if ".layers." in name:
            layer_parameters += share * weight.numel()
        if is_tied or not is_embedding:
            read_bytes += share * weight.nbytes
    return ModelCost(
        num_parameters=num_parameters,
        weight_bytes_per_token=round(read_bytes),
        flops_per_prompt_token=round(2 * layer_parameters),
        cache_bytes_per_token=2 * layout.slot_bytes,
        kv_bytes_per_position=layout.page_bytes // layout.page_tokens,
    )


def shipped_bytes(layout: CacheLayout, num_prompt_tokens: int) -> int:
    """The bytes that a turn must ship if the reader holds nothing: every page and one slot."""
    return layout.num_pages_for(num_prompt_tokens) * layout.page_bytes + layout.slot_bytes
