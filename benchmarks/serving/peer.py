"""The peer: transformers' own generate, greedy, with its cache, in this process."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from benchmarks.harness.samples import Answered
from benchmarks.serving.workload import Prompt


class Transformers:
    def __init__(self, folder: Path) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        # Like ignore-eos on the other side; a minimum length would change the tokens.
        self._model.generation_config.eos_token_id = None

    def named_weights(self) -> Iterable[tuple[str, Tensor]]:
        """Each weight once; a tied head has its embedding's name."""
        named: Iterable[tuple[str, Tensor]] = self._model.named_parameters()
        return named

    def answer(self, prompts: Sequence[Prompt], num_tokens: int) -> list[Answered]:
        """Prompts of one length as one batch, without padding."""
        token_ids = torch.tensor(prompts)
        watch = _Stopwatch()
        asked_at = time.monotonic()
        with torch.inference_mode():
            output = self._model.generate(
                token_ids,
                attention_mask=torch.ones_like(token_ids),
                max_new_tokens=num_tokens,
                do_sample=False,
                pad_token_id=0,
                streamer=watch,
            )
        # The streamer receives the prompts first.
        token_at = tuple(watch.put_at[1:])
        return [
            Answered(asked_at=asked_at, token_at=token_at, token_ids=tuple(answer))
            for answer in output[:, token_ids.shape[1] :].tolist()
        ]


class _Stopwatch(BaseStreamer):  # type: ignore[misc]  # transformers is untyped here
    def __init__(self) -> None:
        self.put_at: list[float] = []

    def put(self, value: object) -> None:
        self.put_at.append(time.monotonic())

    def end(self) -> None:
        pass
