"""A client that sends the whole conversation each time still gets a resident session."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from segue.api.errors import InvalidRequest
from segue.api.turn import TokenDelta, TurnEnd, TurnStarted, Usage
from segue.api.types import ChatInput, Message, SamplingParams, SessionId, StopConditions
from segue.sdk.client import Client
from tests.cluster.conftest import local_cluster
from tests.tool_calls.streaming import read_answer

SYSTEM = Message(role="system", content="Answer in one short sentence, and say nothing else.")
GREEDY = SamplingParams(temperature=0)
WEATHER = json.dumps(
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
)


@dataclass(frozen=True)
class Turn:
    session_id: SessionId
    text: str
    usage: Usage

    @property
    def computed(self) -> int:
        """Prompt tokens that no worker had cached."""
        return self.usage.prompt_tokens - self.usage.cached_tokens - self.usage.pulled_tokens


async def turn(
    client: Client, messages: list[Message], hint: str = "", tools: tuple[str, ...] = ()
) -> Turn:
    text, session_id = "", SessionId("")
    chat = ChatInput(messages=tuple(messages), tools=tools)
    async for event in client.stream(
        chat, session_hint=hint, sampling=GREEDY, stop=StopConditions(max_tokens=64)
    ):
        match event:
            case TurnStarted():
                session_id = event.session_id
            case TokenDelta():
                text += event.text
            case TurnEnd():
                return Turn(session_id, text, event.usage)
    raise AssertionError("a stream ends with a TurnEnd")


def answered(messages: list[Message], answer: str, question: str) -> list[Message]:
    return [
        *messages,
        Message(role="assistant", content=answer),
        Message(role="user", content=question),
    ]


async def test_the_next_turn_of_a_stateless_client_computes_only_new_tokens(demo: Path) -> None:
    async with local_cluster(demo) as cluster:
        client = cluster.client
        messages = [SYSTEM, Message(role="user", content="My name is Anna and I live in Lisbon.")]
        first = await turn(client, messages)
        for question in ("Where do I live?", "What is my name?", "Count from 1 to 10."):
            before = len(messages)
            # Like clients that strip or wrap the answer.
            messages = answered(messages, f"\n{first.text} \n", question)
            last, first = first, await turn(client, messages)
            assert first.session_id == last.session_id, before
            assert first.usage.rerendered_tokens == 0
            # The last state is kept at a page's end.
            new = first.usage.prompt_tokens - last.usage.prompt_tokens
            assert first.computed <= new + 16

        left, right = await asyncio.gather(
            turn(client, answered(messages, first.text, "Where do I live?")),
            turn(client, answered(messages, first.text, "Say brillig 3 times.")),
        )
        assert left.session_id != right.session_id
        assert first.session_id in (left.session_id, right.session_id)
        for fork in (left, right):
            assert fork.computed <= fork.usage.prompt_tokens - first.usage.prompt_tokens + 16

        listed = {session.session_id for session in await client.sessions()}
        assert {left.session_id, right.session_id} <= listed
        named = await turn(client, messages, hint="agent-7")
        assert named.session_id == "agent-7"


async def test_a_call_that_a_client_writes_in_its_own_way_stays_resident(demo: Path) -> None:
    async with local_cluster(demo) as cluster:
        asked = [Message(role="user", content="What is the weather in Reykjavik?")]
        first = await turn(cluster.client, asked, tools=(WEATHER,))
        (call,) = read_answer(first.text, (WEATHER,)).tool_calls
        echoed = Message(
            role="assistant",
            content="\n",
            tool_calls=(replace(call, arguments=json.dumps(json.loads(call.arguments), indent=4)),),
        )
        result = Message(role="tool", content='{"sky": "rain"}', tool_call_id=call.call_id)

        second = await turn(cluster.client, [*asked, echoed, result], tools=(WEATHER,))

        assert second.session_id == first.session_id
        assert second.usage.rerendered_tokens == 0
        # All but the answer's last token, up to a page's end.
        before = first.usage.prompt_tokens + first.usage.completion_tokens - 1
        assert second.usage.resident_tokens >= before // 16 * 16


async def test_a_session_is_named_or_found_but_not_both(demo: Path) -> None:
    async with local_cluster(demo) as cluster:
        chat = ChatInput(messages=(SYSTEM,))
        with pytest.raises(InvalidRequest, match="not both"):
            await cluster.client.generate(chat, session_id="a", session_hint="b")
