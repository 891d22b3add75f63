"""The published models' sizes on a GPU: right against float64, and the same bits thirty times.

On Blackwell two kinds of loops were reported to differ from run to run: see docs/kernels.md.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.cases import all_cases
from benchmarks.gpu.cases.setup import Setup, Sizes
from benchmarks.gpu.models import SHAPES, Shape
from benchmarks.gpu.operators import REPEATS, checked

SIZES = Sizes(attention_prefill=((0, 8192), (50_000, 800)))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_served_sizes_are_right_and_have_equal_bits_thirty_times(shape: Shape) -> None:
    for make in all_cases(Setup(shape, SIZES, "cuda", torch.bfloat16)):
        case = make()
        error, is_repeatable = checked(case, REPEATS)

        what = f"{case.operator}, {case.size}"
        assert error <= case.limit, f"{what}: relative error {error:.1e}"
        assert is_repeatable, f"{what}: bits differ from run to run"
