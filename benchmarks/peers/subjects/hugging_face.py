"""transformers' own `generate`: `… MODEL THREADS`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.peers.subjects.line_server import Answers, Request, serve
from benchmarks.serving.peer import Transformers


class HuggingFace:
    def __init__(self, folder: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = Transformers(Path(folder))

    def answer(self, request: Request) -> Answers:
        answers = self._model.answer([tuple(p) for p in request.prompts], request.num_tokens)
        return Answers(
            asked_at=answers[0].asked_at,
            token_at=[answer.token_at for answer in answers],
            token_ids=[answer.token_ids for answer in answers],
        )


if __name__ == "__main__":
    serve(lambda: HuggingFace(sys.argv[1], int(sys.argv[2])).answer)
