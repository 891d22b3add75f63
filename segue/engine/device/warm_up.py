"""The first passes of a worker, before its first turn: kernels are compiled or chosen, and memory
that passes use is allocated, while no client waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from segue.engine.batch import DecodeChunk, PrefillChunk
from segue.engine.runner import ModelRunner

PROMPT_TOKENS = 64
"""More rows than what counts as few for the choice of products, and more than one page."""


def first_passes(runner: ModelRunner, *, pages: Sequence[int], slot: int, num_tokens: int) -> None:
    """A prompt of `num_tokens` and a step after it, in `pages` and `slot`, which no sequence owns.
    Nothing else may use the runner meanwhile.
    """
    token_ids = [token % runner.config.vocab_size for token in range(num_tokens)]
    runner.forward(
        [PrefillChunk(token_ids=token_ids, start=0, page_ids=pages, slot_in=None, slot_out=slot)]
    )
    runner.forward(
        [
            DecodeChunk(
                token_ids=token_ids[:1],
                start=num_tokens,
                page_ids=pages,
                slot_in=slot,
                slots_out=[slot],
            )
        ]
    )
