"""A subject's process: one JSON object a line on stdin, one for each on stdout.

    {"prompts": [[id, …], …], "num_tokens": 33, "is_suffix": false}
    {"asked_at": s, "token_at": [[s, …], …], "token_ids": [[id, …], …], "note": ""}

Times are of the monotonic clock, which all processes of a machine share. Libraries print to stdout,
so it is moved to stderr and answers go to the original.
"""

from __future__ import annotations

import json
import os
import sys
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
    """What else to know about them, such as which worker computed the prompts."""


def serve(load: Callable[[], Callable[[Request], Answers]]) -> None:
    """Answers requests until stdin ends. The first line on stdout says that the model is loaded."""
    answers_to = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answer = load()
    print("{}", file=answers_to)
    for line in sys.stdin:
        answered = answer(Request(**json.loads(line)))
        print(json.dumps(asdict(answered)), file=answers_to)
