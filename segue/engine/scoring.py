"""Log-probabilities of known tokens, such as a prompt's, from the pass that computes them.

Logits of a whole prompt would not fit into memory: with a vocabulary of 248,000 tokens a row takes
a megabyte. So they are processed some rows at a time, and only requested values are stored.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from segue.api.turn import PromptLogprobs
from segue.engine.batch import Chunk, PrefillChunk

# Letters of shapes: B = rows of one block, S = scored tokens, K = alternatives, V = vocabulary.


@dataclass(slots=True, kw_only=True)
class TokenScores:
    """Scores of consecutive tokens, with the fields of `PromptLogprobs`."""

    logprobs: array[float] = field(default_factory=lambda: array("f"))
    ranks: array[int] = field(default_factory=lambda: array("I"))
    top_ids: array[int] = field(default_factory=lambda: array("I"))
    top_logprobs: array[float] = field(default_factory=lambda: array("f"))

    def extend(self, later: TokenScores) -> None:
        self.logprobs += later.logprobs
        self.ranks += later.ranks
        self.top_ids += later.top_ids
        self.top_logprobs += later.top_logprobs

    def of_prompt(self, token_ids: array[int]) -> PromptLogprobs:
        return PromptLogprobs(
            token_ids=token_ids,
            logprobs=self.logprobs,
            ranks=self.ranks,
            num_top=len(self.top_ids) // max(len(self.logprobs), 1),
            top_ids=self.top_ids,
            top_logprobs=self.top_logprobs,
        )


class Scoring:
    """Scores the tokens of one pass, from their logits block by block, in order."""

    def __init__(self, chunks: Sequence[Chunk], device: str) -> None:
        self._scored = [
            (index, chunk)
            for index, chunk in enumerate(chunks)
            if isinstance(chunk, PrefillChunk) and chunk.scored_ids
        ]
        self._num_top = max((chunk.num_top for _, chunk in self._scored), default=0)
        ids = list(chain.from_iterable(chunk.scored_ids for _, chunk in self._scored))
        self._ids_S = torch.tensor(ids, dtype=torch.int64, device=device)
        self._num_taken = 0
        self._blocks: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def take(self, logits_BV: Tensor) -> None:
        """In stream order, without waiting for the device."""
        num_rows, vocab_size = logits_BV.shape
        ids_B1 = self._ids_S[self._num_taken : self._num_taken + num_rows, None]
        self._num_taken += num_rows
        # From the raw logits, before bias, penalties and temperature, as for an answer's tokens.
        logprobs_BV = logits_BV.log_softmax(dim=-1)
        logprobs_B1 = logprobs_BV.gather(1, ids_B1)
        ranks_B = (logprobs_BV > logprobs_B1).sum(dim=1) + 1
        best = logprobs_BV.topk(min(self._num_top, vocab_size))
        self._blocks.append((logprobs_B1[:, 0], ranks_B, best.indices, best.values))

    def of_chunks(self) -> Iterator[tuple[int, TokenScores]]:
        """The index and the scores of each chunk that has any."""
        if not self._blocks:
            return
        columns = [torch.cat(blocks).cpu() for blocks in zip(*self._blocks, strict=True)]
        logprobs_S, ranks_S, top_ids_SK, top_logprobs_SK = columns
        first = 0
        for index, chunk in self._scored:
            own = slice(first, first + len(chunk.scored_ids))
            first = own.stop
            yield (
                index,
                TokenScores(
                    logprobs=_floats(logprobs_S[own]),
                    ranks=_integers(ranks_S[own]),
                    top_ids=_integers(top_ids_SK[own, : chunk.num_top]),
                    top_logprobs=_floats(top_logprobs_SK[own, : chunk.num_top]),
                ),
            )


def _floats(values: Tensor) -> array[float]:
    return array("f", values.float().numpy().tobytes())


def _integers(values: Tensor) -> array[int]:
    return array("I", values.int().numpy().tobytes())
