"""Streamed responses over a fake client: the sequence of events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from segue.api.errors import ContextOverflow, Overloaded, SegueError, TransferFailed
from segue.api.turn import FinishReason, TurnEvent
from tests.gateway.fake_client import delta, ended, fails, says, started
from tests.gateway.faked import faked
from tests.gateway.responses.streamed import BODY, CALL, CUT_CALL, PATH, events, names

START = ["created", "in_progress"]


async def test_a_text_opens_and_closes_its_item_and_its_part() -> None:
    read = await events(faked(says("Hel", "lo")))

    assert names(read) == [
        *START,
        *("output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done", "completed"),
    ]
    created, _, added, part, first, second, done, part_done, item_done, completed = read
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert created["response"]["usage"] is None
    assert (added["item"]["status"], added["item"]["content"]) == ("in_progress", [])
    assert part["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert (first["delta"], second["delta"], done["text"]) == ("Hel", "lo", "Hello")
    assert part_done["part"] == {**part["part"], "text": "Hello"}
    assert item_done["item"] == {
        **added["item"],
        "status": "completed",
        "content": [part_done["part"]],
    }
    assert completed["response"]["output"] == [item_done["item"]]
    ids = {event["item_id"] for event in (part, first, second, done, part_done)}
    assert ids == {added["item"]["id"]}
    assert created["response"]["id"] == completed["response"]["id"]
    assert completed["response"]["usage"]["input_tokens"] == 7


async def test_each_item_is_closed_before_the_next() -> None:
    said = says("Hm", ".\n</think>\n\n", f"Look.\n\n{CALL}", starts_in_reasoning=True)
    read = await events(faked(said))

    assert names(read) == [
        *START,
        *("output_item.added", "content_part.added"),
        *("reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "completed"),
    ]
    indices = [event["output_index"] for event in read if "output_index" in event]
    assert indices == [0] * 7 + [1] * 6 + [2] * 5
    fragments = [event["delta"] for event in read if event["type"].endswith("arguments.delta")]
    done = next(event for event in read if event["type"].endswith("arguments.done"))
    assert "".join(fragments) == done["arguments"]
    assert json.loads(done["arguments"]) == {"at": "it"}
    thought, text, call = read[-1]["response"]["output"]
    assert [item["status"] for item in (thought, text, call)] == ["completed"] * 3
    assert call["arguments"] == done["arguments"]


async def test_encrypted_reasoning_comes_with_the_whole_item() -> None:
    said = says("Hm.\n</think>\n\nHi.", starts_in_reasoning=True)
    read = await events(faked(said), include=["reasoning.encrypted_content"])
    added, done = (
        next(event["item"] for event in read if event["type"] == f"response.output_item.{when}")
        for when in ("added", "done")
    )

    assert "encrypted_content" not in added
    assert done["encrypted_content"] == "SG0u"


async def test_an_answer_that_reached_its_limit_is_incomplete() -> None:
    *_, item, last = await events(faked(says("Hel", reason=FinishReason.LENGTH)))

    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert item["item"]["status"] == "incomplete"


async def test_a_streamed_call_that_was_cut_off_is_an_incomplete_item() -> None:
    pieces = ("Look.\n\n", *CUT_CALL.split("it"), "it")
    read = await events(faked(says(*pieces, reason=FinishReason.LENGTH)))
    text, call = read[-1]["response"]["output"]

    assert names(read)[-3:] == ["function_call_arguments.done", "output_item.done", "incomplete"]
    assert (text["status"], call["status"]) == ("completed", "incomplete")
    assert (call["type"], call["name"]) == ("function_call", "look")


async def test_calls_of_a_namespace_have_both_names() -> None:
    look = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    space = {"type": "namespace", "name": "mcp__disk", "description": "", "tools": [look]}
    said = says(CALL.replace("=look", "=mcp__disk__look"))
    read = await events(faked(said), tools=[space])

    for item in (read[2]["item"], read[-2]["item"]):
        assert (item["namespace"], item["name"]) == ("mcp__disk", "look")


async def test_deltas_have_the_log_probabilities_of_their_tokens() -> None:
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    read = await events(faked(says("é", "x", logprobs=True)), **asked)
    deltas = [event for event in read if event["type"] == "response.output_text.delta"]
    (message,) = read[-1]["response"]["output"]

    assert [[token["bytes"] for token in event["logprobs"]] for event in deltas] == [
        [[0xC3], [0xA9]],
        [[0x78]],
    ]
    everything = [token for event in deltas for token in event["logprobs"]]
    assert message["content"][0]["logprobs"] == everything
    assert everything[2] == {
        "token": "x",
        "logprob": -0.5,
        "bytes": [0x78],
        "top_logprobs": [{"token": "x", "logprob": -0.5, "bytes": [0x78]}],
    }


async def test_tokens_that_wait_share_an_event() -> None:
    async def at_once(number: int) -> AsyncGenerator[TurnEvent, None]:
        yield started()
        for text in ("a", "b", "c"):
            yield delta(text)
        yield ended()

    deltas = [event["delta"] for event in await events(faked(at_once)) if "delta" in event]

    assert deltas == ["abc"]


async def test_a_silent_stream_starts_and_is_kept_alive() -> None:
    response = await faked(says("a", wait_s=0.1), ping_s=0.02).post(PATH, {**BODY, "stream": True})
    first, second, third, *_ = response.text.split("\n\n")

    assert first.startswith("event: response.created\n")
    assert second.startswith("event: response.in_progress\n")
    assert third == ": waiting"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TransferFailed("lost"), "server_error"),
        (Overloaded.after("full", retry_after_s=1.0), "rate_limit_exceeded"),
        (ContextOverflow("too long"), "context_length_exceeded"),
    ],
    ids=str,
)
async def test_an_error_after_the_start_is_the_last_event(error: SegueError, code: str) -> None:
    read = await events(faked(fails(error, "Hel")))
    response: Any = read[-1]["response"]

    assert names(read) == [
        *START,
        *("output_item.added", "content_part.added", "output_text.delta", "failed"),
    ]
    assert (response["status"], response["error"]) == (
        "failed",
        {"code": code, "message": str(error)},
    )
    (item,) = response["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "Hel")
