"""Messages in Anthropic's form, as the turns that they want."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.datastructures import Headers

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Message, ToolCall
from segue.gateway.anthropic.request import MessagesRequest
from segue.gateway.http.door import Visit
from segue.gateway.turns import GenerationRequest

VISIT = Visit(request_id="r", turn_id="t", arrived_at=0.0, headers=Headers({}))
LOOK = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def result(content: Any = "seen") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "c1", "content": content}


def wanted(*messages: Any, **fields: Any) -> GenerationRequest:
    body = {"max_tokens": 9, "messages": list(messages) or [user(text("Hello"))], **fields}
    return MessagesRequest.model_validate(body).wanted(VISIT)


def chat(*messages: Any, **fields: Any) -> ChatInput:
    (turn_input,) = wanted(*messages, **fields).inputs
    assert isinstance(turn_input, ChatInput)
    return turn_input


def test_text_is_the_same_as_a_block_of_text() -> None:
    assert chat({"role": "user", "content": "Hello"}) == chat(user(text("Hello")))
    assert chat(system="Be brief.") == chat(system=[text("Be brief.")])


def test_the_billing_block_is_left_out_wherever_it_is() -> None:
    billing = text("x-anthropic-billing-header: cc_version=2.1; cch=42;")
    blocks = [billing, text("You are."), text("Be brief.")]
    made = chat(user(text("a")), {"role": "system", "content": blocks}, system=blocks)

    assert [(one.role, one.content) for one in made.messages] == [
        ("system", "You are.\n\nBe brief."),
        ("user", "a"),
        ("system", "You are.\n\nBe brief."),
    ]
    assert chat(system=[billing]).messages[0].role == "user"


def test_thinking_calls_and_text_of_an_answer_are_one_message() -> None:
    call = {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "it"}}
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    made = chat(user(text("a")), assistant(thinking, redacted, text("b"), call), user(result()))

    assert made.messages[1:] == (
        Message(
            role="assistant",
            content="b",
            reasoning="Hm.",
            tool_calls=(ToolCall(call_id="c1", name="look", arguments='{"at": "it"}'),),
        ),
        Message(role="tool", tool_call_id="c1", content="seen"),
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [("seen", "seen"), ([text("a"), text("b")], "a\n\nb"), (None, ""), ([], "")],
)
def test_every_form_of_a_result(content: Any, said: str) -> None:
    assert chat(user(result(content))).messages[0].content == said


def test_results_come_before_what_the_user_says() -> None:
    made = chat(user(result(), result("again"), text("Go on.")))

    assert [one.role for one in made.messages] == ["tool", "tool", "user"]


def test_a_reminder_after_a_result_is_not_the_users() -> None:
    reminder = text("<system-reminder>Mind the list.</system-reminder>")
    made = chat(user(result(), reminder))

    assert [one.role for one in made.messages] == ["tool"]
    assert made.messages[0].content.endswith("</system-reminder>")
    assert [one.role for one in chat(user(result(), reminder, text("Go on."))).messages] == [
        "tool",
        "user",
    ]


def test_an_assistants_message_at_the_end_is_continued() -> None:
    begun = chat(user(text("Who?")), assistant(text("I am")))

    assert begun.continued_field == "content"
    assert chat().continued_field == ""


def test_tools_have_openais_form() -> None:
    (tool,) = chat(tools=[{**LOOK, "cache_control": {"type": "ephemeral"}}]).tools

    assert json.loads(tool) == {
        "type": "function",
        "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
    }


@pytest.mark.parametrize(
    ("choice", "num_callable", "is_single"),
    [
        (None, 1, False),
        ({"type": "auto"}, 1, False),
        ({"type": "auto", "disable_parallel_tool_use": True}, 1, True),
        ({"type": "none"}, 0, False),
    ],
)
def test_what_may_be_called(choice: Any, num_callable: int, is_single: bool) -> None:
    turn = wanted(tools=[LOOK], tool_choice=choice)

    assert (len(turn.tools), turn.is_single) == (num_callable, is_single)
    assert len(chat(tools=[LOOK], tool_choice=choice).tools) == 1


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({}, {"enable_thinking": False}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"enable_thinking": True}),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            {"reasoning_effort": "xhigh"},
        ),
    ],
)
def test_thinking_is_off_unless_it_is_asked_for(fields: Any, kwargs: Any) -> None:
    assert json.loads(chat(**fields).chat_template_kwargs) == kwargs


def test_sampling_and_stop_conditions_reach_the_turn() -> None:
    turn = wanted(temperature=0.5, top_p=0.25, top_k=3, stop_sequences=["END"])

    assert (turn.sampling.temperature, turn.sampling.top_p, turn.sampling.top_k) == (0.5, 0.25, 3)
    assert (turn.stop.max_tokens, turn.stop.stop_strings) == (9, ("END",))


IMAGE = {"type": "image", "source": {"type": "base64", "data": ""}}


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ([user(IMAGE)], {}, "messages[0].content[0].type"),
        ([user(result([IMAGE]))], {}, "messages[0].content[0].content[0].type"),
        ([assistant({"type": "server_tool_use"})], {}, "messages[0].content[0].type"),
        ([{"role": "tool", "content": "a"}], {}, "messages[0].role"),
        ([{"role": "user", "content": 5}], {}, "messages[0].content"),
        ([{"role": "user", "content": ["a"]}], {}, "messages[0].content[0]"),
        ([user({"type": "text"})], {}, "messages[0].content[0].text"),
        ([user({"type": "tool_result"})], {}, "messages[0].content[0].tool_use_id"),
        (
            [assistant({"type": "tool_use", "id": "a", "name": "b", "input": "{}"})],
            {},
            "messages[0].content[0].input",
        ),
        ([], {"system": 5}, "system"),
        ([], {"system": [IMAGE]}, "system[0].type"),
        ([], {"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type"),
        ([], {"tools": [{"name": "w"}]}, "tools[0].input_schema"),
        ([], {"tool_choice": {"type": "any"}}, "tool_choice"),
        ([], {"tool_choice": {"type": "tool", "name": "look"}}, "tool_choice"),
        ([], {"thinking": {"type": "deep"}}, "thinking.type"),
        ([], {"output_config": {"effort": "huge"}}, "output_config.effort"),
        ([], {"output_config": {"format": {}}}, "output_config.format.type"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(messages: Any, fields: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        wanted(*messages, **fields)

    assert raised.value.field == param
