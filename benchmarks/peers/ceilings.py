"""The machine's ceilings, measured in this process: read bandwidth, and products per second.

The bandwidth is the best of three ways to read weights: a sum and a product of one row in float32
(benchmarks/serving/ceiling.py), and a product of one row in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks.serving.ceiling import best_s, measure_machine

_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    read_bytes_per_s: float
    bf16_row_bytes_per_s: float
    """What torch's bf16 product of one row reads."""
    bf16_flops_per_s: float
    float32_flops_per_s: float

    @property
    def flops_per_s(self) -> float:
        return max(self.bf16_flops_per_s, self.float32_flops_per_s)


@torch.inference_mode()
def measure_ceilings() -> Ceilings:
    """With torch's current number of threads."""
    machine = measure_machine()
    # 512 MiB in matrices of the model's shape, so that no cache holds the next one.
    matrices = torch.randn(64, 4096, 1024).bfloat16()
    row = torch.randn(1, 1024).bfloat16()
    rows = torch.randn(_ROWS, 1024)
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
