"""Logits to tokens. A sequence gets the same token in any batch, on any worker.

The argmax of log-probabilities plus Gumbel noise is a sample from the distribution. The noise is a
function of (seed, position, token); greedy is the case without noise.
`segue/kernels/sampling/reference.py` defines the computation and its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

import numpy as np
import torch
from torch import Tensor

from segue.api.types import SampledToken, Sampling, TokenLogprob
from segue.engine.device.stream import to_device
from segue.kernels import NO_SLOT, sampling
from segue.kernels.sampling import (
    IN_PROMPT,
    MAX_FEW,
    NO_TOKEN,
    Ledger,
    SamplingFeatures,
    SamplingRows,
)

_MAX_SCORES = 1 << 21
"""Limit of scores per operator call. Each call copies a ledger, which should fit into the CPU
cache."""

_MAX_TOP_K = 1 << 31
"""Larger than any vocabulary."""

_MASKS = SamplingFeatures(masks=True)

# Letters of shapes: N = rows, V = vocabulary, S = sequences with penalties or a bias.


class SequenceSampler:
    """One sequence's sampling parameters, and its slot in the operator's ledger. The slot holds the
    token counts for penalties, which `observe` updates, and the bias. Both are empty if the
    sequence uses neither."""

    def __init__(
        self,
        params: Sampling,
        *,
        vocab_size: int,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int] = (),
        device: str | torch.device = "cpu",
    ) -> None:
        """`answer_ids`: tokens already sampled, if the turn continues from another worker.
        `vocab_size`: that of the logits. All ids must be below it; `segue.text.limits` checks it.
        """
        self.params = params
        self.needs = needs_of(params)
        self.takes_plain_argmax = self.needs == SamplingFeatures()
        self.has_slot = self.needs.bias or self.needs.penalties
        size = vocab_size if self.has_slot else 0
        self.counts_V = torch.zeros(size, dtype=torch.int32, device=device)
        self.bias_V = torch.zeros(size, dtype=torch.float32, device=device)
        if self.has_slot:
            fill_slot(self.counts_V, self.bias_V, params, prompt_ids, answer_ids)

    def observe(self, token_id: int) -> None:
        """Counts a token of the answer. Must be called once per token."""
        if self.needs.penalties:
            self.counts_V[token_id] += 1


@dataclass(frozen=True, slots=True)
class SamplerRow:
    """One row of logits: its sequence, and the absolute position of the token to sample.

    A draft and the trunk's own token for the same position use equal rows, and so the same noise:
    the draft is accepted whenever the two layers nearly agree.
    """

    sequence: SequenceSampler
    position: int
    pending: tuple[int, ...] = ()
    """Drafts that count as tokens of the answer."""
    mask: np.ndarray | None = None
    """The tokens that may be sampled, as bits of int32 words. None: all."""

    @property
    def needs(self) -> SamplingFeatures:
        return self.sequence.needs if self.mask is None else self.sequence.needs | _MASKS


def sample(logits_NV: Tensor, rows: Sequence[SamplerRow]) -> list[SampledToken]:
    """One token per row of float32 logits. The caller decides which tokens to keep, and calls
    `observe` for them."""
    tokens = [SampledToken(token_id=token_id) for token_id in sample_ids(logits_NV, rows)]
    rows_by_num_top: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        if row.sequence.params.logprobs is not None:
            rows_by_num_top.setdefault(row.sequence.params.logprobs, []).append(index)
    for num_top, indexes in rows_by_num_top.items():
        chosen = [tokens[index] for index in indexes]
        with_logprobs = _with_logprobs(chosen, logits_NV[indexes], num_top)
        for index, token in zip(indexes, with_logprobs, strict=True):
            tokens[index] = token
    return tokens


def sample_ids(logits_NV: Tensor, rows: Sequence[SamplerRow]) -> list[int]:
    """As `sample`, without log-probabilities, which drafts do not need."""
    if all(row.sequence.takes_plain_argmax for row in rows):
        return _best_ids(logits_NV, rows)
    ids: list[int] = []
    num_at_once = max(_MAX_SCORES // logits_NV.shape[1], 1)
    for start in range(0, len(rows), num_at_once):
        block = slice(start, start + num_at_once)
        needs = reduce(or_, {row.needs for row in rows[block]})
        packed, ledger = pack_rows(rows[block], needs, logits_NV.device)
        ids += sampling.sample(logits_NV[block], packed, needs, ledger).tolist()
    return ids


def _best_ids(logits_NV: Tensor, rows: Sequence[SamplerRow]) -> list[int]:
    """Greedy. Only rows whose mask excludes the best token are copied: few, if the model follows
    the grammar."""
    best: list[int] = logits_NV.argmax(dim=-1).tolist()
    masked = [
        index
        for index, (row, token_id) in enumerate(zip(rows, best, strict=True))
        if row.mask is not None
        and not row.mask.view(np.uint32)[token_id // 32] >> token_id % 32 & 1
    ]
    if masked:
        masks = np.stack([mask for index in masked if (mask := rows[index].mask) is not None])
        masks_MW = torch.from_numpy(masks).to(logits_NV.device)
        ids = sampling.best_allowed(logits_NV[masked], masks_MW).tolist()
        for index, token_id in zip(masked, ids, strict=True):
            best[index] = token_id
    return best


def needs_of(params: Sampling) -> SamplingFeatures:
    draws = not params.is_greedy
    draws_few = draws and 0 < params.top_k <= MAX_FEW
    return SamplingFeatures(
        bias=bool(params.logit_bias),
        penalties=params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0,
        draws=draws and not draws_few,
        draws_few=draws_few,
        top_k=draws and params.top_k > 0,
        top_p=draws and params.top_p < 1.0,
        min_p=draws and params.min_p > 0.0,
    )


def integers_of(params: Sampling, slot: int, mask: int) -> tuple[int, int, int, int]:
    """Seed, top-k, slot and mask of a row. `mask`: its index among the masks."""
    return params.seed, min(params.top_k, _MAX_TOP_K), slot, mask


def numbers_of(params: Sampling) -> tuple[float, ...]:
    """Float64 parameters of a row: temperature, top-p, min-p and the three penalties."""
    return (
        params.temperature,
        params.top_p,
        params.min_p,
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
    )


def fill_slot(
    counts_V: Tensor,
    bias_V: Tensor,
    params: Sampling,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
) -> None:
    """Fills a zeroed slot for a sequence with this prompt and answer. In stream order, without
    waiting."""
    device = counts_V.device
    if params.logit_bias:
        values = to_device(list(params.logit_bias.values()), device, dtype=torch.float32)
        bias_V.index_copy_(0, to_device(list(params.logit_bias), device), values)
    if needs_of(params).penalties:
        counts_V.index_fill_(0, to_device(prompt_ids, device), IN_PROMPT)
        answer = to_device(answer_ids, device)
        counts_V.scatter_add_(0, answer, torch.ones_like(answer, dtype=torch.int32))


def pack_rows(
    rows: Sequence[SamplerRow], needs: SamplingFeatures, device: torch.device
) -> tuple[SamplingRows, Ledger | None]:
    """The operator's input. The ledger is a copy, with a slot for each sequence that has one."""
    counted = {id(row.sequence): row.sequence for row in rows if row.sequence.has_slot}
    slots = dict(zip(counted, range(len(counted)), strict=True))
    masks = [row.mask for row in rows if row.mask is not None]
    places = iter(range(len(masks)))
    integers, numbers = [], []
    for row in rows:
        slot = slots.get(id(row.sequence), NO_SLOT)
        mask = NO_SLOT if row.mask is None else next(places)
        integers.append((*integers_of(row.sequence.params, slot, mask), row.position))
        numbers.append(numbers_of(row.sequence.params))
    seed_N, top_k_N, slot_N, mask_N, position_N = torch.tensor(
        list(zip(*integers, strict=True)), device=device
    )
    temperature_N, top_p_N, min_p_N, repetition_N, presence_N, frequency_N = torch.tensor(
        list(zip(*numbers, strict=True)), dtype=torch.float64, device=device
    )
    num_pending = max(len(row.pending) for row in rows) if needs.penalties else 0
    fill = [NO_TOKEN] * num_pending
    pending = [[*row.pending, *fill][:num_pending] for row in rows]
    packed = SamplingRows(
        seed_R=seed_N,
        position_R=position_N,
        top_k_R=top_k_N,
        slot_R=slot_N,
        mask_R=mask_N,
        temperature_R=temperature_N,
        top_p_R=top_p_N,
        min_p_R=min_p_N,
        repetition_penalty_R=repetition_N,
        presence_penalty_R=presence_N,
        frequency_penalty_R=frequency_N,
        pending_RP=torch.tensor(pending, dtype=torch.int64, device=device),
    )
    if not counted and not masks:
        return packed, None
    return packed, _ledger(list(counted.values()), masks, needs, device)


def _ledger(
    sequences: Sequence[SequenceSampler],
    masks: Sequence[np.ndarray],
    needs: SamplingFeatures,
    device: torch.device,
) -> Ledger:
    counts = [s.counts_V for s in sequences]
    biases = [s.bias_V for s in sequences]
    return Ledger(
        counts_SV=torch.stack(counts) if counts and needs.penalties else None,
        bias_SV=torch.stack(biases) if biases and needs.bias else None,
        masks_MW=torch.from_numpy(np.stack(masks)).to(device) if masks else None,
    )


def _with_logprobs(
    tokens: Sequence[SampledToken], logits_NV: Tensor, num_top: int
) -> list[SampledToken]:
    """Log-probabilities of the model's raw logits: before bias, penalties and temperature."""
    logprobs_NV = logits_NV.log_softmax(dim=-1)
    best = logprobs_NV.topk(min(num_top, logprobs_NV.shape[1]))
    ids_N1 = torch.tensor([[token.token_id] for token in tokens], device=logits_NV.device)
    return [
        replace(
            token,
            logprob=logprob,
            top_logprobs=tuple(
                TokenLogprob(token_id=token_id, logprob=value)
                for token_id, value in zip(ids, values, strict=True)
            ),
        )
        for token, (logprob,), ids, values in zip(
            tokens,
            logprobs_NV.gather(1, ids_N1).tolist(),
            best.indices.tolist(),
            best.values.tolist(),
            strict=True,
        )
    ]
