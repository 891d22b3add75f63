"""Two ways to accept a sampled draft, on the same text: shared noise, and rejection sampling.

Rejection sampling draws the draft from q and keeps it with probability min(1, p / q). It thus
accepts a share of Σ min(p, q), which no rule can exceed. Segue draws both from the same noise and
accepts if they are equal. This accepts slightly less, but the text equals the one without drafts,
token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.harness.turns import decode_chunk, prompt_chunks
from benchmarks.mtp.models import PAGE_TOKENS, Text
from segue.api.types import Sampling
from segue.engine.batch import DraftStart
from segue.engine.runner import ModelRunner
from segue.engine.sampler import SamplerRow, SequenceSampler, sample_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class CouplingRow:
    temperature: float
    num_positions: int
    num_seeds: int
    rejection_share: float
    """Expected: the mean of Σ min(p, q)."""
    shared_noise_share: float
    """Measured: how often both draws are the same token."""


@dataclass(frozen=True, slots=True)
class _Both:
    """The logits of the trunk (p) and the MTP layer (q) at the same positions."""

    positions: list[int]
    p_NV: Tensor
    q_NV: Tensor


def measure_coupling(
    runner: ModelRunner, texts: Sequence[Text], *, temperatures: Sequence[float], num_seeds: int
) -> tuple[CouplingRow, ...]:
    """For first drafts, along the given text: the context is not the model's own."""
    both = _both(runner, texts)
    return tuple(_row(both, temperature, num_seeds) for temperature in temperatures)


def _both(runner: ModelRunner, texts: Sequence[Text]) -> _Both:
    positions, of_p, of_q = list[int](), list[Tensor](), list[Tensor]()
    for text in texts:
        pages = range(-(-(len(text.prompt) + len(text.answer)) // PAGE_TOKENS))
        for chunk in prompt_chunks(text.prompt, pages, chunk_tokens=len(text.prompt)):
            runner.forward([chunk])
        for at, token_id in enumerate(text.answer[:-1], len(text.prompt)):
            drafter = runner.drafter([DraftStart(position=at, page_ids=pages, slot=0)])
            of_q.append(drafter.step([token_id]))
            of_p.append(runner.forward([decode_chunk(token_id, at, pages)]))
            positions.append(at + 1)
    return _Both(positions, torch.cat(of_p), torch.cat(of_q))


def _row(both: _Both, temperature: float, num_seeds: int) -> CouplingRow:
    p_NV, q_NV = ((logits / temperature).softmax(-1) for logits in (both.p_NV, both.q_NV))
    num_equal = 0
    for seed in range(num_seeds):
        sampler = SequenceSampler(
            Sampling(temperature=temperature, seed=seed),
            vocab_size=both.p_NV.shape[1],
            prompt_ids=(),
        )
        rows = [SamplerRow(sampler, position) for position in both.positions]
        drafts, targets = sample_ids(both.q_NV, rows), sample_ids(both.p_NV, rows)
        num_equal += sum(ours == theirs for ours, theirs in zip(drafts, targets, strict=True))
    return CouplingRow(
        temperature=temperature,
        num_positions=len(both.positions),
        num_seeds=num_seeds,
        rejection_share=float(torch.minimum(p_NV, q_NV).sum(-1).mean()),
        shared_noise_share=num_equal / (num_seeds * len(both.positions)),
    )
