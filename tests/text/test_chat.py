from __future__ import annotations

import re
from pathlib import Path

import pytest

from segue.api.errors import InvalidCheckpoint, InvalidRequest
from segue.api.types import ChatInput, Message
from segue.text.chat import ChatTemplate
from segue.text.template.source import TemplateSource

HELLO = ChatInput(messages=(Message(role="user", content="hello"),))


def template(source: str, with_tools: str | None = None, **named_tokens: str) -> ChatTemplate:
    return ChatTemplate(
        TemplateSource(
            plain=source,
            with_tools=source if with_tools is None else with_tools,
            named_tokens=named_tokens,
        )
    )


def test_a_conversation_is_rendered_up_to_the_answer(text_folder: Path) -> None:
    chat_template = ChatTemplate.from_folder(text_folder)

    assert chat_template is not None
    assert chat_template.render(HELLO) == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_the_thinking_option_is_passed_to_the_template(text_folder: Path) -> None:
    chat_template = ChatTemplate.from_folder(text_folder)

    assert chat_template is not None
    prompt = chat_template.render(ChatInput(messages=HELLO.messages, enable_thinking=True))
    assert prompt.endswith("<|im_start|>assistant\n<think>\n")


def test_a_folder_without_a_template_gives_none(tmp_path: Path) -> None:
    assert ChatTemplate.from_folder(tmp_path) is None


def test_a_chat_with_tools_uses_the_template_for_tools() -> None:
    chat_template = template("plain", "tools: {{ tools[0].function.name }}")
    with_tools = ChatInput(messages=HELLO.messages, tools=('{"name": "f"}',))

    assert chat_template.render(HELLO) == "plain"
    assert chat_template.render(with_tools) == "tools: f"


def test_json_is_written_without_escapes() -> None:
    source = "{{ messages[0].content | tojson }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}"
    chat = ChatInput(messages=(Message(role="user", content="<ü & 日本>"),))

    assert template(source).render(chat) == '"<ü & 日本>" {"a": 2, "b": 1}'


def test_templates_know_the_named_tokens_and_the_date() -> None:
    prompt = template("{{ eos_token }} {{ strftime_now('%Y') }}", eos_token="<e>").render(HELLO)

    assert re.fullmatch(r"<e> 20\d\d", prompt)


def test_generation_tags_of_trainers_render_their_content() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"

    assert template(source).render(HELLO) == "hello"


def test_a_template_that_refuses_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="refuses these messages: no users please"):
        template("{{ raise_exception('no users please') }}").render(HELLO)


@pytest.mark.parametrize(
    "source", ["{{ messages[0].nothing.at_all }}", "{{ 1 + messages[0].content }}", "{{ 1 // 0 }}"]
)
def test_an_error_in_a_template_is_an_invalid_request(source: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot render these messages"):
        template(source).render(HELLO)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ raise_exception.__globals__.keys() }}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(source: str) -> None:
    with pytest.raises(InvalidCheckpoint, match="must not do"):
        template(source).render(HELLO)


def test_a_template_that_does_not_compile_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidCheckpoint, match="line 2: not a valid chat template"):
        template("fine\n{% for %}")


def test_a_long_error_text_of_a_template_is_cut() -> None:
    long = ChatInput(messages=(Message(role="user", content="x" * 100_000),))
    for source in (
        "{{ raise_exception(messages[0].content) }}",
        "{{ messages[0].content | float(1 / 0) }}",
    ):
        with pytest.raises(InvalidRequest) as refused:
            template(source).render(long)
        assert len(str(refused.value)) < 1000


def test_variables_that_a_template_reads_are_passed() -> None:
    chat = ChatInput(messages=HELLO.messages, chat_template_kwargs='{"tone": ["dry", null]}')

    assert template("{{ tone | tojson }} {{ other is defined }}").render(chat) == (
        '["dry", null] False'
    )


def test_a_message_is_left_open_for_continuation_even_if_written_twice() -> None:
    source = "{% for m in messages %}{{ m.content }};{{ m.content }}.{% endfor %}"
    chat = ChatInput(messages=HELLO.messages, continue_final_message=True)

    assert template(source).render(chat) == "hello;hello"
