"""The first passes of a worker, before its first turn: kernels are compiled or chosen, and memory
that passes use is allocated, while no client waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from segue.engine.batch import Chunk, DecodeChunk, PrefillChunk
from segue.kernels.compiling import compiling, zeroed_memory

if TYPE_CHECKING:
    from segue.engine.runner import ModelRunner

Forward = Callable[[Sequence[Chunk]], object]

PROMPT_TOKENS = 64
"""More rows than what counts as few for the choice of products, and more than one page."""


def first_passes(
    runner: ModelRunner,
    forward: Forward,
    *,
    pages: Sequence[int],
    slot: int,
    num_tokens: int,
    most_tokens: int,
) -> None:
    """A prompt of `num_tokens` and a step after it, in `pages` and `slot`, which no sequence owns.
    On a GPU the kernels of a pass of `most_tokens` are compiled too. Nothing else may use the
    runner meanwhile.
    """
    if runner.device == "cuda":
        with compiling(ignore_errors=True), zeroed_memory():
            for num in (num_tokens, most_tokens):
                run_passes(runner, forward, pages=pages, slot=slot, num_tokens=num)
    run_passes(runner, forward, pages=pages, slot=slot, num_tokens=num_tokens)


def run_passes(
    runner: ModelRunner, forward: Forward, *, pages: Sequence[int], slot: int, num_tokens: int
) -> None:
    """Too few pages are repeated, which is right where no kernel runs."""
    num_pages = num_tokens // runner.layout.page_tokens + 1
    page_ids = [pages[i % len(pages)] for i in range(num_pages)]
    token_ids = [token % runner.config.vocab_size for token in range(num_tokens)]
    prompt = PrefillChunk(
        token_ids=token_ids, start=0, page_ids=page_ids, slot_in=None, slot_out=slot
    )
    step = DecodeChunk(
        token_ids=token_ids[:1],
        start=num_tokens,
        page_ids=page_ids,
        slot_in=slot,
        slots_out=[slot],
    )
    forward([prompt])
    forward([step])
