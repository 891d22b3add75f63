"""Requests to real templates, and the expected prompts."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Message
from segue.sdk.chat_json import read_chat
from segue.text.chat import ChatTemplate
from segue.text.template.source import TemplateSource
from tests.real_vocabulary import KINDS, published_template, template

ASK = {"role": "user", "content": "q"}
NOW = {"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": "{}"}}]}
NOON = {"role": "tool", "content": "12:00"}
OPEN = "<|im_start|>assistant\n<think>\n"
SHUT = f"{OPEN}\n</think>\n\n"


@pytest.fixture(scope="module", params=["ours", "published"])
def origin(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@functools.cache
def compiled(source: str) -> ChatTemplate:
    """Compiled once for all tests: that takes a hundred times as long as they do."""
    return ChatTemplate(TemplateSource(plain=source, with_tools=source))


def rendered(origin: str, kind: str, *messages: dict[str, Any], **more: object) -> str:
    source = template(kind) if origin == "ours" else published_template(kind)
    return compiled(source).render(read_chat({"messages": list(messages), **more}))


@pytest.mark.parametrize("kind", ["3.5", "3.6", "3.8"])
def test_an_unset_thinking_option_leaves_the_templates_default(origin: str, kind: str) -> None:
    for unset in ({}, {"enable_thinking": None}):
        assert rendered(origin, kind, ASK, **unset).endswith(OPEN)
    assert rendered(origin, kind, ASK, enable_thinking=False).endswith(SHUT)
    kwargs = {"enable_thinking": False}
    assert rendered(origin, kind, ASK, chat_template_kwargs=kwargs).endswith(SHUT)
    assert rendered(origin, "3.5-nothink", ASK).endswith(SHUT)
    assert rendered(origin, "3.5-nothink", ASK, enable_thinking=True).endswith(OPEN)


def test_effort_is_the_templates_default_or_the_clients_choice(origin: str) -> None:
    default = rendered(origin, "3.8", ASK)
    assert default.startswith("<|im_start|>system\n")
    assert default == rendered(
        origin, "3.8", ASK, chat_template_kwargs={"reasoning_effort": "xhigh"}
    )
    medium = rendered(origin, "3.8", ASK, chat_template_kwargs={"reasoning_effort": "medium"})
    assert medium == f"<|im_start|>user\nq<|im_end|>\n{OPEN}"
    with pytest.raises(InvalidRequest, match=r"refuses these messages: .*ffort"):
        rendered(origin, "3.8", ASK, chat_template_kwargs={"reasoning_effort": "utmost"})


@pytest.mark.parametrize("kind", ["3.6", "3.8"])
def test_reasoning_in_the_history_is_kept_if_the_template_is_asked_to(
    origin: str, kind: str
) -> None:
    thought = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    whole = "<|im_start|>assistant\n<think>\nhm\n</think>\n\na<|im_end|>"
    options = {"chat_template_kwargs": {"preserve_thinking": True}}
    forbidden = {"chat_template_kwargs": {"preserve_thinking": False}}

    assert (whole in rendered(origin, kind, ASK, thought, ASK)) == (kind == "3.8")
    assert whole in rendered(origin, kind, ASK, thought, ASK, **options)
    assert whole not in rendered(origin, kind, ASK, thought, ASK, **forbidden)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nothing", ["", "null", "{}", None, {}])
def test_a_call_without_arguments_has_none(origin: str, kind: str, nothing: object) -> None:
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "now"}}]}
    called["tool_calls"][0]["function"]["arguments"] = nothing  # type: ignore[index]

    text = rendered(origin, kind, ASK, called, NOON)

    assert "<tool_call>\n<function=now>\n</function>\n</tool_call><|im_end|>" in text


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_needs_no_call(origin: str, kind: str) -> None:
    text = rendered(origin, kind, ASK, {"role": "tool", "content": "stray"})

    assert (
        "q<|im_end|>\n<|im_start|>user\n<tool_response>\nstray\n</tool_response><|im_end|>" in text
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parameters", [None, {"type": "object", "properties": None}])
def test_a_tool_without_parameters_is_written_unchanged(
    origin: str, kind: str, parameters: object
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}

    assert f"<tools>\n{json.dumps(tool)}\n</tools>" in rendered(origin, kind, ASK, tools=[tool])
    assert rendered(origin, kind, ASK, tools=None) == rendered(origin, kind, ASK)


@pytest.mark.parametrize("kind", ["3.5", "3.6"])
def test_empty_reasoning_is_not_searched_for_in_the_content(origin: str, kind: str) -> None:
    answer = {**NOW, "content": "a </think> b"}

    empty = rendered(origin, kind, ASK, {**answer, "reasoning_content": ""}, NOON)
    absent = rendered(origin, kind, ASK, {**answer, "reasoning_content": None}, NOON)

    assert f"{SHUT}a </think> b\n\n<tool_call>" in empty
    assert f"{OPEN}a\n</think>\n\n b\n\n<tool_call>" in absent


@pytest.mark.parametrize("kind", KINDS)
def test_content_parts_become_one_text(origin: str, kind: str) -> None:
    parts = [{"type": "text", "text": " a"}, {"type": "text", "text": "b "}]

    assert rendered(origin, kind, {**ASK, "content": parts}) == rendered(
        origin, kind, {**ASK, "content": "ab"}
    )
    one = [{"type": "text", "text": "q"}]
    assert rendered(origin, kind, {**ASK, "content": one}) == rendered(origin, kind, ASK)


@pytest.mark.parametrize("kind", KINDS)
def test_a_developer_message_is_the_system_message(origin: str, kind: str) -> None:
    as_system = rendered(origin, kind, {"role": "system", "content": "be brief"}, ASK)

    assert rendered(origin, kind, {"role": "developer", "content": "be brief"}, ASK) == as_system


NOTE = {"role": "developer", "content": "note"}
LATER = {"role": "system", "content": "note"}
SYSTEM = {"role": "system", "content": "be brief"}
SAID = {"role": "assistant", "content": "a"}
FOLDED = [
    # Two at the start become one; later ones go into the message before them …
    ([SYSTEM, NOTE, ASK], [{**SYSTEM, "content": "be brief\n\nnote"}, ASK]),
    ([ASK, LATER], [{**ASK, "content": "q\n\nnote"}]),
    ([ASK, NOTE, SAID, ASK], [{**ASK, "content": "q\n\nnote"}, SAID, ASK]),
    ([ASK, NOW, NOON, NOTE], [ASK, NOW, {**NOON, "content": "12:00\n\nnote"}]),
    # … or after them, if that one is the assistant's …
    ([ASK, SAID, LATER, ASK], [ASK, SAID, {**ASK, "content": "note\n\nq"}]),
    ([ASK, SAID, NOTE, LATER, ASK], [ASK, SAID, {**ASK, "content": "note\n\nnote\n\nq"}]),
    ([ASK, NOW, NOTE, NOON], [ASK, NOW, {**NOON, "content": "12:00\n\nnote"}]),
    # … and only between two answers do they become a user message.
    ([ASK, SAID, NOTE], [ASK, SAID, {**ASK, "content": "note"}]),
    ([ASK, SAID, NOTE, SAID, ASK], [ASK, SAID, {**ASK, "content": "note"}, SAID, ASK]),
    (
        [{**ASK, "content": [{"type": "text", "text": "q"}]}, NOTE],
        [{**ASK, "content": "q\n\nnote"}],
    ),
    (
        [ASK, NOW, {**ASK, "content": "<tool_response>\nr\n</tool_response>"}, NOTE],
        [ASK, NOW, {**ASK, "content": "<tool_response>\nr\n\nnote\n</tool_response>"}],
    ),
]


@pytest.mark.parametrize("kind", ["3.5", "3.8"])
@pytest.mark.parametrize("case", range(len(FOLDED)))
def test_instructions_are_written_at_their_position(origin: str, kind: str, case: int) -> None:
    sent, means = FOLDED[case]

    assert rendered(origin, kind, *sent) == rendered(origin, kind, *means)


def test_a_later_instruction_does_not_change_the_text_before(origin: str) -> None:
    before = rendered(origin, "3.5", SYSTEM, ASK, NOW, NOON)
    after = rendered(origin, "3.5", SYSTEM, ASK, NOW, NOON, NOTE)

    assert after.startswith(before.split("12:00")[0] + "12:00\n\nnote\n</tool_response>")


def test_a_template_that_knows_the_role_writes_it_itself() -> None:
    source = "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}"
    chat_template = ChatTemplate(TemplateSource(plain=source, with_tools=source))

    assert chat_template.render(read_chat([ASK, NOTE, SAID, LATER])) == (
        "[user: q][developer: note][assistant: a][system: note]"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_partial_answer_is_continued(origin: str, kind: str) -> None:
    partial = {"role": "assistant", "content": "Once upon a  ", "reasoning_content": ""}

    text = rendered(origin, kind, ASK, partial, continue_final_message=True)

    assert text.endswith(f"{SHUT}Once upon a")
    assert rendered(origin, kind, ASK, partial).endswith(f"{SHUT}Once upon a<|im_end|>\n") is False
    assert "Once upon a<|im_end|>\n<|im_start|>assistant\n" in rendered(origin, kind, ASK, partial)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_partial_reasoning_is_continued(origin: str, name: str) -> None:
    partial = {"role": "assistant", "content": "", "reasoning_content": "Let me"}

    text = rendered(origin, "3.5", ASK, partial, continue_final_message=name)

    assert text.endswith(f"{OPEN}Let me")


@pytest.mark.parametrize("content", ["a CONTINUE_FINAL_MESSAGE_TAG b", "<think>", "\ue000"])
def test_an_end_mark_in_the_partial_text_is_not_taken_for_its_end(
    origin: str, content: str
) -> None:
    partial = {"role": "assistant", "content": content, "reasoning_content": ""}

    text = rendered(origin, "3.5", ASK, partial, continue_final_message=True)

    assert text.endswith(f"{SHUT}{content}")


@pytest.mark.parametrize("content", [None, []])
def test_no_content_cannot_be_continued(origin: str, content: object) -> None:
    nothing = {"role": "assistant", "content": content}

    for named in (True, "content"):
        with pytest.raises(InvalidRequest, match=r"content to continue in messages\[1\], got none"):
            rendered(origin, "3.5", ASK, nothing, continue_final_message=named)
    partial = {**nothing, "reasoning_content": "Let me"}
    text = rendered(origin, "3.5", ASK, partial, continue_final_message="reasoning")
    assert text.endswith(f"{OPEN}Let me")


def test_a_message_that_cannot_be_continued_is_refused(origin: str) -> None:
    with pytest.raises(InvalidRequest, match="reasoning_content to be continued, but it has none"):
        rendered(origin, "3.5", ASK, SAID, continue_final_message="reasoning")
    dropped = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    with pytest.raises(InvalidRequest, match="cannot be continued"):
        rendered(
            origin, "3.5", ASK, dropped, ASK, dropped | ASK, continue_final_message="reasoning"
        )


@pytest.mark.parametrize(
    "name", ["messages", "tools", "add_generation_prompt", "raise_exception", "namespace"]
)
def test_a_template_variable_cannot_override_the_routers(origin: str, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"cannot set '{name}'") as refused:
        rendered(origin, "3.5", ASK, chat_template_kwargs={name: []})

    assert refused.value.field == "chat_template_kwargs"


def test_a_checkpoint_uses_its_own_named_tokens() -> None:
    source = TemplateSource(
        plain="{{ eos_token }}", with_tools="", named_tokens={"eos_token": "<e>"}
    )
    chat = ChatInput(
        messages=(Message(role="user", content="q"),), chat_template_kwargs='{"eos_token": "x"}'
    )
    with pytest.raises(InvalidRequest, match="cannot set 'eos_token'"):
        ChatTemplate(source).render(chat)
