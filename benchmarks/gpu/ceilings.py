"""This device's ceilings, measured on the spot: a large copy, and a large matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.gpu.timing import median_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    copy_bytes_per_s: float
    """Bytes read plus bytes written of a device-to-device copy."""
    matmul_flops_per_s: float
    """bf16 with float32 accumulation, on random data: zeros run faster."""

    def floor_s(self, num_bytes: float, flops: float) -> float:
        """No implementation that moves and computes this much is faster."""
        return max(num_bytes / self.copy_bytes_per_s, flops / self.matmul_flops_per_s)


def measure(device: str) -> Ceilings:
    size, copied = (8192, 4 << 30) if device != "cpu" else (256, 1 << 20)
    source = torch.ones(copied, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    return Ceilings(
        copy_bytes_per_s=2 * copied / median_s(lambda: target.copy_(source), device, cold=False),
        matmul_flops_per_s=2 * size**3 / median_s(lambda: left @ right, device, cold=False),
    )
