"""The load over HTTP: conversations of clients that know nothing of sessions."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import httpx2

from benchmarks.load.drive import TURNS_OF_A_SESSION, Outcome

_WORDS = ("where", "does", "this", "train", "go", "on", "a", "cold", "and", "rainy", "day")
_MAX_ANSWER = 8
_TIMEOUT_S = 120.0
_PATH = "/v1/chat/completions"


class TurnFailed(Exception):
    """Not what a client should see on a healthy cluster."""


async def run_http_load(
    address: str, *, num_sessions: int, num_turns: int, seed: int = 1
) -> Outcome:
    """`num_turns` turns of one to eight tokens, from `num_sessions` conversations at once, each of
    which sends its whole history every time. Half of the answers are streams, and of these some
    clients hang up after the first event.
    """
    outcome = Outcome()
    left = iter(range(num_turns))
    started_at = time.monotonic()
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=num_sessions)
    async with (
        httpx2.AsyncClient(base_url=f"http://{address}", timeout=_TIMEOUT_S, limits=limits) as http,
        asyncio.TaskGroup() as sessions,
    ):
        for index in range(num_sessions):
            source = random.Random(f"{seed}/{index}")
            sessions.create_task(_conversation(http, left, source, outcome))
    outcome.seconds = time.monotonic() - started_at
    return outcome


async def _conversation(
    http: httpx2.AsyncClient, left: Iterator[int], source: random.Random, outcome: Outcome
) -> None:
    messages: list[dict[str, str]] = []
    for number, _ in enumerate(left):
        if number % TURNS_OF_A_SESSION == 0:
            messages = [{"role": "system", "content": _text(source, 30)}]
        messages.append({"role": "user", "content": _text(source, 6)})
        try:
            content = await _turn(http, messages, source, outcome)
        except (TurnFailed, httpx2.HTTPError) as error:
            outcome.failures[f"{type(error).__name__}: {str(error)[:120]}"] += 1
            content = ""
        messages.append({"role": "assistant", "content": content or "…"})


async def _turn(
    http: httpx2.AsyncClient,
    messages: list[dict[str, str]],
    source: random.Random,
    outcome: Outcome,
) -> str:
    """The answer's text. Raises TurnFailed."""
    num_tokens = source.randrange(1, _MAX_ANSWER + 1)
    body: dict[str, Any] = {
        "messages": messages,
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "temperature": source.choice([0.0, 1.0]),
        "stream": source.random() < 0.5,
    }
    hangs_up = body["stream"] and source.random() < 0.1
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    while True:
        asked_at = time.monotonic()
        async with http.stream("POST", _PATH, json=body) as reply:
            if reply.status_code == 429:
                outcome.refusals += 1
                await asyncio.sleep(float(reply.headers["retry-after"]))
                continue
            if reply.status_code != 200:
                raise TurnFailed(f"{reply.status_code}: {(await reply.aread())[:200]!r}")
            if not body["stream"]:
                answer = json.loads(await reply.aread())
                outcome.first_token_s.append(time.monotonic() - asked_at)
                _count(answer["usage"], num_tokens, outcome)
                return str(answer["choices"][0]["message"]["content"])
            return await _read(reply, asked_at, num_tokens, outcome, hangs_up=hangs_up)


async def _read(
    reply: httpx2.Response, asked_at: float, num_tokens: int, outcome: Outcome, *, hangs_up: bool
) -> str:
    content, usage = "", None
    async for line in reply.aiter_lines():
        if not line.startswith("data: {"):
            continue
        if not content and usage is None:
            outcome.first_token_s.append(time.monotonic() - asked_at)
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise TurnFailed(str(chunk["error"]))
        for choice in chunk["choices"]:
            content += choice["delta"].get("content", "")
        usage = chunk["usage"] or usage
        if hangs_up:
            outcome.num_turns += 1
            return content
    if usage is None:
        raise TurnFailed("the stream ended without its usage")
    _count(usage, num_tokens, outcome)
    return content


def _count(usage: dict[str, Any], num_tokens: int, outcome: Outcome) -> None:
    if usage["completion_tokens"] != num_tokens:
        raise TurnFailed(f"asked for {num_tokens} tokens, got {usage['completion_tokens']}")
    outcome.num_turns += 1
    outcome.num_tokens += num_tokens
    outcome.prompt_tokens += usage["prompt_tokens"]
    outcome.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]


def _text(source: random.Random, num_words: int) -> str:
    return " ".join(source.choices(_WORDS, k=num_words))
