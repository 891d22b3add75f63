"""Anthropic's own SDK against a cluster."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from tests.gateway.conftest import Live

pytestmark = pytest.mark.asyncio(loop_scope="session")

WHO: Any = [{"role": "user", "content": "Hello! Who are you?"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
ASKED: Any = [{"role": "user", "content": "What is the weather in Reykjavik?"}]


def asking(**fields: Any) -> dict[str, Any]:
    """The SDK's newest version has no temperature any more; older ones send it."""
    greedy = {"extra_body": {"temperature": 0}}
    return {"model": "demo", "max_tokens": 200, "messages": WHO, **greedy, **fields}


async def answered(live: Live, **fields: Any) -> Any:
    return await live.anthropic.messages.create(**asking(**fields))


async def test_the_served_model_is_listed(live: Live) -> None:
    page = await live.anthropic.models.list()
    (model,) = page.data

    assert (model.id, model.type, model.display_name) == ("demo", "model", "demo")
    assert model.created_at.tzinfo is not None
    assert not page.has_next_page()
    assert await live.anthropic.models.retrieve("demo") == model


async def test_an_answer_is_one_block_of_text(live: Live) -> None:
    answer = await answered(live)

    (block,) = answer.content
    assert block.text.startswith("I am the Segue demo model")
    assert (answer.stop_reason, answer.model, answer.role) == ("end_turn", "demo", "assistant")
    assert answer.usage.output_tokens > 0
    assert answer._request_id


async def test_a_stream_is_the_same_answer(live: Live) -> None:
    whole = await answered(live)
    async with live.anthropic.messages.stream(**asking()) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()

    assert text == whole.content[0].text
    assert [block.to_dict() for block in final.content] == [
        block.to_dict() for block in whole.content
    ]
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.stop_reason == "end_turn"


async def test_events_come_in_anthropics_order(live: Live) -> None:
    stream = await answered(live, stream=True)
    kinds = [event.type async for event in stream]

    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called_and_its_result_used(live: Live, stream: bool) -> None:
    asked = asking(messages=ASKED, tools=[WEATHER])
    if stream:
        async with live.anthropic.messages.stream(**asked) as events:
            called: Any = await events.get_final_message()
    else:
        called = await live.anthropic.messages.create(**asked)
    use = next(block for block in called.content if block.type == "tool_use")
    result = {"type": "tool_result", "tool_use_id": use.id}
    weather = json.dumps({"temperature": 7, "sky": "cloudy"})
    told = await answered(
        live,
        messages=[
            *ASKED,
            {"role": "assistant", "content": [block.to_dict() for block in called.content]},
            {"role": "user", "content": [{**result, "content": weather}]},
        ],
        tools=[WEATHER],
    )

    assert (use.name, use.input, called.stop_reason) == (
        "get_weather",
        {"city": "Reykjavik"},
        "tool_use",
    )
    assert told.content[0].text == "In Reykjavik it is 7 degrees and cloudy."
    assert told.usage.cache_read_input_tokens > 0


async def test_the_billing_block_does_not_change_the_prompt(live: Live) -> None:
    def system(turn: int) -> Any:
        billing = f"x-anthropic-billing-header: cc_version=2.1; cch={turn};"
        return [{"type": "text", "text": billing}, {"type": "text", "text": "Be brief. " * 20}]

    first = await answered(live, system=system(1))
    second = await answered(
        live,
        system=system(2),
        messages=[
            *WHO,
            {"role": "assistant", "content": first.content[0].text},
            # Claude Code's, in the middle.
            {"role": "system", "content": "The date is today."},
            {"role": "user", "content": "Count from 1 to 5."},
        ],
    )

    assert second.usage.cache_read_input_tokens >= 64


async def test_an_answer_ends_where_it_should(live: Live) -> None:
    count: Any = [{"role": "user", "content": "Count from 1 to 60."}]
    by_length = await answered(live, messages=count, max_tokens=5)
    by_text = await answered(live, messages=count, stop_sequences=["4"])

    assert by_length.stop_reason == "max_tokens"
    assert (by_text.stop_reason, by_text.stop_sequence) == ("stop_sequence", "4")
    assert by_text.content[0].text == "1, 2, 3, "


async def test_a_message_at_the_end_is_continued(live: Live) -> None:
    begun: Any = [
        {"role": "user", "content": "Count from 1 to 60."},
        {"role": "assistant", "content": "1, 2, 3, 4, 5, "},
    ]

    assert (await answered(live, messages=begun)).content[0].text.startswith("6, 7, 8")


async def test_counted_tokens_are_those_of_the_prompt(live: Live) -> None:
    asked: Any = {"model": "demo", "messages": ASKED, "tools": [WEATHER]}
    counted = await live.anthropic.messages.count_tokens(**asked)
    usage = (await answered(live, messages=ASKED, tools=[WEATHER])).usage

    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"model": "claude"}, anthropic.NotFoundError, "'demo'"),
        (
            {"extra_body": {"temperature": -1}},
            anthropic.BadRequestError,
            "temperature must be between",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            anthropic.BadRequestError,
            "only text is served",
        ),
        (
            {"messages": [{"role": "user", "content": "word " * 9000}]},
            anthropic.BadRequestError,
            "8192 tokens",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_wrong_is_said(
    live: Live, fields: Any, kind: type[anthropic.APIStatusError], says: str, stream: bool
) -> None:
    with pytest.raises(kind) as raised:
        await answered(live, stream=stream, **fields)

    assert says in raised.value.message
    assert raised.value.body["type"] == "error"  # type: ignore[index]  # an object
