"""Whole responses over a fake client, and errors."""

from __future__ import annotations

from typing import Any

import pytest

from segue.api.errors import ContextOverflow, Overloaded, SegueError, Unavailable
from segue.api.turn import FinishReason
from segue.gateway.openai.responses.request import ResponseRequest
from tests.gateway.fake_client import fails, says
from tests.gateway.faked import faked
from tests.gateway.responses.streamed import BODY, CALL, CUT_CALL, LOOK, PATH, answered

USAGE = {
    "prompt_tokens": 20,
    "cached_tokens": 8,
    "pulled_tokens": 4,
    "completion_tokens": 9,
    "reasoning_tokens": 2,
}


async def test_an_answer_is_a_response_of_items() -> None:
    said = says("Hm.\n</think>\n\n", f"Let me see.\n\n{CALL}", starts_in_reasoning=True, **USAGE)
    answer = await answered(faked(said))

    assert answer["id"].startswith("resp_")
    assert (answer["object"], answer["model"], answer["status"]) == (
        *("response", "demo", "completed"),
    )
    thought, text, call = answer["output"]
    assert thought["id"].startswith("rs_")
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert (thought["summary"], "encrypted_content" in thought) == ([], False)
    assert text["id"].startswith("msg_")
    assert (text["role"], text["status"]) == ("assistant", "completed")
    assert text["content"] == [
        {"type": "output_text", "text": "Let me see.", "annotations": [], "logprobs": []}
    ]
    assert call["id"].startswith("fc_")
    assert call["call_id"].startswith("call_")
    assert (call["name"], call["arguments"]) == ("look", '{"at": "it"}')
    assert (answer["error"], answer["incomplete_details"]) == (None, None)
    assert answer["usage"] == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 0},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 29,
    }


async def test_an_answer_sent_back_is_the_message_that_was_generated() -> None:
    said = says("Hm.\n</think>\n\n", f"Let me see.\n\n{CALL}", starts_in_reasoning=True)
    client = faked(said)
    answer = await answered(client, include=["reasoning.encrypted_content"])
    for item in answer["output"]:
        if item["type"] == "reasoning":
            del item["content"]
    await answered(client, input=[{"role": "user", "content": "Hello"}, *answer["output"]])
    chat: Any = client.client.asked[1].turn_input
    question, message = chat.messages

    assert question == client.client.asked[0].turn_input.messages[0]  # type: ignore[union-attr]
    assert (message.reasoning, message.content) == ("Hm.", "Let me see.")
    assert [(call.name, call.arguments) for call in message.tool_calls] == [
        ("look", '{"at": "it"}')
    ]


async def test_the_request_is_repeated() -> None:
    asked = {
        "instructions": "Be brief.",
        "max_output_tokens": 5,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "temperature": 0.5,
        "tool_choice": "none",
        "tools": [LOOK],
        "top_p": 0.5,
        "user": "u",
    }
    answer = await answered(faked(), **asked, store=True, reasoning={"effort": "low"})

    assert {name: answer[name] for name in asked} == asked
    assert (answer["store"], answer["previous_response_id"]) == (True, None)
    assert answer["reasoning"] == {"effort": "low", "summary": None}
    assert answer["text"] == {"format": {"type": "text"}}


async def test_an_answer_that_reached_its_limit_is_incomplete() -> None:
    answer = await answered(faked(says("Hel", reason=FinishReason.LENGTH)))

    assert (answer["status"], answer["incomplete_details"]) == (
        *("incomplete", {"reason": "max_output_tokens"}),
    )
    assert answer["output"][0]["status"] == "incomplete"


async def test_a_call_that_was_cut_off_is_text() -> None:
    pieces = ("Look.\n\n", *CUT_CALL.split("it"), "it")
    answer = await answered(faked(says(*pieces, reason=FinishReason.LENGTH)))
    (message,) = answer["output"]

    assert message["content"][0]["text"] == f"Look.\n\n{CUT_CALL}"


async def test_without_parallel_calls_the_second_one_is_dropped() -> None:
    answer = await answered(faked(says(CALL + CALL)), parallel_tool_calls=False)

    assert [item["type"] for item in answer["output"]] == ["function_call"]


async def test_log_probabilities_come_if_they_are_asked_for() -> None:
    client = faked(says("Hi", logprobs=True))
    (message,) = (await answered(client, include=["message.output_text.logprobs"]))["output"]

    assert [token["token"] for token in message["content"][0]["logprobs"]] == ["H", "i"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextOverflow("too long"), 400, "context_length_exceeded"),
        (Overloaded.after("full", retry_after_s=2.5), 429, "rate_limit_exceeded"),
        (Unavailable("down"), 503, None),
        (SegueError("a bug"), 500, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_start_has_its_status(
    error: SegueError, status: int, code: str | None, stream: bool
) -> None:
    response = await faked(fails(error)).post(PATH, {**BODY, "stream": stream})

    assert response.status_code == status
    told = response.json()["error"]
    assert (told["message"], told["code"]) == (str(error), code)


async def test_another_model_is_not_found() -> None:
    response = await faked().post(PATH, {**BODY, "model": "gpt-5"})

    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
        ),
        ({"instructions": 5}, "instructions"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": "all"}, "include"),
        ({"tools": ["look"]}, "tools[0]"),
        ({"reasoning": "low"}, "reasoning"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_a_field_of_the_wrong_kind_is_named(change: dict[str, Any], param: str) -> None:
    response = await faked().post(PATH, {**BODY, **change})

    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def _rows(status: str) -> list[str]:
    return [row.name for row in ResponseRequest.table() if row.status == status]


@pytest.mark.parametrize("field", _rows("refused"))
async def test_a_refused_field_is_refused_unless_it_asks_for_nothing(field: str) -> None:
    response = await faked().post(PATH, {**BODY, field: "something"})

    assert (response.status_code, response.json()["error"]["param"]) == (400, field)
    for neutral in ResponseRequest._refused[field][1]:
        assert (await faked().post(PATH, {**BODY, field: neutral})).status_code == 200


async def test_unknown_fields_and_ignored_ones_change_nothing() -> None:
    client = faked()
    await answered(client, **{name: {"any": 1} for name in _rows("ignored")}, x_unknown=1)

    assert client.client.asked[0].session_hint == ""
