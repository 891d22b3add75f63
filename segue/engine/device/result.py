"""A step's result for the host: one vector, so that it takes one copy.

    [num_new B][num_drafted B][tokens T]                        and, if log-probabilities are wanted
    [of the tokens T][of the best ones T · L][the best ones T · L]      as bits of float64, and ids

B sequences, J draft rounds, T = J · B rows round by round, V vocabulary, L best tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.api.types import MAX_LOGPROBS, SampledToken, TokenLogprob
from segue.engine.device.buckets import StepShape


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step's result for one sequence."""

    tokens: Sequence[SampledToken]
    """The answer's new tokens; none if it had already ended."""
    num_drafted: int


def with_logprobs(result: Tensor, targets_T: Tensor, logits_TV: Tensor) -> Tensor:
    """`result`, as `segue.kernels.decode_step` returns it, with log-probabilities appended."""
    # Of the model's raw logits: before bias, penalties and temperature.
    logprobs_TV = logits_TV.log_softmax(dim=-1)
    best_TL, ids_TL = logprobs_TV.topk(min(MAX_LOGPROBS, logits_TV.shape[1]))
    chosen_T1 = logprobs_TV.gather(1, targets_T.unsqueeze(1))
    return torch.cat([result, _bits(chosen_T1), _bits(best_TL), ids_TL.flatten()])


def unpack(values: Tensor, shape: StepShape, num_logprobs: Sequence[int | None]) -> list[Stepped]:
    """Results of the first `len(num_logprobs)` sequences; the rest is padding. `values` is on the
    host. `num_logprobs`: the number of best tokens for each sequence."""
    num, num_rows = shape.num_sequences, shape.num_rounds * shape.num_sequences
    num_new, num_drafted = values[:num].tolist(), values[num : 2 * num].tolist()
    tokens = values[2 * num : 2 * num + num_rows].tolist()
    logprobs = _Logprobs(values[2 * num + num_rows :], num_rows) if shape.with_logprobs else None
    stepped = []
    for i, num_best in enumerate(num_logprobs):
        rows = [j * num + i for j in range(num_new[i])]
        new_tokens = [
            SampledToken(token_id=tokens[row])
            if num_best is None or logprobs is None
            else logprobs.of(row, tokens[row], num_best)
            for row in rows
        ]
        stepped.append(Stepped(new_tokens, num_drafted[i]))
    return stepped


class _Logprobs:
    def __init__(self, values: Tensor, num_rows: int) -> None:
        num_best = (len(values) // num_rows - 1) // 2
        chosen_T, best, ids = torch.split(
            values, [num_rows, num_rows * num_best, num_rows * num_best]
        )
        self._chosen_T = chosen_T.view(torch.float64)
        self._best_TL = best.view(torch.float64).view(num_rows, num_best)
        self._ids_TL = ids.view(num_rows, num_best)

    def of(self, row: int, token_id: int, num_best: int) -> SampledToken:
        best = zip(
            self._ids_TL[row, :num_best].tolist(),
            self._best_TL[row, :num_best].tolist(),
            strict=True,
        )
        return SampledToken(
            token_id=token_id,
            logprob=float(self._chosen_T[row]),
            top_logprobs=tuple(TokenLogprob(token_id=i, logprob=value) for i, value in best),
        )


def _bits(values: Tensor) -> Tensor:
    return values.double().flatten().view(torch.int64)
