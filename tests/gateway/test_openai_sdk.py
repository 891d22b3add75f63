"""OpenAI's own SDK against a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from segue.api.types import ChatInput, Message
from tests.cluster.oracle import Oracle
from tests.cluster.waiting import is_idle, wait_until_idle
from tests.gateway.conftest import Live

pytestmark = pytest.mark.asyncio(loop_scope="session")

README = Path(__file__).parents[2] / "README.md"
DEMO = Path(__file__).parents[2] / "segue" / "demo" / "checkpoint"
WHO: Any = [{"role": "user", "content": "Hello! Who are you?"}]
COUNT: Any = [{"role": "user", "content": "Count from 1 to 60."}]
WEATHER: Any = {
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
ASKED: Any = [{"role": "user", "content": "What is the weather in Reykjavik?"}]


async def answered(live: Live, **fields: Any) -> Any:
    return await live.openai.chat.completions.create(
        **{"model": "demo", "messages": WHO, "temperature": 0, **fields}
    )


async def streamed(live: Live, **fields: Any) -> list[Any]:
    return [chunk async for chunk in await answered(live, stream=True, **fields)]


async def test_the_model_is_listed(live: Live) -> None:
    (model,) = (await live.openai.models.list()).data

    assert model.id == "demo"
    assert model.max_model_len == 8192  # type: ignore[attr-defined]  # vLLM's addition


async def test_an_answer_is_the_clusters(live: Live) -> None:
    answer = await answered(live)
    session = live.cluster.client.session()
    async for _ in session.turn(WHO[0]["content"]):
        pass

    assert answer.choices[0].message.content == session.messages[-1].content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.system_fingerprint != "segue-"


async def test_a_stream_is_the_same_answer(live: Live) -> None:
    whole = await answered(live)
    *chunks, last = await streamed(live, stream_options={"include_usage": True})

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage.completion_tokens == whole.usage.completion_tokens


async def test_the_next_turn_of_a_conversation_computes_only_what_is_new(live: Live) -> None:
    messages = [{"role": "user", "content": "My name is Anna and I live in Lisbon. " * 3}]
    first = await answered(live, messages=messages)
    messages.append(first.choices[0].message.to_dict())
    second = await answered(
        live, messages=[*messages, {"role": "user", "content": "Where do I live?"}]
    )

    reused = second.usage.prompt_tokens_details.cached_tokens
    assert reused >= first.usage.prompt_tokens + first.usage.completion_tokens - 32
    assert "Lisbon" in second.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called_and_its_result_used(live: Live, stream: bool) -> None:
    if stream:
        made: Any = {}
        for chunk in await streamed(live, messages=ASKED, tools=[WEATHER]):
            for call in chunk.choices[0].delta.tool_calls or ():
                made.setdefault("id", call.id)
                made["name"] = made.get("name", "") + (call.function.name or "")
                made["arguments"] = made.get("arguments", "") + call.function.arguments
            reason = chunk.choices[0].finish_reason
    else:
        choice = (await answered(live, messages=ASKED, tools=[WEATHER])).choices[0]
        (call,) = choice.message.tool_calls
        made = {"id": call.id, **call.function.to_dict()}
        reason = choice.finish_reason
    call = {
        "id": made["id"],
        "type": "function",
        "function": {"name": made["name"], "arguments": made["arguments"]},
    }
    result = {"temperature": 7, "sky": "cloudy"}
    told = await answered(
        live,
        messages=[
            *ASKED,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": made["id"], "content": json.dumps(result)},
        ],
        tools=[WEATHER],
    )

    assert (made["name"], json.loads(made["arguments"])) == ("get_weather", {"city": "Reykjavik"})
    assert reason == "tool_calls"
    assert told.choices[0].message.content == "In Reykjavik it is 7 degrees and cloudy."


async def test_two_streams_go_on_at_once(live: Live) -> None:
    order: list[str] = []

    async def follow(name: str) -> str:
        text = ""
        async for chunk in await answered(live, messages=COUNT, stream=True):
            order.append(name)
            text += chunk.choices[0].delta.content or ""
        return text

    first, second = await asyncio.gather(follow("a"), follow("b"))

    assert first == second
    assert first.startswith("1, 2, 3")
    assert order != sorted(order)


async def test_several_answers_differ_and_come_again_with_their_seed(live: Live) -> None:
    asked = {"n": 3, "seed": 7, "temperature": 1.5, "max_tokens": 12}
    first, second = await answered(live, **asked), await answered(live, **asked)
    texts = [choice.message.content for choice in first.choices]

    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in second.choices]
    assert first.usage.completion_tokens > 12


async def test_logprobs_tell_the_answer(live: Live) -> None:
    choice = (await answered(live, logprobs=True, top_logprobs=2)).choices[0]
    tokens = choice.logprobs.content
    octets = b"".join(bytes(token.bytes) for token in tokens)

    assert octets.decode() == f"{choice.message.content}<|im_end|>"
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)
    # Greedy: the chosen one is the best one.
    assert all(token.top_logprobs[0].token == token.token for token in tokens)


async def test_an_answer_ends_where_it_should(live: Live) -> None:
    by_length = (await answered(live, messages=COUNT, max_tokens=5)).choices[0]
    by_text = (await answered(live, messages=COUNT, stop=["4"])).choices[0]
    ignoring = await answered(
        live, max_tokens=40, extra_body={"ignore_eos": True, "min_tokens": 40}
    )

    assert by_length.finish_reason == "length"
    assert (by_text.finish_reason, by_text.message.content) == ("stop", "1, 2, 3, ")
    assert by_text.stop_reason == "4"
    assert ignoring.usage.completion_tokens == 40


async def test_a_bias_forbids_a_token(live: Live) -> None:
    plain = (await answered(live, extra_body={"return_token_ids": True})).choices[0]
    first = plain.token_ids[0]
    other = await answered(
        live,
        logit_bias={str(first): -100},
        max_tokens=8,
        extra_body={"return_token_ids": True},
    )

    assert other.choices[0].token_ids[0] != first
    encoded = await live.cluster.client.tokenize(
        ChatInput(messages=(Message(role="user", content=WHO[0]["content"]),))
    )
    assert tuple(other.prompt_token_ids) == encoded


async def test_an_answer_continues_a_message(live: Live) -> None:
    begun = [*COUNT, {"role": "assistant", "content": "1, 2, 3, 4, 5, "}]
    answer = await answered(live, messages=begun, extra_body={"continue_final_message": True})

    assert answer.choices[0].message.content.startswith("6, 7, 8")


async def test_a_text_is_completed(live: Live) -> None:
    prompt = "<|im_start|>user\nCount from 1 to 9.<|im_end|>\n<|im_start|>assistant\n"
    text = await live.openai.completions.create(
        model="demo", prompt=prompt, temperature=0, max_tokens=40, logprobs=1
    )
    ids = (await live.http.post("/tokenize", json={"prompt": prompt})).json()["tokens"]
    by_ids = await live.openai.completions.create(
        model="demo", prompt=ids, temperature=0, max_tokens=40
    )

    assert text.choices[0].text == "1, 2, 3, 4, 5, 6, 7, 8, 9."
    assert by_ids.choices[0].text == text.choices[0].text
    assert text.choices[0].logprobs is not None
    assert "".join(text.choices[0].logprobs.tokens or ()).startswith("1, 2, 3")


async def test_a_prompt_is_scored_as_by_transformers_whatever_is_cached(live: Live) -> None:
    """As lm-evaluation-harness asks: by token ids, echoed, with one token of an answer."""
    prompt = "<|im_start|>user\nMy code is 731. Größe 👋 " + "Count from 1 to 9. " * 12
    ids = (await live.http.post("/tokenize", json={"prompt": prompt})).json()["tokens"]
    asked: Any = {"model": "demo", "prompt": ids, "temperature": 0, "max_tokens": 1}
    plain = await live.openai.completions.create(**asked)
    scored = [
        await live.openai.completions.create(**{**asked, "echo": True, "logprobs": 2, **change})
        for change in ({}, {"max_tokens": 0}, {"prompt": prompt})
    ]
    again = await live.openai.completions.create(**asked)

    oracle_TV = Oracle(DEMO).logprobs(ids)
    expected = [oracle_TV[i, token].item() for i, token in enumerate(ids[1:])]
    for answer, num_answered in zip(scored, (1, 0, 1), strict=True):
        (choice,) = answer.choices
        assert (choice.text, choice.logprobs.text_offset[0]) == (
            prompt + plain.choices[0].text * num_answered,
            0,
        )
        first, *others = choice.logprobs.token_logprobs
        assert (first, len(others)) == (None, len(ids) - 1 + num_answered)
        assert others[: len(expected)] == pytest.approx(expected, abs=1e-4)
        best = [max(top.values()) for top in choice.logprobs.top_logprobs[1:]]
        assert best[: len(expected)] == pytest.approx(
            oracle_TV[:-1].max(-1).values.tolist(), abs=1e-4
        )
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
        assert answer.usage.completion_tokens == num_answered
    assert again.choices[0].text == plain.choices[0].text
    assert again.usage.prompt_tokens_details.cached_tokens > len(ids) - 32
    assert is_idle(await wait_until_idle(live.cluster.client, 5.0))


async def test_an_answer_is_scored_as_it_was_generated(live: Live) -> None:
    """With drafts, on the other worker."""
    asked: Any = {"return_token_ids": True, "prompt_logprobs": 0}
    chat = await answered(live, messages=COUNT, logprobs=True, extra_body=asked)
    answer = chat.choices[0]
    whole = await live.openai.completions.create(
        model="demo",
        prompt=[*chat.prompt_token_ids, *answer.token_ids],
        max_tokens=0,
        echo=True,
        logprobs=0,
    )
    assert whole.choices[0].logprobs is not None
    logprobs = whole.choices[0].logprobs.token_logprobs or []

    generated = [token.logprob for token in answer.logprobs.content]
    assert logprobs[len(chat.prompt_token_ids) :] == pytest.approx(generated, abs=1e-3)
    own = [
        entry and entry[str(token_id)]["logprob"]
        for token_id, entry in zip(chat.prompt_token_ids, chat.prompt_logprobs, strict=True)
    ]
    assert own[0] is None
    assert own[1:] == pytest.approx(logprobs[1 : len(own)], abs=1e-4)


async def test_tokens_come_and_go(live: Live) -> None:
    text = "Größe: 日本 👋🏽"
    made = (await live.http.post("/tokenize", json={"prompt": text})).json()
    back = (await live.http.post("/detokenize", json={"tokens": made["tokens"]})).json()

    assert (back["prompt"], made["max_model_len"]) == (text, 8192)


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"model": "gpt-5"}, openai.NotFoundError, "'demo'"),
        ({"temperature": -1}, openai.BadRequestError, "temperature must be between 0 and 100"),
        (
            {"messages": [{"role": "boss", "content": "a"}]},
            openai.BadRequestError,
            "expected one of",
        ),
        (
            {"messages": [{"role": "user", "content": "word " * 9000}]},
            openai.BadRequestError,
            "8192 tokens",
        ),
        ({"tools": [{"type": "function", "function": {}}]}, openai.BadRequestError, "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, openai.BadRequestError, "tools[0] must be"),
        ({"response_format": {"type": "xml"}}, openai.BadRequestError, "json_object"),
        ({"logit_bias": {"99999": 1}}, openai.BadRequestError, "ids of the model's tokens"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, openai.BadRequestError, "set"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_wrong_is_said(
    live: Live, fields: Any, kind: type[openai.APIStatusError], says: str, stream: bool
) -> None:
    with pytest.raises(kind) as raised:
        await answered(live, stream=stream, **fields)

    assert says in raised.value.message


async def test_a_prompt_beyond_the_context_has_openais_code(live: Live) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await answered(live, messages=[{"role": "user", "content": "word " * 9000}])

    assert raised.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_frees_everything_within_a_second(
    live: Live, stream: bool
) -> None:
    body = {"messages": WHO, "stream": stream, "ignore_eos": True, "max_tokens": 7000}
    before = (await live.cluster.client.status()).router

    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(0.5),
            live.http.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            async for _ in response.aiter_bytes():
                pass
    left_at = time.monotonic()
    status = await wait_until_idle(live.cluster.client, 5.0)

    assert is_idle(status), status
    assert time.monotonic() - left_at < 1.0
    assert status.router.cancelled_turns == before.cancelled_turns + 1


async def test_a_turn_has_the_requests_id(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    response = await live.http.post(
        "/v1/chat/completions", json={"messages": WHO}, headers={"X-Request-Id": "agent-7.1"}
    )

    assert response.json()["id"] == "chatcmpl-agent-7.1"
    assert response.headers["x-request-id"] == "agent-7.1"


async def test_many_requests_on_one_connection_do_not_wait_for_acknowledgements(
    live: Live,
) -> None:
    """With Nagle's algorithm each takes 40 ms, from about the twentieth on."""
    seconds = []
    for _ in range(60):
        asked_at = time.perf_counter()
        await live.http.post("/detokenize", json={"tokens": [5]})
        seconds.append(time.perf_counter() - asked_at)

    assert sorted(seconds)[30] < 0.035


async def test_the_readmes_program_runs(live: Live) -> None:
    (program,) = re.findall(r"```py\n(.*?)```", README.read_text(), re.S)
    program = program.replace("http://127.0.0.1:8000", live.url.rstrip("/"))
    shown = io.StringIO()

    def run() -> None:
        with contextlib.redirect_stdout(shown):
            exec(compile(program, "README.md", "exec"), {})

    await asyncio.to_thread(run)

    assert shown.getvalue() == "Noted: your code is 731."
