"""No request makes a template run away: time, output, repetitions."""

from __future__ import annotations

import itertools
import json

import pytest

from segue.api.errors import InvalidRequest
from segue.api.types import ChatInput, Message, TextInput
from segue.text.chat import ChatTemplate
from segue.text.conversation import read_template_kwargs
from segue.text.limits import num_characters, work_of
from segue.text.template import environment as module
from segue.text.template.environment import bounded
from segue.text.template.source import TemplateSource

HELLO = Message(role="user", content="Hello")
ENDLESS = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if spin %}{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}"
    "{% endfor %}{% endif %}"
)


def test_a_rendering_ends_when_it_takes_too_long() -> None:
    ticks = itertools.count()

    with pytest.raises(InvalidRequest, match="takes more than 10 s for this request"):
        for _ in bounded(itertools.repeat("x"), clock=lambda: next(ticks)):
            pass

    assert next(ticks) < 20


def test_a_rendering_ends_when_it_writes_too_much() -> None:
    written = []

    with pytest.raises(InvalidRequest, match="writes more than 100 characters"):
        written += bounded(itertools.repeat("0123456789"), max_characters=100)

    assert list(bounded(["a", "b"], max_characters=2)) == ["a", "b"]


def test_a_template_that_would_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.bounded, "__kwdefaults__", {**bounded.__kwdefaults__, "max_s": 0.05})
    template = ChatTemplate(
        TemplateSource(plain=ENDLESS, with_tools=ENDLESS, named_tokens={}, origin="template")
    )

    assert template.render(ChatInput(messages=(HELLO,))) == "Hello"
    with pytest.raises(InvalidRequest, match="takes more than"):
        template.render(ChatInput(messages=(HELLO,), chat_template_kwargs='{"spin": true}'))


@pytest.mark.parametrize("number", [1_000_001, -1_000_001, 1e300, 10**100])
def test_kwargs_have_no_huge_numbers(number: float) -> None:
    for kwargs in ({"n": number}, {"a": [{"b": number}]}):
        chat = ChatInput(messages=(HELLO,), chat_template_kwargs=json.dumps(kwargs))
        with pytest.raises(InvalidRequest, match="numbers of at most 1000000, got"):
            read_template_kwargs(chat)

    small = ChatInput(messages=(HELLO,), chat_template_kwargs='{"n": 1000000, "b": true}')
    assert read_template_kwargs(small) == {"n": 1_000_000, "b": True}


def test_messages_without_text_are_work_too() -> None:
    """An event loop must not render a hundred thousand empty messages."""
    empty = ChatInput(messages=(Message(role="user", content=""),) * 100_000)

    assert work_of(empty) > 6 * num_characters(empty)
    assert work_of(empty) > 3_000_000
    assert work_of(empty, first=99_999) < 100
    assert work_of(TextInput("Hello")) == 5
