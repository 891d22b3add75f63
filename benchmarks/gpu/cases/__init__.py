"""The cases that the benchmark checks and measures, most important first."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.cases.attention import attention_cases
from benchmarks.gpu.cases.decode_step import decode_step_cases, sampling_cases
from benchmarks.gpu.cases.elementwise import elementwise_cases
from benchmarks.gpu.cases.experts import (
    expert_cases,
    mixed_cases,
    quantized_expert_cases,
    scaled_expert_cases,
)
from benchmarks.gpu.cases.gdn import gdn_cases, gdn_step_cases
from benchmarks.gpu.cases.products import product_cases, quantized_cases
from benchmarks.gpu.cases.scaled import codes_cases, scaled_cases
from benchmarks.gpu.cases.setup import Make, Setup
from segue.model.config import MoeConfig

_MIXTURES = (mixed_cases, expert_cases, quantized_expert_cases, scaled_expert_cases)


def all_cases(setup: Setup) -> Iterator[Make]:
    for cases in (
        gdn_cases,
        gdn_step_cases,
        attention_cases,
        *(_MIXTURES if isinstance(setup.shape.mlp, MoeConfig) else ()),
        product_cases,
        quantized_cases,
        scaled_cases,
        codes_cases,
        sampling_cases,
        decode_step_cases,
        elementwise_cases,
    ):
        yield from cases(setup)
