"""The load: sessions that each send short turns one after another."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from segue import Client, SamplingParams, StopConditions, TokenInput, TurnEnd
from segue.api.errors import Overloaded, SegueError
from segue.api.types import MAX_LOGPROBS

# A session is replaced after this number of turns: contexts stay short, and new sessions keep
# arriving.
TURNS_OF_A_SESSION = 12
_FIRST_TOKENS = 40
_MORE_TOKENS = 12
_MAX_ANSWER = 8
_TIMEOUT_S = 120.0
# Ids that every vocabulary has, including the demo's 1,536.
_TOKENS = range(300, 1500)


@dataclass(slots=True)
class Outcome:
    """The outcome of a number of turns."""

    num_turns: int = 0
    num_tokens: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    refusals: int = 0
    """Refused with a retry delay, and retried."""
    first_token_s: list[float] = field(default_factory=list)
    decode_workers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


async def run_load(client: Client, *, num_sessions: int, num_turns: int, seed: int = 1) -> Outcome:
    """`num_turns` turns of one to eight tokens, from `num_sessions` concurrent sessions.

    Some sessions have a name and are resident; the others have none and send their history each
    time. Some ask for log-probabilities, or disconnect as soon as they have the end.
    """
    outcome = Outcome()
    left = iter(range(num_turns))
    started_at = time.monotonic()
    async with asyncio.TaskGroup() as sessions:
        for index in range(num_sessions):
            source = random.Random(f"{seed}/{index}")
            sessions.create_task(_session(client, f"load-{seed}-{index}", left, source, outcome))
    outcome.seconds = time.monotonic() - started_at
    return outcome


async def _session(
    client: Client, name: str, left: Iterator[int], source: random.Random, outcome: Outcome
) -> None:
    history: list[int] = []
    session_id = ""
    for number, _ in enumerate(left):
        if number % TURNS_OF_A_SESSION == 0:
            history = _tokens(source, _FIRST_TOKENS)
            session_id = f"{name}-{number}" if source.random() < 0.75 else ""
        history += _tokens(source, source.randrange(1, _MORE_TOKENS))
        try:
            history += await _turn(client, session_id, tuple(history), source, outcome)
        except SegueError as error:
            outcome.failures[f"{type(error).__name__}: {str(error)[:120]}"] += 1


async def _turn(
    client: Client,
    session_id: str,
    prompt: tuple[int, ...],
    source: random.Random,
    outcome: Outcome,
) -> list[int]:
    """The answer's tokens. Raises SegueError."""
    num_tokens = source.randrange(1, _MAX_ANSWER + 1)
    logprobs = source.choice([None, None, None, 0, MAX_LOGPROBS])
    sampling = SamplingParams(temperature=source.choice([0.0, 1.0]), logprobs=logprobs)
    stop = StopConditions(max_tokens=num_tokens, ignore_eos=True)
    while True:
        try:
            asked_at = time.monotonic()
            answer: list[int] = []
            async for event in client.stream(
                TokenInput(prompt),
                session_id=session_id,
                sampling=sampling,
                stop=stop,
                timeout_s=_TIMEOUT_S,
            ):
                if isinstance(event, TurnEnd):
                    _count(event, answer, num_tokens, outcome)
                    # Like a client that knows that nothing follows.
                    return answer
                if ids := getattr(event, "token_ids", ()):
                    if not answer:
                        outcome.first_token_s.append(time.monotonic() - asked_at)
                    answer += ids
            raise SegueError("the stream ended without a TurnEnd")
        except Overloaded as refusal:
            outcome.refusals += 1
            await asyncio.sleep(refusal.retry_after_s)


def _count(end: TurnEnd, answer: list[int], num_tokens: int, outcome: Outcome) -> None:
    if len(answer) != num_tokens or end.usage.completion_tokens != num_tokens:
        raise SegueError(f"asked for {num_tokens} tokens, got {len(answer)}")
    outcome.num_turns += 1
    outcome.num_tokens += num_tokens
    outcome.cached_tokens += end.usage.cached_tokens
    outcome.prompt_tokens += end.usage.prompt_tokens
    outcome.decode_workers[end.decode_worker] += 1


def _tokens(source: random.Random, num: int) -> list[int]:
    return source.choices(_TOKENS, k=num)
