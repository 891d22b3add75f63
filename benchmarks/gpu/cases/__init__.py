"""The cases that the benchmark checks and measures, most important first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu.cases.attention import attention_cases
from benchmarks.gpu.cases.decode_step import decode_step_cases
from benchmarks.gpu.cases.elementwise import elementwise_cases
from benchmarks.gpu.cases.gdn import gdn_cases
from benchmarks.gpu.cases.gdn_step import gdn_step_cases
from benchmarks.gpu.cases.mixed import mixed_cases
from benchmarks.gpu.cases.moe import expert_cases
from benchmarks.gpu.cases.products import product_cases
from benchmarks.gpu.cases.quantized import quantized_cases, quantized_expert_cases
from benchmarks.gpu.cases.sampling import sampling_cases
from benchmarks.gpu.cases.scaled import codes_cases, scaled_cases, scaled_expert_cases
from benchmarks.gpu.cases.sizes import Sizes
from benchmarks.gpu.models import Shape
from benchmarks.gpu.operators import Case
from segue.model.config import MoeConfig

Make = Callable[[], Case]
"""Makes a case with its tensors, which may take many GB."""


def all_cases(shape: Shape, sizes: Sizes, device: str, dtype: torch.dtype) -> Iterator[Make]:
    where = (shape, sizes, device, dtype)
    yield from gdn_cases(*where)
    yield from gdn_step_cases(*where)
    yield from attention_cases(*where)
    if isinstance(shape.mlp, MoeConfig):
        yield from mixed_cases(*where)
        yield from expert_cases(*where)
        yield from quantized_expert_cases(*where)
        yield from scaled_expert_cases(*where)
    yield from product_cases(*where)
    yield from quantized_cases(*where)
    yield from scaled_cases(*where)
    yield from codes_cases(*where)
    yield from sampling_cases(*where)
    yield from decode_step_cases(*where)
    yield from elementwise_cases(*where)
