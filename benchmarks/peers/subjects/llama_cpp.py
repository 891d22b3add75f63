"""llama.cpp, through llama-cpp-python's plain bindings: `… GGUF THREADS`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.subjects.line_server import Answers, Request, answered, serve

_MAX_TURNS = 8
_BATCH_TOKENS = 2048


class LlamaCpp:
    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise SystemExit(f"llama.cpp does not load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = 8192
        params.n_seq_max = _MAX_TURNS
        params.kv_unified = True
        params.n_batch = _BATCH_TOKENS
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self._model)
        )
        self._batch = llama_cpp.llama_batch_init(_BATCH_TOKENS, 0, 1)

    def answer(self, request: Request) -> Answers:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        return answered(request.prompts, request.num_tokens, self._prefill, self._step)

    def _prefill(self, turn: int, prompt: Sequence[int]) -> int:
        rows = [(token_id, at, turn) for at, token_id in enumerate(prompt)]
        for start in range(0, len(rows), _BATCH_TOKENS):
            (token_id,) = self._next_tokens(rows[start : start + _BATCH_TOKENS], num_last=1)
        return token_id

    def _step(self, last_ids: list[int], positions: list[int]) -> list[int]:
        rows = list(zip(last_ids, positions, range(len(last_ids)), strict=True))
        return self._next_tokens(rows, num_last=len(rows))

    def _next_tokens(self, rows: Sequence[tuple[int, int, int]], *, num_last: int) -> list[int]:
        """Computes rows of token, position and turn. Returns the tokens after the last ones."""
        batch = self._batch
        batch.n_tokens = len(rows)
        first = len(rows) - num_last
        for row, (token_id, position, turn) in enumerate(rows):
            batch.token[row] = token_id
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = turn
            batch.logits[row] = row >= first
        status = self._lib.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        return [self._likeliest(row) for row in range(first, len(rows))]

    def _likeliest(self, row: int) -> int:
        import numpy as np

        logits = self._lib.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())


if __name__ == "__main__":
    serve(lambda: LlamaCpp(sys.argv[1], int(sys.argv[2])).answer)
