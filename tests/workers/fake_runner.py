"""A model without weights: pages hold the tokens, a slot holds a running sum, and the next token
depends on both. If a byte did not arrive, or another turn wrote it, the answer differs.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.cache.tensors import CacheTensors
from segue.engine.batch import DecodeChunk, PrefillChunk
from segue.engine.scoring import TokenScores

VOCAB_SIZE = 256
PAGE_TOKENS = 4
LAYOUT = CacheLayout(
    model_id="sum",
    page_tokens=PAGE_TOKENS,
    fields=(
        CacheField(group="recurrent", layer=0, unit=Unit.SLOT, dtype="float32", shape=(1,)),
        CacheField(group="kv", layer=1, unit=Unit.PAGE, dtype="float32", shape=(PAGE_TOKENS,)),
    ),
)
_LARGEST_STATE = 1009


def answer_to(prompt: Sequence[int], num_tokens: int) -> tuple[int, ...]:
    """The greedy answer, computed from the definition."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        state = 0
        for token in tokens:
            state = _next_state(state, token)
        tokens.append(_next_token(state, sum(tokens)))
    return tuple(tokens[len(prompt) :])


def scores_of(token_ids: Sequence[int], num_top: int) -> TokenScores:
    """A token's rank is its id, and its alternatives are the ids before it."""
    best = [max(token - 1 - i, 0) for token in token_ids for i in range(num_top)]
    return TokenScores(
        logprobs=array("f", [-token for token in token_ids]),
        ranks=array("I", token_ids),
        top_ids=array("I", best),
        top_logprobs=array("f", [-token for token in best]),
    )


class Gate:
    """Holds every thread that reaches it while it is closed."""

    def __init__(self) -> None:
        self._reached, self._is_open = threading.Event(), threading.Event()
        self._is_open.set()

    def close(self) -> None:
        self._reached.clear()
        self._is_open.clear()

    def open(self) -> None:
        self._is_open.set()

    def pass_through(self) -> None:
        if not self._is_open.is_set():
            self._reached.set()
            self._is_open.wait()

    def wait_until_reached(self) -> bool:
        return self._reached.wait(5)


class FakeRunner:
    """The part of a `ModelRunner` that engines and workers use."""

    has_mtp = False
    device = "cpu"
    layout = LAYOUT
    config = SimpleNamespace(vocab_size=VOCAB_SIZE, max_position_embeddings=512)

    def __init__(self, *, num_pages: int, num_slots: int) -> None:
        self.tensors = CacheTensors.allocate(
            LAYOUT, num_pages=num_pages, num_slots=num_slots, device="cpu"
        )
        self.gate = Gate()
        """Before each layer of a prompt's pass."""

    def operators(self) -> str:
        return "none"

    def forward(
        self,
        chunks: Sequence[PrefillChunk | DecodeChunk],
        *,
        on_layer: Callable[[int], None] = lambda layer: None,
        on_scores: Callable[[int, TokenScores], None] = lambda index, scores: None,
    ) -> Tensor:
        rows = [token for chunk in chunks for token in self._compute(chunk)]
        for layer in range(2):
            if isinstance(chunks[0], PrefillChunk):
                self.gate.pass_through()
            on_layer(layer)
        for index, chunk in enumerate(chunks):
            if isinstance(chunk, PrefillChunk) and chunk.scored_ids:
                on_scores(index, scores_of(chunk.scored_ids, chunk.num_top))
        logits_RV = torch.zeros(len(rows), VOCAB_SIZE)
        logits_RV[range(len(rows)), rows] = 1000.0
        return logits_RV

    def _compute(self, chunk: PrefillChunk | DecodeChunk) -> list[int]:
        pages, slots = self.tensors.of("kv", 1), self.tensors.of("recurrent", 0)
        state = 0 if chunk.slot_in is None else int(slots[chunk.slot_in, 0])
        written: dict[int, int] = {}
        rows = []
        for position, token in enumerate(chunk.token_ids, chunk.start):
            pages[chunk.page_ids[position // PAGE_TOKENS], position % PAGE_TOKENS] = token
            state = written[position + 1] = _next_state(state, token)
            if isinstance(chunk, DecodeChunk) or position + 1 == chunk.end:
                ids = list(chunk.page_ids[: position // PAGE_TOKENS + 1])
                total = int(pages[ids].flatten()[: position + 1].sum())
                rows.append(_next_token(state, total))
        if isinstance(chunk, DecodeChunk):
            kept = list(zip(range(chunk.start + 1, chunk.end + 1), chunk.slots_out, strict=True))
        else:
            kept = list(zip(chunk.positions_kept, chunk.slots_written, strict=True))
        for position, slot in kept:
            slots[slot, 0] = written[position]
        return rows


def _next_state(state: int, token: int) -> int:
    return (state * 31 + token + 1) % _LARGEST_STATE


def _next_token(state: int, total: int) -> int:
    return 1 + (state * 7 + total) % (VOCAB_SIZE - 1)
