"""Chat requests in OpenAI's form, as the turns that they want."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.datastructures import Headers

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput
from segue.gateway.http.door import Visit
from segue.gateway.openai.chat_request import ChatRequest
from segue.gateway.turns import GenerationRequest

HELLO = {"role": "user", "content": "Hello"}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
VISIT = Visit(request_id="r", turn_id="t", arrived_at=0.0, headers=Headers({}))


def wanted(visit: Visit = VISIT, **fields: Any) -> GenerationRequest:
    body = ChatRequest.model_validate({"messages": [HELLO], **fields})
    return body.wanted(visit, max_choices=4)


def chat(**fields: Any) -> ChatInput:
    (turn_input,) = wanted(**fields).inputs
    assert isinstance(turn_input, ChatInput)
    return turn_input


def test_what_is_absent_or_null_is_left_to_the_checkpoint() -> None:
    nulls: Any = dict.fromkeys(ChatRequest.model_fields.keys() - {"messages"})

    assert wanted() == wanted(**nulls)
    assert wanted().sampling.temperature is None
    assert wanted().stop.max_tokens is None
    assert chat().chat_template_kwargs == ""


def test_every_field_of_sampling_reaches_the_turn() -> None:
    fields: Any = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.25,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.75,
        "frequency_penalty": -0.5,
    }
    sampling = wanted(**fields, seed=-1, logit_bias={"7": -2}).sampling

    assert {name: getattr(sampling, name) for name in fields} == fields
    assert sampling.seed == 2**63 - 1
    assert sampling.logit_bias == {7: -2.0}


def test_minus_one_keeps_every_token_as_in_vllm() -> None:
    assert wanted(top_k=-1).sampling.top_k == 0


@pytest.mark.parametrize(
    ("fields", "num"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5),
        ({"top_logprobs": 0}, None),
    ],
)
def test_alternatives_are_asked_for_with_logprobs(fields: Any, num: int | None) -> None:
    assert wanted(**fields).sampling.logprobs == num


def test_every_stop_condition_reaches_the_turn() -> None:
    stop = wanted(stop="a", stop_token_ids=[3], ignore_eos=True, max_tokens=5).stop

    assert (stop.stop_strings, stop.stop_token_ids) == (("a",), (3,))
    assert (stop.ignore_eos, stop.max_tokens) == (True, 5)
    assert wanted(stop=["a", "b"]).stop.stop_strings == ("a", "b")
    assert wanted(max_tokens=5, max_completion_tokens=6).stop.max_tokens == 6


def test_a_least_length_reaches_the_turn() -> None:
    assert wanted(min_tokens=5, max_tokens=5).stop.min_tokens == 5
    assert wanted(min_tokens=0).stop.min_tokens == 0
    with pytest.raises(InvalidRequest, match=r"at most max_tokens \(5\), got 6"):
        wanted(min_tokens=6, max_tokens=5)


def test_text_is_the_same_as_a_list_of_texts() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    (message,) = chat(messages=[{"role": "user", "content": parts}]).messages

    assert message.content_parts == ("Hel", "lo")


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_comes_back_under_either_name(name: str) -> None:
    said = {"role": "assistant", "content": "Hi.", name: "A greeting."}

    assert chat(messages=[HELLO, said, HELLO]).messages[1].reasoning == "A greeting."


def test_calls_and_their_results_come_back() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "nothing"}
    _, calling, answering = chat(messages=[HELLO, said, result], tools=[LOOK]).messages

    assert (calling.tool_calls[0].name, calling.tool_calls[0].arguments) == ("look", '{"a": 1}')
    assert (answering.tool_call_id, answering.content) == ("c1", "nothing")


@pytest.mark.parametrize(("choice", "num_callable"), [(None, 1), ("auto", 1), ("none", 0)], ids=str)
def test_tools_stay_in_the_prompt_even_if_none_may_be_called(
    choice: str | None, num_callable: int
) -> None:
    turn = wanted(tools=[LOOK], tool_choice=choice)

    assert len(turn.tools) == num_callable
    assert [json.loads(tool) for tool in chat(tools=[LOOK], tool_choice=choice).tools] == [LOOK]


def test_without_parallel_calls_an_answer_has_one() -> None:
    assert wanted(parallel_tool_calls=False).is_single
    assert not wanted(parallel_tool_calls=True).is_single


@pytest.mark.parametrize(
    ("effort", "kwargs"),
    [
        ("none", {"enable_thinking": False}),
        ("minimal", {"enable_thinking": True, "reasoning_effort": "low"}),
        ("high", {"enable_thinking": True, "reasoning_effort": "xhigh"}),
    ],
)
def test_an_effort_is_one_that_templates_know(effort: str, kwargs: dict[str, object]) -> None:
    assert json.loads(chat(reasoning_effort=effort).chat_template_kwargs) == kwargs


def test_variables_of_the_template_win_over_the_effort() -> None:
    variables = {"enable_thinking": False, "preserve_thinking": True}
    made = chat(reasoning_effort="low", chat_template_kwargs=variables).chat_template_kwargs

    assert json.loads(made) == {"reasoning_effort": "low", **variables}


def test_an_answer_can_continue_a_message() -> None:
    begun = [HELLO, {"role": "assistant", "content": "I am"}]

    assert chat(messages=begun, continue_final_message=True).continued_field == "content"
    assert chat(add_generation_prompt=False).add_generation_prompt is False
    with pytest.raises(InvalidRequest, match="expected content to continue"):
        chat(messages=[HELLO, {"role": "assistant"}], continue_final_message=True)
    with pytest.raises(InvalidRequest, match="leave one of them out"):
        chat(messages=begun, continue_final_message=True, add_generation_prompt=True)


def test_several_answers_share_their_prompt() -> None:
    first, *others = wanted(n=3).inputs

    assert len(others) == 2
    assert all(other is first for other in others)


@pytest.mark.parametrize(
    ("headers", "key", "hint"),
    [
        ({}, None, ""),
        ({}, "k", "k"),
        ({"X-Session-Id": "a"}, "k", "a"),
        ({"x-session-affinity": "b"}, None, "b"),
        ({"session-id": "c"}, None, "c"),
        ({"X-Claude-Code-Session-Id": "d"}, None, "d"),
        ({"session-id": "x" * 300}, None, "x" * 256),
        ({}, "not\nprintable", ""),
    ],
)
def test_a_clients_name_for_the_conversation_is_a_hint(
    headers: dict[str, str], key: str | None, hint: str
) -> None:
    visit = Visit(request_id="r", turn_id="t", arrived_at=0.0, headers=Headers(headers))

    assert wanted(visit, prompt_cache_key=key).hint == hint


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("tool_choice", "required", "expected tools with it"),
        ("tool_choice", {"type": "allowed_tools"}, "or a named function"),
        ("n", 5, "at most 4 answers, got 5"),
        ("top_logprobs", 3, "expected logprobs to be true"),
        ("logit_bias", {"a": 1.0}, "expected token ids as names"),
        ("reasoning_effort", "huge", "expected one of none, minimal"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(field: str, value: object, says: str) -> None:
    fields: Any = {field: value}

    with pytest.raises(InvalidRequest, match=says) as raised:
        wanted(**fields)

    assert raised.value.field == field
