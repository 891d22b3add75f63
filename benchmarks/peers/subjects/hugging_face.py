"""transformers' own `generate`: `… MODEL THREADS`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.peers.subjects.line_server import Answers, Request, serve
from benchmarks.serving.peer import Transformers


def load(folder: str, threads: int) -> Callable[[Request], Answers]:
    torch.set_num_threads(threads)
    model = Transformers(Path(folder))

    def answer(request: Request) -> Answers:
        answers = model.answer([tuple(p) for p in request.prompts], request.num_tokens)
        return Answers(
            asked_at=answers[0].asked_at,
            token_at=[answer.token_at for answer in answers],
            token_ids=[answer.token_ids for answer in answers],
        )

    return answer


if __name__ == "__main__":
    serve(lambda: load(sys.argv[1], int(sys.argv[2])))
