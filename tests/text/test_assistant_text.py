"""Control tokens in an assistant's text, if the template does not search for them."""

from __future__ import annotations

from typing import Any

import pytest

from segue.text.chat import ChatTemplate
from segue.text.conversation import Conversation
from segue.text.template.shield import ControlMarks
from segue.text.template.source import TemplateSource

MARKS = ControlMarks(["<E>", "<T>", "</T>"], special=["<E>"])
T, T_END = MARKS.mark("<T>"), MARKS.mark("</T>")

PLAIN = "{% for m in messages %}{{ m.reasoning_content or '' }};{{ m.content }}{% endfor %}"
SEARCHING = "{% for m in messages %}{{ m.content.split('</T>')[-1] }}{% endfor %}"
SEARCHING_WITHOUT_REASONING = (
    "{% for m in messages %}{% if m.reasoning_content is string %}{{ m.content }}"
    "{% else %}{{ m.content.split('</T>')[-1] }}{% endif %}{% endfor %}"
)


def written(source: str, **message: Any) -> str:
    template = ChatTemplate(TemplateSource(plain=source, with_tools=source), MARKS)
    if "reasoning_content" in message:
        message["thinking"] = message["reasoning_content"]
    return template.render_marked(Conversation(messages=[message], tools=[]))


@pytest.mark.parametrize("role", ["user", "tool", "system"])
def test_other_roles_messages_are_text(role: str) -> None:
    assert written(PLAIN, role=role, content="<T><E></T>") == ";<T><E></T>"


def test_answers_and_reasoning_keep_all_but_special_tokens() -> None:
    text = written(PLAIN, role="assistant", content="a<T>", reasoning_content="</T><E>")

    assert text == f"{T_END}<E>;a{T}"


def test_content_parts_are_treated_like_content() -> None:
    source = "{{ messages[0].content[1].text }}"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "<T><E>"}]

    assert written(source, role="assistant", content=parts) == f"{T}<E>"


def test_a_token_that_the_template_searches_for_stays_text() -> None:
    assert written(SEARCHING, role="assistant", content="a</T>b<T>") == f"b{T}"
    text = written(SEARCHING, role="assistant", content="a</T>b<T>", reasoning_content="")
    assert text == f"b{T}"


def test_it_is_a_token_in_fields_that_the_template_does_not_search() -> None:
    message = {"role": "assistant", "content": "a</T>b", "reasoning_content": ""}

    assert written(SEARCHING_WITHOUT_REASONING, **message) == f"a{T_END}b"
    assert written(SEARCHING_WITHOUT_REASONING, role="assistant", content="a</T>b") == "b"


SEARCHING_FOR_PAIRS = (
    "{% for m in messages %}{% if '</T>' in m.content %}"
    "{{ m.content.split('</T>')[0].split('<T>')[-1] }}{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}"
)


def test_half_of_the_pair_that_the_template_searches_for_is_a_token() -> None:
    def answer_of(content: str) -> str:
        return written(SEARCHING_FOR_PAIRS, role="assistant", content=content)

    assert answer_of("<T>a") == f"{T}a"
    assert answer_of("a<T>b<T>") == f"a{T}b{T}"
    assert answer_of("a<T>b</T>c") == "b"


def test_a_token_searched_only_in_user_messages_is_a_token() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'user' and '<T>' in m.content %}result"
        "{% else %}{{ m.content.split('</T>')[-1] }}{% endif %}{% endfor %}"
    )

    assert written(source, role="assistant", content="a</T>b<T>") == f"b{T}"
    assert written(source, role="user", content="<T>") == "result"


def test_both_halves_may_be_in_several_parts() -> None:
    source = (
        "{% for m in messages %}{% set text = m.content if m.content is string else "
        "m.content | map(attribute='text') | join %}{% if '</T>' in text %}"
        "{{ text.split('</T>')[0].split('<T>')[-1] }}{% else %}{{ text }}{% endif %}{% endfor %}"
    )
    parts = [{"type": "text", "text": "<T>a"}, {"type": "text", "text": "</T>"}]

    assert written(source, role="assistant", content=parts) == "a"
    assert written(source, role="assistant", content=parts[:1]) == f"{T}a"


def test_if_probing_a_template_fails_searched_tokens_stay_text() -> None:
    source = "{% for m in messages %}{{ m.content[0].text.split('</T>')[-1] }}{% endfor %}"
    parts = [{"type": "text", "text": "a</T>b"}]

    assert written(source, role="assistant", content=parts) == "b"


def test_the_clients_message_is_not_changed() -> None:
    template = ChatTemplate(TemplateSource(plain=PLAIN, with_tools=PLAIN), MARKS)
    message: dict[str, Any] = {"role": "assistant", "content": "<T>"}

    template.render_marked(Conversation(messages=[message], tools=[]))

    assert message == {"role": "assistant", "content": "<T>"}
