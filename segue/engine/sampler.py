"""Logits to tokens. The same sequence gives the same token in any batch, on any worker.

    logits ─ bias ─ penalties ┬─ temperature 0 ─────────────────────── argmax ─▶ token
                              └─ temperature ─ top-k, top-p, min-p ─ + noise ─ argmax ─▶ token

The argmax of log-probabilities plus Gumbel noise is a draw from them; with noise that is a function
of (seed, position, token), greedy is the limit of no noise. Equal values go to the lowest id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segue.engine.filters import filter_tokens
from segue.engine.noise import Draw, gumbel
from segue.types import SampledToken, SamplingParams, TokenLogprob

# Letters of shapes: N = rows, V = vocabulary, K = tokens that may be drawn.


class SequenceSampler:
    """How one sequence is sampled: its parameters, and the token counts that penalties need.

    Counts are tensors that `observe` keeps up to date; without penalties nothing is kept.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        vocab_size: int,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int] = (),
        device: str | torch.device = "cpu",
    ) -> None:
        """`answer_ids` are those that exist already, where a turn goes on from another worker.

        `vocab_size` is the logits'. Ids must be inside it: `segue.text.limits` has checked.
        """
        self.params = params
        self._bias: tuple[Tensor, Tensor] | None = None
        self._seen_V: Tensor | None = None
        self._answer_counts_V: Tensor | None = None
        if params.logit_bias:
            bias_ids = torch.tensor(list(params.logit_bias), device=device)
            biases = torch.tensor(
                list(params.logit_bias.values()), dtype=torch.float32, device=device
            )
            self._bias = (bias_ids, biases)
        if params.repetition_penalty != 1.0:
            self._seen_V = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen_V[torch.tensor(list(prompt_ids), dtype=torch.int64, device=device)] = True
        if params.presence_penalty or params.frequency_penalty:
            self._answer_counts_V = torch.zeros(vocab_size, dtype=torch.float32, device=device)
        self.takes_logits_as_they_are = (
            self._bias is None and self._seen_V is None and self._answer_counts_V is None
        )
        self.takes_plain_argmax = params.is_greedy and self.takes_logits_as_they_are
        for token_id in answer_ids:
            self.observe(token_id)

    def observe(self, token_id: int) -> None:
        """Counts a token that became part of the answer. To be called once for each."""
        if self._seen_V is not None:
            self._seen_V[token_id] = True
        if self._answer_counts_V is not None:
            self._answer_counts_V[token_id] += 1

    def adjust(self, logits_V: Tensor, pending: Sequence[int] = ()) -> Tensor:
        """`logits_V` with bias and penalties; the argument itself is left as it is.

        `pending` tokens count as if they had been observed.
        """
        if self.takes_logits_as_they_are:
            return logits_V
        scores_V = logits_V.clone()
        seen_V, answer_counts_V = self._counts_with(pending)
        if self._bias is not None:
            ids, biases = self._bias
            scores_V[ids] += biases
        if seen_V is not None:
            penalty = self.params.repetition_penalty
            penalised_V = torch.where(scores_V < 0, scores_V * penalty, scores_V / penalty)
            scores_V = torch.where(seen_V, penalised_V, scores_V)
        if answer_counts_V is not None:
            scores_V = scores_V - self.params.frequency_penalty * answer_counts_V
            scores_V -= self.params.presence_penalty * (answer_counts_V > 0)
        return scores_V

    def _counts_with(self, pending: Sequence[int]) -> tuple[Tensor | None, Tensor | None]:
        seen_V, answer_counts_V = self._seen_V, self._answer_counts_V
        if pending and seen_V is not None:
            seen_V = seen_V.clone()
            seen_V[list(pending)] = True
        if pending and answer_counts_V is not None:
            answer_counts_V = answer_counts_V.clone()
            for token_id in pending:
                answer_counts_V[token_id] += 1
        return seen_V, answer_counts_V


@dataclass(frozen=True, slots=True)
class SamplerRow:
    """One row of logits: whose it is, and the absolute position that its token takes.

    A draft and the trunk's own token for the same position are drawn from rows that are equal: the
    noise is the same too, so the draft is right as often as the two layers nearly agree.
    """

    sequence: SequenceSampler
    position: int
    pending: tuple[int, ...] = ()
    """Drafts that are taken to be part of the answer already."""


def sample(logits_NV: Tensor, rows: Sequence[SamplerRow]) -> list[SampledToken]:
    """One token per row of float32 logits. Observes nothing: the caller decides what it keeps."""
    tokens = [SampledToken(token_id=token_id) for token_id in sample_ids(logits_NV, rows)]
    for index, row in enumerate(rows):
        if row.sequence.params.logprobs is not None:
            tokens[index] = _with_logprobs(
                tokens[index], logits_NV[index], row.sequence.params.logprobs
            )
    return tokens


def sample_ids(logits_NV: Tensor, rows: Sequence[SamplerRow]) -> list[int]:
    """As `sample`, without log-probabilities: what drafts need."""
    chosen_N = logits_NV.argmax(dim=-1)
    to_draw: list[int] = []
    for index, row in enumerate(rows):
        if row.sequence.takes_plain_argmax:
            continue
        if row.sequence.params.is_greedy:
            chosen_N[index] = row.sequence.adjust(logits_NV[index], row.pending).argmax()
        else:
            to_draw.append(index)
    if to_draw:
        drawn = [(logits_NV[index], rows[index]) for index in to_draw]
        chosen_N[torch.tensor(to_draw, device=chosen_N.device)] = _draw_tokens(drawn)
    ids: list[int] = chosen_N.tolist()
    return ids


def _draw_tokens(drawn: Sequence[tuple[Tensor, SamplerRow]]) -> Tensor:
    """The ids drawn from each row's logits, [N]. Rows share nothing but the call for noise."""
    draws, scores = [], []
    for logits_V, row in drawn:
        params = row.sequence.params
        ids_K, scores_K = filter_tokens(row.sequence.adjust(logits_V, row.pending), params)
        draws.append(Draw(params.seed, row.position, ids_K))
        scores.append(scores_K)
    return torch.stack(
        [
            draw.token_ids_N[(scores_K + noise_K).argmax()]
            for draw, scores_K, noise_K in zip(draws, scores, gumbel(draws), strict=True)
        ]
    )


def _with_logprobs(token: SampledToken, logits_V: Tensor, num_top: int) -> SampledToken:
    """Under the distribution as the model gave it: before bias, penalties and temperature."""
    logprobs_V = logits_V.log_softmax(dim=-1)
    values, ids = logprobs_V.topk(min(num_top, logprobs_V.numel()))
    return replace(
        token,
        logprob=float(logprobs_V[token.token_id]),
        top_logprobs=tuple(
            TokenLogprob(token_id=token_id, logprob=value)
            for token_id, value in zip(ids.tolist(), values.tolist(), strict=True)
        ),
    )
