"""OpenAI's own SDK against a cluster: the Responses API."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.gateway.conftest import Live

pytestmark = pytest.mark.asyncio(loop_scope="session")

WHO = "Hello! Who are you?"
COUNT = "Count from 1 to 60."
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
    "strict": None,
}
ASKED: Any = {"role": "user", "content": "What is the weather in Reykjavik?"}


async def answered(live: Live, **fields: Any) -> Any:
    return await live.openai.responses.create(
        **{"model": "demo", "input": WHO, "temperature": 0, **fields}
    )


async def streamed(live: Live, **fields: Any) -> Any:
    """The last response of a stream, put together by the SDK, which checks the sequence."""
    request = {"model": "demo", "input": WHO, "temperature": 0, **fields}
    async with live.openai.responses.stream(**request) as stream:
        async for _ in stream:
            pass
        return await stream.get_final_response()


async def test_an_answer_is_that_of_chat_completions(live: Live) -> None:
    answer = await answered(live)
    chat = await live.openai.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": WHO}], temperature=0
    )

    assert answer.output_text == chat.choices[0].message.content
    assert (answer.status, answer.store) == ("completed", True)
    assert chat.usage is not None
    assert answer.usage.output_tokens == chat.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_follows_another_computes_only_what_is_new(
    live: Live, stream: bool
) -> None:
    ask = streamed if stream else answered
    first = await ask(live, input="My name is Anna and I live in Lisbon.")
    second = await ask(live, input="Where do I live?", previous_response_id=first.id)
    stored = await live.openai.responses.retrieve(second.id)
    whole_first = first.usage.input_tokens + first.usage.output_tokens

    assert "Lisbon" in second.output_text
    assert stored.output_text == second.output_text
    assert second.usage.input_tokens_details.cached_tokens >= whole_first - 1 - 16


async def test_a_stream_is_the_same_answer(live: Live) -> None:
    whole = await answered(live)
    stream = await answered(live, stream=True)
    events = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]

    assert "".join(deltas) == whole.output_text == (await streamed(live)).output_text
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


async def test_the_next_turn_of_a_conversation_computes_only_what_is_new(live: Live) -> None:
    said: list[Any] = [{"role": "user", "content": "I am Olga, and I live in Lisbon. " * 3}]
    first = await answered(live, input=said, instructions="Be brief.")
    said += [item.to_dict() for item in first.output]
    said.append({"role": "user", "content": "Where do I live?"})
    second = await answered(live, input=said, instructions="Be brief.")

    reused = second.usage.input_tokens_details.cached_tokens
    assert reused >= first.usage.input_tokens + first.usage.output_tokens - 32


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called_and_its_result_used(live: Live, stream: bool) -> None:
    ask = streamed if stream else answered
    first = await ask(live, input=[ASKED], tools=[WEATHER])
    (call,) = (item for item in first.output if item.type == "function_call")
    result = {"temperature": 7, "sky": "cloudy"}
    told = await ask(
        live,
        input=[
            ASKED,
            *(item.to_dict() for item in first.output),
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": json.dumps(result),
            },
        ],
        tools=[WEATHER],
    )

    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Reykjavik"})
    assert told.output_text == "In Reykjavik it is 7 degrees and cloudy."


async def test_codexs_instructions_and_tools_are_served(live: Live) -> None:
    instructions = [
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": text}],
        }
        for text in ("Run commands in a sandbox.", "Be brief.")
    ]
    answer = await streamed(
        live,
        instructions="You are an agent.",
        input=[*instructions, ASKED],
        tools=[
            {"type": "namespace", "name": "mcp__sky", "tools": [WEATHER]},
            {"type": "web_search"},
        ],
        include=["reasoning.encrypted_content"],
        store=False,
        prompt_cache_key="thread-1",
        extra_headers={"session-id": "thread-1"},
    )

    assert answer.status == "completed"
    assert answer.output


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_ends_at_its_limit(live: Live, stream: bool) -> None:
    if stream:
        *_, last = [
            event
            async for event in await answered(live, input=COUNT, max_output_tokens=5, stream=True)
        ]
        assert last.type == "response.incomplete"
        answer = last.response
    else:
        answer = await answered(live, input=COUNT, max_output_tokens=5)

    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.usage.output_tokens == 5


async def test_log_probabilities_tell_the_answer(live: Live) -> None:
    answer = await answered(live, include=["message.output_text.logprobs"], top_logprobs=2)
    tokens = answer.output[-1].content[0].logprobs
    octets = b"".join(bytes(token.bytes) for token in tokens)

    assert octets.decode() == f"{answer.output_text}<|im_end|>"
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"model": "gpt-5"}, openai.NotFoundError, "'demo'"),
        ({"temperature": -1}, openai.BadRequestError, "temperature must be between 0 and 100"),
        ({"input": "word " * 9000}, openai.BadRequestError, "8192 tokens"),
        ({"input": []}, openai.BadRequestError, "at least one message"),
        ({"previous_response_id": "resp_1"}, openai.BadRequestError, "send the whole input"),
        ({"tool_choice": "required"}, openai.BadRequestError, "expected tools"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_wrong_is_said(
    live: Live, fields: Any, kind: type[openai.APIStatusError], says: str, stream: bool
) -> None:
    with pytest.raises(kind) as raised:
        await answered(live, stream=stream, **fields)

    assert says in raised.value.message
