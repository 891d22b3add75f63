"""Segue's model runner alone, without processes around it: `… MODEL THREADS [QUANTIZATION]`.

Prompts are computed in a prefill worker's chunks, answers in a decode worker's steps, all on a
thread of their own, as a worker's engine is: glibc gives the main thread's large temporaries back
to the system after each use, so there a chunk of 512 tokens faults some 40,000 pages in again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

from benchmarks.harness.turns import decode_chunk, prompt_chunks
from benchmarks.peers.subjects.line_server import Answers, Request, answered, serve
from prefill_worker.config import PrefillConfig
from segue.engine.batch import Chunk
from segue.engine.config import EngineConfig
from segue.worker.load import load_runner


class Runner:
    def __init__(self, folder: str, threads: int, quantization: str = "none") -> None:
        engine = EngineConfig(num_threads=threads, quantization=quantization)
        loaded = load_runner(folder, engine)
        self._runner = loaded.runner
        self._page_tokens = loaded.engine.page_tokens
        self._chunk_tokens = PrefillConfig().chunk_tokens

    def answer(self, request: Request) -> Answers:
        pages = self._pages(request)

        def prefill(slot: int, prompt: Sequence[int]) -> int:
            return self._prefill(prompt, pages[slot], slot)

        def step(last_ids: list[int], positions: list[int]) -> list[int]:
            rows = enumerate(zip(last_ids, positions, strict=True))
            return self._next_tokens(
                [decode_chunk(*row, pages[slot], slot=slot, slot_out=slot) for slot, row in rows]
            )

        return answered(request.prompts, request.num_tokens, prefill, step)

    def _pages(self, request: Request) -> list[range]:
        longest = max(map(len, request.prompts)) + request.num_tokens
        each = -(-longest // self._page_tokens)
        return [range(slot * each, (slot + 1) * each) for slot in range(len(request.prompts))]

    def _prefill(self, prompt: Sequence[int], page_ids: Sequence[int], slot: int) -> int:
        token_id = 0
        for chunk in prompt_chunks(prompt, page_ids, chunk_tokens=self._chunk_tokens, slot=slot):
            (token_id,) = self._next_tokens([chunk])
        return token_id

    def _next_tokens(self, chunks: Sequence[Chunk]) -> list[int]:
        token_ids: list[int] = self._runner.forward(chunks).argmax(dim=-1).tolist()
        return token_ids


def load(arguments: Sequence[str], engine: Executor) -> Callable[[Request], Answers]:
    """On the engine's thread too: loading starts OpenMP threads, and if a process has more of them
    than cores, they do not spin."""
    folder, threads, *quantization = arguments
    runner = engine.submit(Runner, folder, int(threads), *quantization).result()
    return lambda request: engine.submit(runner.answer, request).result()


if __name__ == "__main__":
    with ThreadPoolExecutor(1, "engine") as engine:
        serve(lambda: load(sys.argv[1:], engine))
