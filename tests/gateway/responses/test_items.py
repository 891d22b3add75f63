"""Input items as messages: which items are one answer, what is skipped, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from segue.api.errors import InvalidRequest
from segue.api.types import Message
from segue.gateway.openai.responses.items import chat_messages, encrypted, read_items

ASK = {"role": "user", "content": "Hello"}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Hm."}],
}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}
CALL = {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"at": "it"}'}
SEEN = {"type": "function_call_output", "call_id": "c", "output": "nothing"}


def messages(*items: Any) -> list[Message]:
    return list(chat_messages(items))


def test_the_items_of_one_answer_are_one_message() -> None:
    (said,) = messages(THOUGHT, SAID, CALL, {**CALL, "call_id": "d"}, SAID)

    assert (said.reasoning, said.content) == ("Hm.", "Hi.Hi.")
    assert [call.call_id for call in said.tool_calls] == ["c", "d"]


@pytest.mark.parametrize("items", [(THOUGHT, SAID, THOUGHT, SAID), (SAID, SAID), (CALL, THOUGHT)])
def test_two_answers_in_a_row_stay_two_messages(items: tuple[Any, ...]) -> None:
    assert [message.role for message in messages(*items)] == ["assistant", "assistant"]


def test_results_and_questions_end_an_answer() -> None:
    roles = [message.role for message in messages(ASK, CALL, SEEN, SAID, ASK, SAID)]

    assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant"]


def test_instructions_stay_where_they_are() -> None:
    roles = [
        message.role
        for message in messages({**ASK, "role": "developer"}, ASK, SAID, {**ASK, "role": "system"})
    ]

    assert roles == ["developer", "user", "assistant", "system"]


def test_items_of_unknown_types_are_skipped() -> None:
    unknown = [
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "custom_tool_call", "call_id": "x", "name": "apply_patch", "input": ""},
        {"type": "custom_tool_call_output", "call_id": "x", "output": ""},
        {"type": "ghost_snapshot"},
    ]

    assert messages(THOUGHT, unknown[0], SAID, *unknown) == messages(THOUGHT, SAID)


@pytest.mark.parametrize(
    ("item", "reasoning"),
    [
        (THOUGHT, "Hm."),
        ({**THOUGHT, "content": None, "encrypted_content": encrypted("Größe 👋🏽")}, "Größe 👋🏽"),
        ({**THOUGHT, "content": [], "encrypted_content": encrypted("other")}, "other"),
        ({**THOUGHT, "encrypted_content": encrypted("other")}, "Hm."),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "So."}]}, "So."),
        # OpenAI's own: Fernet, which no server but theirs can read.
        ({"type": "reasoning", "summary": [], "encrypted_content": "gAAAAABofake_-=="}, None),
        ({"type": "reasoning", "encrypted_content": "gAAAAABo"}, None),
        ({"type": "reasoning", "summary": [], "encrypted_content": ""}, None),
    ],
)
def test_reasoning_comes_back_in_any_of_its_forms(item: Any, reasoning: str | None) -> None:
    (said,) = messages(item, SAID)

    assert (said.reasoning, said.content) == (reasoning, "Hi.")


@pytest.mark.parametrize(
    "change",
    [{"status": "incomplete"}, {"arguments": '{"at": "i'}, {"arguments": "[]"}],
)
def test_half_a_call_is_text(change: dict[str, str]) -> None:
    call = {**CALL, **change}
    (said,) = messages(call)

    assert (said.tool_calls, said.content) == ((), f"look {call['arguments']}")


@pytest.mark.parametrize("arguments", ["", " ", "null", "{}"])
def test_no_arguments_are_a_whole_call(arguments: str) -> None:
    (said,) = messages({**CALL, "arguments": arguments})

    assert len(said.tool_calls) == 1


@pytest.mark.parametrize(
    ("item", "param", "says"),
    [
        ({"role": "boss", "content": "a"}, "input[1].role", "expected user, assistant"),
        ({}, "input[1].role", "got None"),
        ({"role": "user"}, "input[1].content", "a text or a list of parts"),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
            "input[1].content[0]",
            "'input_image': only text is served",
        ),
        ({"role": "user", "content": [5]}, "input[1].content[0]", "got a number"),
        (
            {"role": "user", "content": [{"type": "input_text"}]},
            "input[1].content[0].text",
            "expected a text",
        ),
        ({**CALL, "arguments": {}}, "input[1].arguments", "expected a text"),
        ({**CALL, "name": None}, "input[1].name", "expected a text"),
        ({**CALL, "namespace": 5}, "input[1].namespace", "expected a text"),
        ({**SEEN, "output": None}, "input[1].output", "a text or a list of parts"),
        (
            {**SEEN, "output": [{"type": "input_image", "image_url": "x"}]},
            "input[1].output[0]",
            "only text is served",
        ),
        ({"type": "reasoning", "content": "Hm."}, "input[1].content", "a list of parts"),
        ({"type": "reasoning", "summary": [5]}, "input[1].summary[0]", "expected an object"),
        ({"type": "item_reference", "id": "msg_1"}, "input[1].type", "send the item"),
    ],
)
def test_an_item_that_cannot_be_read_is_named(item: Any, param: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as raised:
        messages(ASK, item)

    assert raised.value.field == param


def test_items_that_are_read_are_those_that_make_messages() -> None:
    unknown = {"type": "web_search_call", "id": "ws_1"}
    items = [unknown, ASK, unknown, THOUGHT, unknown, SAID, CALL, SEEN, {"type": ["a"]}]
    read = read_items(items)

    assert read == [ASK, THOUGHT, SAID, CALL, SEEN]
    assert messages(*read) == messages(*items)
