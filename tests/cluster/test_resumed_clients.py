"""A router that is killed in mid-answer: its clients see the answers of an undisturbed cluster."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from segue.api.turn import FinishReason, TokenDelta, TurnEnd, TurnEvent, TurnStarted
from segue.api.types import ChatInput, Message, Regex, SamplingParams, StopConditions, TextInput
from segue.gateway.__main__ import running as running_gateway
from segue.gateway.config import GatewayConfig
from segue.sdk.client import Client
from tests.cluster.router_process import SplitCluster, split_cluster
from tests.cluster.waiting import is_idle, wait_until_idle

PROMPT = TextInput("Count from 1 to 60.\nAnd then: where do I live, and what is the router?\n" * 4)
COUNT = Message(role="user", content="Count from 1 to 30.")
LONG = StopConditions(max_tokens=90, ignore_eos=True)
SAMPLED = SamplingParams(
    temperature=1.5, top_k=20, repetition_penalty=1.2, frequency_penalty=0.4, seed=7, logprobs=2
)
KILLED_AFTER = 10

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SplitCluster]:
    async with split_cluster(demo, tmp_path_factory.mktemp("router")) as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(cluster: SplitCluster) -> AsyncIterator[str]:
    """The address of a gateway of the cluster."""
    async with running_gateway(GatewayConfig(port=0), cluster.router.address) as gateway:
        yield gateway.address


@dataclass
class Seen:
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    scored: list[int] = field(default_factory=list)
    num_started: int = 0
    end: TurnEnd | None = None
    has_many: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, event: TurnEvent) -> None:
        match event:
            case TurnStarted():
                self.num_started += 1
            case TokenDelta():
                self.token_ids += event.token_ids
                self.text += event.text
                self.scored += [token.token_id for token in event.logprobs]
            case TurnEnd():
                self.end = event
        if self.end or len(self.token_ids) >= KILLED_AFTER:
            self.has_many.set()

    @property
    def answer(self) -> tuple[object, ...]:
        assert self.end is not None
        usage = self.end.usage
        return (
            *(self.token_ids, self.text, self.scored, self.num_started),
            *(self.end.finish_reason, self.end.stop_match),
            *(usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens),
        )

    @property
    def resumed(self) -> int:
        assert self.end is not None
        return self.end.usage.resumed


async def greedy(client: Client, name: str) -> AsyncIterator[TurnEvent]:
    async for event in client.stream(PROMPT, stop=LONG, session_id=name):
        yield event


async def sampled(client: Client, name: str) -> AsyncIterator[TurnEvent]:
    async for event in client.stream(PROMPT, stop=LONG, sampling=SAMPLED):
        yield event


async def found(client: Client, name: str) -> AsyncIterator[TurnEvent]:
    """A chat whose session the router finds."""
    async for event in client.stream(ChatInput(messages=(COUNT,)), session_hint=name):
        yield event


async def formed(client: Client, name: str) -> AsyncIterator[TurnEvent]:
    output = Regex("([0-9]{2}, ){25}end")
    async for event in client.stream(ChatInput(messages=(COUNT,)), output=output):
        yield event


async def over_http(gateway: str, client: Client, name: str) -> AsyncIterator[TurnEvent]:
    """OpenAI's chat completions. A chunk counts as a token: there are no others to be seen."""
    body = {"messages": [{"role": "user", "content": COUNT.content}], "stream": True}
    async with (
        httpx2.AsyncClient(base_url=f"http://{gateway}", timeout=60.0) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: {") and (choices := json.loads(line[6:])["choices"]):
                text = choices[0]["delta"].get("content") or ""
                for character in text:
                    yield TokenDelta(token_ids=(ord(character),), text=character)
        yield TurnEnd(finish_reason=FinishReason(choices[0]["finish_reason"]))


KINDS: list[Callable[[Client, str], AsyncIterator[TurnEvent]]] = [greedy, sampled, found, formed]


async def watch(events: AsyncIterator[TurnEvent], seen: Seen) -> Seen:
    async for event in events:
        seen.take(event)
    return seen


async def conversation(client: Client, name: str, seen: Seen) -> list[Seen]:
    """A session that counts, and is asked about it: its second turn continues from the first."""
    session = client.session(name)
    return [
        await watch(session.turn("My name is Anna.", "Count from 1 to 30."), seen),
        await watch(session.turn("What is my name?"), Seen()),
    ]


async def all_kinds(
    client: Client, gateway: str, name: str, kill: Callable[[], Any] | None
) -> list[Seen]:
    """Runs a turn of each kind, and a conversation, at once. `kill` is called when all of them have
    some tokens."""
    kinds = {kind.__name__: kind for kind in KINDS}
    kinds["http"] = functools.partial(over_http, gateway)
    seen = [Seen() for _ in kinds]
    talk = Seen()
    async with asyncio.timeout(120):
        turns = [
            asyncio.ensure_future(watch(kind(client, f"{name}-{what}"), one))
            for (what, kind), one in zip(kinds.items(), seen, strict=True)
        ]
        talking = asyncio.ensure_future(conversation(client, f"{name}-talk", talk))
        for one in (*seen, talk):
            await one.has_many.wait()
        if kill is not None:
            assert not any(one.end for one in (*seen, talk)), "a turn ended before the router died"
            kill()
        return [*await asyncio.gather(*turns), *await talking]


async def test_turns_go_on_after_their_router_was_killed(
    cluster: SplitCluster, gateway: str
) -> None:
    client, router = cluster.client, cluster.router
    whole = await all_kinds(client, gateway, "whole", None)
    resumed = await all_kinds(client, gateway, "killed", router.kill_and_restart)

    assert [one.answer for one in resumed] == [one.answer for one in whole]
    # HTTP does not tell. The last turn of the conversation came after the restart.
    assert [one.resumed for one in whole] == [0] * 7
    assert [one.resumed for one in resumed] == [*[1] * 4, 0, 1, 0]
    last = resumed[-1].end
    assert last is not None
    assert last.usage.resident_tokens > 0.8 * last.usage.prompt_tokens
    assert is_idle(await wait_until_idle(cluster.client))
    cluster.check_invariants()


async def test_a_router_that_never_was_there_is_passed_over(cluster: SplitCluster) -> None:
    stop = StopConditions(max_tokens=8)
    whole = await cluster.client.generate(PROMPT, stop=stop)
    async with Client(["127.0.0.1:1", cluster.router.address]) as client:
        for name in "abcd":
            answer = await client.generate(PROMPT, session_id=name, stop=stop)
            assert answer.token_ids == whole.token_ids
        assert (await client.status()).ready
