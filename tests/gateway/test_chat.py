"""Chat completions over a fake client: the objects and the chunks that come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from segue.api.errors import (
    ContextOverflow,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    SegueError,
    TransferFailed,
    Unavailable,
)
from segue.api.turn import FinishReason, TurnEvent
from segue.gateway.http.fields import Body
from segue.gateway.openai.chat_request import ChatRequest
from tests.gateway.fake_client import MODEL, delta, ended, fails, says, started
from tests.gateway.faked import Faked, faked

PATH = "/v1/chat/completions"
BODY = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = "Let me see.\n\n<tool_call>\n<function=look>\n<parameter=at>\nit\n</parameter>\n"
CALLS = CALL + "</function>\n</tool_call>\n<tool_call>\n<function=look>\n</function>\n</tool_call>"
USAGE = {
    "prompt_tokens": 20,
    "cached_tokens": 8,
    "pulled_tokens": 4,
    "completion_tokens": 9,
    "drafted_tokens": 6,
    "accepted_tokens": 5,
    "reasoning_tokens": 2,
}


async def test_an_answer_is_a_chat_completion() -> None:
    answer = (await faked(says("Hel", "lo", **USAGE)).post(PATH, BODY)).json()

    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "demo")
    assert answer["system_fingerprint"] == "segue-0123456789ab"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    assert answer["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 9,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 12, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 2,
            "accepted_prediction_tokens": 5,
            "rejected_prediction_tokens": 1,
            "audio_tokens": 0,
        },
    }


async def test_chunks_say_who_speaks_once_and_end_with_a_reason_and_the_usage() -> None:
    asked = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, done = await faked(says("Hel", "lo", **USAGE)).events(PATH, asked)

    assert done == "[DONE]"
    assert {chunk["id"] for chunk in [*chunks, last]} == {last["id"]}
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 29)


async def test_without_the_option_a_stream_has_no_usage() -> None:
    chunks = await faked().events(PATH, {**BODY, "stream": True})

    assert all("usage" not in chunk for chunk in chunks[:-1])


async def test_tokens_that_wait_share_a_chunk() -> None:
    async def at_once(number: int) -> AsyncGenerator[TurnEvent, None]:
        yield started()
        for text in ("a", "b", "c"):
            yield delta(text)
        yield ended()

    chunk, done = await faked(at_once).events(PATH, {**BODY, "stream": True})

    assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": "abc"}
    assert (chunk["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_has_both_its_names(stream: bool) -> None:
    client = faked(says("Hm", ".\n</think>\n\nHi.", starts_in_reasoning=True))

    assert await message(client, stream=stream) == {
        "role": "assistant",
        "content": "Hi.",
        "reasoning": "Hm.",
        "reasoning_content": "Hm.",
    }
    assert "reasoning" not in await message(client, stream=stream, include_reasoning=False)


async def test_reasoning_and_arguments_are_sent_while_they_are_generated() -> None:
    pieces = ("Hm", ", yes.\n</think>\n\n", *CALL.split("it"), "</function>\n</tool_call>")
    client = faked(says(*pieces, starts_in_reasoning=True))
    *chunks, _ = await client.events(PATH, {**BODY, "stream": True, "tools": [LOOK]})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]

    assert deltas[0]["reasoning"] == "Hm"
    assert calls[0]["function"]["name"] == "look"
    assert len(calls) > 1
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_the_router_says_how_answers_are_read() -> None:
    call = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    answer = f"Hm.</think>{call}{CALLS}"

    def read_by(tool_calls: str, reasoning: str) -> Faked:
        names = {"tool_call_parser": tool_calls, "reasoning_parser": reasoning}
        return faked(says(answer, starts_in_reasoning=True, parsers=names))

    as_json = await message(read_by("hermes", "qwen3"), tools=[LOOK])
    as_text = await message(read_by("none", "none"), tools=[LOOK])

    assert (as_json["reasoning"], len(as_json["tool_calls"])) == ("Hm.", 1)
    assert CALLS in as_json["content"]
    assert (as_text["content"], "reasoning" in as_text) == (answer, False)


@pytest.mark.parametrize("stream", [False, True])
async def test_empty_reasoning_is_left_out(stream: bool) -> None:
    said = await message(faked(says("</think>\n\nHi.", starts_in_reasoning=True)), stream=stream)

    assert said == {"role": "assistant", "content": "Hi."}


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_are_apart_from_the_text_around_them(stream: bool) -> None:
    said = await message(faked(says(CALLS)), stream=stream, tools=[LOOK])

    assert said["content"] == "Let me see."
    assert [call["function"] for call in said["tool_calls"]] == [
        {"name": "look", "arguments": '{"at": "it"}'},
        {"name": "look", "arguments": "{}"},
    ]
    assert len({call["id"] for call in said["tool_calls"]}) == 2
    assert said["finish_reason"] == "tool_calls"


async def test_an_answer_that_is_only_a_call_has_no_content() -> None:
    said = CALLS.removeprefix("Let me see.\n\n")
    answer = (await faked(says(said)).post(PATH, {**BODY, "tools": [LOOK]})).json()

    assert answer["choices"][0]["message"]["content"] is None


async def test_a_call_that_may_not_be_made_is_text() -> None:
    said = await message(faked(says(CALLS)), tools=[LOOK], tool_choice="none")

    assert (said["content"], said["finish_reason"]) == (CALLS, "stop")


async def test_a_call_that_was_cut_off_is_text() -> None:
    said = await message(faked(says(CALL, reason=FinishReason.LENGTH)), tools=[LOOK])

    assert (said["content"], said["finish_reason"]) == (CALL, "length")


async def test_without_parallel_calls_the_second_one_is_dropped() -> None:
    said = await message(faked(says(CALLS)), tools=[LOOK], parallel_tool_calls=False)

    assert (len(said["tool_calls"]), said["finish_reason"]) == (1, "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_have_the_tokens_texts_and_bytes(stream: bool) -> None:
    client = faked(says("é", logprobs=True))
    asked = {**BODY, "logprobs": True, "top_logprobs": 1, "stream": stream}
    if stream:
        chunks = await client.events(PATH, asked)
        tokens = [
            token
            for chunk in chunks[:-1]
            for token in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
        ]
    else:
        answer = (await client.post(PATH, asked)).json()
        tokens = answer["choices"][0]["logprobs"]["content"]

    assert [token["bytes"] for token in tokens] == [[0xC3], [0xA9]]
    assert [token["token"] for token in tokens] == ["\ufffd", "\ufffd"]
    assert tokens[0]["top_logprobs"] == [{"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]}]


async def test_token_ids_come_back_if_they_are_asked_for() -> None:
    asked = {**BODY, "return_token_ids": True}
    answer = (await faked(says("Hi")).post(PATH, asked)).json()
    first, *_ = await faked(says("Hi")).events(PATH, {**asked, "stream": True})

    assert answer["prompt_token_ids"] == first["prompt_token_ids"] == [0]
    assert answer["choices"][0]["token_ids"] == first["choices"][0]["token_ids"] == [72, 105]


async def test_several_answers_are_turns_of_their_own_on_one_prompt() -> None:
    client = faked(says("Hi", **USAGE))
    answer = (await client.post(PATH, {**BODY, "n": 3, "seed": 5})).json()

    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [asked.sampling.seed for asked in client.client.asked] == [5, 6, 7]
    assert len({asked.turn_id for asked in client.client.asked}) == 3
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (20, 27)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 12


async def test_more_answers_than_the_tenant_may_have_turns_are_refused_for_good() -> None:
    client = faked()
    client.client.model_info = replace(MODEL, max_turns=2)

    response = await client.post(PATH, {**BODY, "n": 3})

    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
    assert "at most 2 answers, got 3" in response.json()["error"]["message"]
    assert not client.client.asked


async def test_the_other_answers_start_when_the_first_has_computed_the_prompt() -> None:
    order: list[str] = []

    async def answer(number: int) -> AsyncGenerator[TurnEvent, None]:
        order.append(f"starts {number}")
        yield started()
        await asyncio.sleep(0.01)
        order.append(f"token {number}")
        yield delta("a")
        yield ended()

    await faked(answer).post(PATH, {**BODY, "n": 2})

    assert order == ["starts 0", "token 0", "starts 1", "token 1"]


async def test_the_stop_string_that_ended_an_answer_is_named() -> None:
    answer = (await faked(says("a", stop_match="END")).post(PATH, BODY)).json()

    assert answer["choices"][0]["stop_reason"] == "END"


@pytest.mark.parametrize(
    ("error", "status", "code", "after"),
    [
        (InvalidRequest("no"), 400, None, None),
        (ContextOverflow("too long"), 400, "context_length_exceeded", None),
        (NotFound("gone"), 404, None, None),
        (Overloaded.after("full", retry_after_s=2.5), 429, "rate_limit_exceeded", "3"),
        (Unavailable("down"), 503, None, "1"),
        (Unavailable.after("no decode worker is ready", retry_after_s=5.0), 503, None, "5"),
        (TransferFailed("lost"), 503, None, None),
        (DeadlineExceeded("late"), 504, None, None),
        (SegueError("a bug"), 500, None, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_has_its_status_and_the_apis_form(
    error: SegueError, status: int, code: str | None, after: str | None, stream: bool
) -> None:
    response = await faked(fails(error)).post(PATH, {**BODY, "stream": stream})

    assert response.status_code == status
    told = response.json()["error"]
    assert (told["message"], told["code"], told["param"]) == (str(error), code, None)
    assert response.headers.get("retry-after") == after


async def test_an_error_after_the_first_token_is_the_streams_last_event() -> None:
    client = faked(fails(TransferFailed("lost"), "a"))
    chunk, error, done = await client.events(PATH, {**BODY, "stream": True})

    assert chunk["choices"][0]["delta"]["content"] == "a"
    assert (error["error"]["message"], done) == ("lost", "[DONE]")


async def test_an_error_of_ours_does_not_say_what_happened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = await faked(fails(ZeroDivisionError("secret"))).post(PATH, BODY)

    assert response.status_code == 500
    assert "secret" not in response.text
    assert "secret" in caplog.text


async def test_another_model_is_not_found() -> None:
    response = await faked().post(PATH, {**BODY, "model": "gpt-5"})

    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert "'demo'" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"tools": ["look"]}, "tools[0]"),
        ({"seed": "1"}, "seed"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_a_field_of_the_wrong_kind_is_named(change: dict[str, Any], param: str) -> None:
    response = await faked().post(PATH, {**BODY, **change})

    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
        {"role": "user", "content": 5},
        {"content": "Hello"},
        {"role": "assistant", "tool_calls": [{"function": {}}]},
    ],
)
async def test_a_message_that_cannot_be_read_is_named(message: dict[str, Any]) -> None:
    response = await faked().post(PATH, {**BODY, "messages": [message]})

    assert response.status_code == 400
    assert "messages[0]" in response.json()["error"]["message"]


def _refused(kind: type[Body]) -> list[str]:
    return [row.name for row in kind.table() if row.status == "refused"]


@pytest.mark.parametrize("field", _refused(ChatRequest))
async def test_a_refused_field_is_refused_unless_it_asks_for_nothing(field: str) -> None:
    response = await faked().post(PATH, {**BODY, field: "something"})

    assert (response.status_code, response.json()["error"]["param"]) == (400, field)
    for neutral in ChatRequest._refused[field][1]:
        assert (await faked().post(PATH, {**BODY, field: neutral})).status_code == 200


async def test_unknown_fields_and_ignored_ones_change_nothing() -> None:
    ignored = {row.name: {"any": 1} for row in ChatRequest.table() if row.status == "ignored"}
    client = faked()
    response = await client.post(PATH, {**BODY, **ignored, "x_unknown": 1})

    assert response.status_code == 200
    assert client.client.asked[0].session_hint == ""


async def message(client: Any, *, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """The answer's message, whole or put together from chunks, with its finish reason if that is
    not "stop"."""
    asked = {**BODY, "stream": stream, **fields}
    if not stream:
        (choice,) = (await client.post(PATH, asked)).json()["choices"]
        said = {name: value for name, value in choice["message"].items() if name != "refusal"}
        return _with_reason(said, choice["finish_reason"], fields)
    *chunks, _ = await client.events(PATH, asked)
    said = {}
    calls: dict[int, Any] = {}
    for chunk in chunks:
        for name, value in chunk["choices"][0]["delta"].items():
            if name != "tool_calls":
                said[name] = said.get(name, "") + value
                continue
            for call in value:
                if call["index"] not in calls:
                    calls[call["index"]] = call
                else:
                    added = call["function"]["arguments"]
                    calls[call["index"]]["function"]["arguments"] += added
    if calls:
        said["tool_calls"] = [calls[index] for index in sorted(calls)]
    return _with_reason(said, chunks[-1]["choices"][0]["finish_reason"], fields)


def _with_reason(said: dict[str, Any], reason: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {**said, "finish_reason": reason} if "tools" in fields else said
