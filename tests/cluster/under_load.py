"""Conversations that go on while a cluster changes, over gRPC and HTTP, and the same once more when
it does not.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx2

from segue.api.turn import TokenDelta
from segue.api.types import SamplingParams, StopConditions, TokenInput
from segue.sdk.client import Client

MAX_TURNS = 12
"""Of one conversation: then the next one starts."""
ANSWER = 24


class Speaker(Protocol):
    """Holds one conversation after another."""

    turns: list[Turn]

    async def turn(self) -> None: ...


@dataclass
class Turn:
    prompt: Any
    answer: Any
    seconds: float
    silent_s: float
    """The longest time without news."""


@dataclass
class Silence:
    """Measures the longest time between two events."""

    started_at: float = field(default_factory=time.monotonic)
    longest_s: float = 0.0

    def __post_init__(self) -> None:
        self._last_at = self.started_at

    def broken(self) -> None:
        now = time.monotonic()
        self.longest_s = max(self.longest_s, now - self._last_at)
        self._last_at = now

    def turn(self, prompt: Any, answer: Any) -> Turn:
        self.broken()
        return Turn(prompt, answer, time.monotonic() - self.started_at, self.longest_s)


@dataclass
class GrpcSpeaker:
    """Token ids over gRPC, by the SDK, which knows all routers."""

    client: Client
    seed: int
    sampling: SamplingParams
    turns: list[Turn] = field(default_factory=list)

    async def turn(self) -> None:
        number = len(self.turns)
        history = self.turns[-1].prompt + self.turns[-1].answer if number % MAX_TURNS else []
        new = [5 + (self.seed * 7919 + number * 104_729 + i * 31) % 280 for i in range(40)]
        self.turns.append(await self.say([*history, *new], f"s{self.seed}-{number // MAX_TURNS}"))

    async def say(self, prompt: list[int], session_id: str, salt: str = "") -> Turn:
        silence, answer = Silence(), list[int]()
        async for event in self.client.stream(
            TokenInput(tuple(prompt)),
            session_id=session_id,
            sampling=self.sampling,
            stop=StopConditions(max_tokens=ANSWER, ignore_eos=True),
            cache_salt=salt,
            timeout_s=120,
        ):
            silence.broken()
            if isinstance(event, TokenDelta):
                answer += event.token_ids
        return silence.turn(prompt, answer)

    async def again(self, turn: Turn) -> Any:
        return (await self.say(turn.prompt, "", salt="again")).answer


@dataclass
class HttpSpeaker:
    """Chats over HTTP. Connects to the next gateway if one does not take the request, as a load
    balancer does; an answer that has begun must end."""

    http: httpx2.AsyncClient
    gateways: Sequence[str]
    seed: int
    temperature: float
    turns: list[Turn] = field(default_factory=list)
    num_moved: int = 0

    async def turn(self) -> None:
        number = len(self.turns)
        history: list[dict[str, str]] = []
        if number % MAX_TURNS:
            last = self.turns[-1]
            history = [*last.prompt, {"role": "assistant", "content": last.answer}]
        words = f"My code is {self.seed * 1000 + number}. Count from {number} to {number + 9}."
        self.turns.append(await self.say([*history, {"role": "user", "content": words}]))

    async def say(self, messages: list[dict[str, str]], salt: str = "") -> Turn:
        body = {
            "messages": messages,
            "max_tokens": ANSWER,
            "temperature": self.temperature,
            "seed": self.seed,
            "stream": True,
            **({"cache_salt": salt} if salt else {}),
        }
        silence = Silence()
        for attempt in range(200):
            gateway = self.gateways[(self.seed + attempt) % len(self.gateways)]
            try:
                return silence.turn(messages, await self._answer(gateway, body, silence))
            except (httpx2.ConnectError, _NotTakenError):
                self.num_moved += 1
                await asyncio.sleep(0.05)
        raise AssertionError("no gateway takes a request")

    async def _answer(self, gateway: str, body: dict[str, Any], silence: Silence) -> str:
        texts = []
        request = self.http.build_request("POST", f"{gateway}/v1/chat/completions", json=body)
        try:
            response = await self.http.send(request, stream=True)
        except httpx2.RemoteProtocolError as error:
            # An idle connection was closed just as it was used: nothing was answered.
            raise _NotTakenError from error
        except httpx2.ReadError as error:
            raise _NotTakenError from error
        try:
            if response.status_code != 200:
                raise AssertionError((response.status_code, await response.aread()))
            async for line in response.aiter_lines():
                silence.broken()
                if line.startswith("data: ") and line != "data: [DONE]":
                    event = json.loads(line.removeprefix("data: "))
                    assert "error" not in event, event
                    texts += [choice["delta"].get("content") or "" for choice in event["choices"]]
        finally:
            await response.aclose()
        return "".join(texts)

    async def again(self, turn: Turn) -> Any:
        return (await self.say(turn.prompt, salt="again")).answer


class _NotTakenError(Exception):
    """The connection ended before any answer."""


async def speak_until(stop: asyncio.Event, speakers: Sequence[Speaker]) -> None:
    """Raises the first failed turn's error."""

    async def speak(speaker: Speaker) -> None:
        while not stop.is_set():
            await speaker.turn()

    async with asyncio.TaskGroup() as tasks:
        for speaker in speakers:
            tasks.create_task(speak(speaker))


async def differences(speakers: Sequence[GrpcSpeaker | HttpSpeaker]) -> list[Any]:
    """The turns that have another answer if nothing disturbs them, and nothing is cached."""

    async def of(speaker: GrpcSpeaker | HttpSpeaker) -> list[Any]:
        found = []
        for turn in list(speaker.turns):
            again = await speaker.again(turn)
            if again != turn.answer:
                found.append((type(speaker).__name__, speaker.seed, turn, again))
        return found

    return [one for found in await asyncio.gather(*map(of, speakers)) for one in found]
