"""The cases that `operators` measures, operator by operator."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import Case
from segue.kernels.rms_norm import triton as rms_norm


def all_cases(shape: Shape, device: str) -> Iterator[Case]:
    yield from _rms_norm(shape, device)


def _rms_norm(shape: Shape, device: str) -> Iterator[Case]:
    for num_tokens in (1, 64, 8192) if device != "cpu" else (3,):
        x_TH = torch.randn(num_tokens, shape.hidden_size, device=device).to(_dtype(device))
        weight_H = torch.zeros(shape.hidden_size, device=device)
        yield Case(
            operator="RMS norm",
            size=f"{num_tokens} x {shape.hidden_size}",
            run=partial(rms_norm.rms_norm, x_TH, weight_H, eps=1e-6),
            num_bytes=2 * x_TH.nbytes,
        )


def _dtype(device: str) -> torch.dtype:
    return torch.bfloat16 if device != "cpu" else torch.float32
