"""Prompts through a whole model with random weights, compared with its roofline. See
also `steps`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.flashinfer import prompt_attention
from benchmarks.gpu.models import Shape
from benchmarks.gpu.passes.costs import ModelCosts
from benchmarks.gpu.timing import Ceilings, median_s
from benchmarks.harness.turns import prompt_chunks
from segue.cache.tensors import CacheTensors
from segue.engine.batch import PrefillChunk
from segue.engine.device.buffers import ScratchUnits
from segue.engine.runner import ModelRunner
from segue.kernels.paged_attention.flashinfer.prompts import PromptAttention
from segue.model.cache_layout import cache_layout

PAGE_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Sizes of one run."""

    prompt_tokens: tuple[int, ...] = (8192, 50_000)
    chunk_tokens: int = 8192
    batch_sizes: tuple[int, ...] = (1, 8, 64)
    context: int = 3840
    """Tokens of each sequence before a decode step."""
    num_drafts: int = 3
    num_steps: int = 40
    handoff_chunk_tokens: int = 2048
    """The part of the longest prompt that is computed before it ships."""


DRY_WORKLOAD = Workload(
    prompt_tokens=(150,),
    chunk_tokens=128,
    batch_sizes=(1, 2),
    context=20,
    num_drafts=2,
    num_steps=3,
    handoff_chunk_tokens=64,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRow:
    model: str
    kind: str
    """prefill and by what, or decode with or without graphs, and the number of drafts."""
    num_tokens: int
    """Tokens of the prompt, or sequences in the step."""
    seconds: float
    """For the whole prompt, or for one step."""
    tokens_per_s: float
    """For a step, one token per sequence; drafts do not count, as weights are random."""
    floor_s: float
    """From bytes and FLOPs, at the measured ceilings."""
    is_right: bool = True
    """Whether a captured step's tokens are those of an eager one."""

    @property
    def share(self) -> float:
        return self.floor_s / self.seconds


def runner_of(
    shape: Shape,
    weights: Mapping[str, Tensor],
    *,
    num_pages: int,
    num_slots: int,
    device: str,
    prompts: PromptAttention | None = None,
) -> ModelRunner:
    """A runner with its own cache and scratch units; the weights may be shared."""
    config = shape.config()
    dtype = "bfloat16" if device != "cpu" else "float32"
    layout = cache_layout(
        config, model_id=shape.name, page_tokens=PAGE_TOKENS, kv_dtype=dtype, with_mtp=True
    )
    tensors = CacheTensors.allocate(
        layout, num_pages=num_pages + 1, num_slots=num_slots + 1, device=device
    )
    scratch = ScratchUnits(num_pages, num_slots)
    return ModelRunner(config, dict(weights), layout, tensors, device, scratch, prompts=prompts)


def chunks_of(
    num_tokens: int, chunk_tokens: int, *, vocab_size: int, slot: int = 0
) -> Iterator[PrefillChunk]:
    """A prompt of random tokens on the first pages."""
    generator = torch.Generator().manual_seed(num_tokens)
    ids = torch.randint(vocab_size, (num_tokens,), generator=generator).tolist()
    pages = list(range(-(-num_tokens // PAGE_TOKENS)))
    return prompt_chunks(ids, pages, chunk_tokens=chunk_tokens, slot=slot)


def prefill(
    shape: Shape,
    weights: Mapping[str, Tensor],
    workload: Workload,
    ceilings: Ceilings,
    device: str,
    *,
    by_flashinfer: bool = False,
) -> Iterator[PassRow]:
    """`by_flashinfer`: with FlashInfer's attention."""
    num_pages = max(workload.prompt_tokens) // PAGE_TOKENS + 1
    prompts = None
    if by_flashinfer:
        prompts = prompt_attention(shape, PAGE_TOKENS, device, torch.bfloat16)
    runner = runner_of(
        shape, weights, num_pages=num_pages, num_slots=1, device=device, prompts=prompts
    )
    costs = ModelCosts.of(runner.config, weights, runner.layout)
    for num_tokens in workload.prompt_tokens:
        chunks = list(chunks_of(num_tokens, workload.chunk_tokens, vocab_size=shape.vocab_size))
        seconds = median_s(partial(compute, runner, chunks), device, cold=False, captured=False)
        yield PassRow(
            model=shape.name,
            kind="prefill, attention by FlashInfer" if by_flashinfer else "prefill",
            num_tokens=num_tokens,
            seconds=seconds,
            tokens_per_s=num_tokens / seconds,
            floor_s=ceilings.floor_s(costs.dense_bytes, costs.prefill_flops(num_tokens)),
        )


def compute(runner: ModelRunner, chunks: Sequence[PrefillChunk]) -> None:
    for chunk in chunks:
        runner.forward([chunk])
