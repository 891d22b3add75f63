"""A subject's process: one JSON object a line on stdin, one for each on stdout.

    {"prompts": [[id, …], …], "num_tokens": 33, "is_suffix": false}
    {"asked_at": s, "token_at": [[s, …], …], "token_ids": [[id, …], …], "note": ""}

Times are of the monotonic clock, which all processes of a machine share. Libraries print to stdout,
so stdout is redirected to stderr, and answers go to the original stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Request:
    prompts: list[list[int]]
    """Answered at once."""
    num_tokens: int
    """Of each answer."""
    is_suffix: bool = False
    """The prompts continue sessions that the subject has already computed the start of."""


@dataclass(frozen=True)
class Answers:
    asked_at: float
    token_at: Sequence[Sequence[float]]
    token_ids: Sequence[Sequence[int]]
    note: str = ""
    """Other facts, such as the worker that computed the prompts."""


def answered(
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    prefill: Callable[[int, Sequence[int]], int],
    step: Callable[[list[int], list[int]], list[int]],
) -> Answers:
    """One prompt after the other, then all answers together. `prefill` takes a prompt's number and
    tokens; `step` takes the last token of each answer with its position."""
    asked_at = time.monotonic()
    token_ids: list[list[int]] = []
    token_at: list[list[float]] = []
    for number, prompt in enumerate(prompts):
        token_ids.append([prefill(number, prompt)])
        token_at.append([time.monotonic()])
    for number in range(num_tokens - 1):
        positions = [len(prompt) + number for prompt in prompts]
        next_ids = step([ids[-1] for ids in token_ids], positions)
        for ids, times, token_id in zip(token_ids, token_at, next_ids, strict=True):
            ids.append(token_id)
            times.append(time.monotonic())
    return Answers(asked_at=asked_at, token_at=token_at, token_ids=token_ids)


def serve(load: Callable[[], Callable[[Request], Answers]]) -> None:
    """Answers requests until stdin ends. Writes a first line once the model is loaded."""
    answers_to = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answer = load()
    print("{}", file=answers_to)
    for line in sys.stdin:
        answered = answer(Request(**json.loads(line)))
        print(json.dumps(asdict(answered)), file=answers_to)
