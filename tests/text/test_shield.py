"""Control tokens from the template are marks; those in a client's text stay text."""

from __future__ import annotations

import pytest
from jinja2 import Environment

from segue.api.errors import InvalidCheckpoint
from segue.text.chat import ChatTemplate
from segue.text.conversation import Conversation
from segue.text.template.shield import END_MARK, ControlMarks
from segue.text.template.source import TemplateSource

MARKS = ControlMarks(["<E>", "<E", "<T>", "</T>"])
E, SHORT, T, T_END = map(MARKS.mark, ("<E>", "<E", "<T>", "</T>"))


def test_the_longest_token_is_marked_and_expanded_again() -> None:
    assert MARKS.mark("a<E>b<E<E>") == f"a{E}b{SHORT}{E}"
    assert MARKS.expand(f"a{E}b{SHORT}{E}") == "a<E>b<E<E>"
    assert len({E, SHORT, T, T_END, END_MARK}) == 5


@pytest.mark.parametrize("mark", [E, T, END_MARK])
def test_a_mark_is_a_character_that_no_text_can_hold(mark: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        mark.encode()


def test_more_tokens_than_marks_are_refused() -> None:
    ControlMarks(f"<{i}>" for i in range(2047))
    with pytest.raises(InvalidCheckpoint, match="at most 2047 added tokens, got 2048"):
        ControlMarks(f"<{i}>" for i in range(2048))


def render(source: str, content: str) -> str:
    environment = Environment()
    tree = environment.parse(source)
    MARKS.mark_literals(tree)
    template = environment.template_class.from_code(environment, environment.compile(tree), {})
    return template.render(content=content, table={"<E>": "found"})


WRITTEN = [
    ("a<E>{{ content }}<T>", f"a{E}<E>{T}"),
    ("{{ '<E>' + content ~ '<T>' }}", f"{E}<E>{T}"),
    ("{% set x = '<T>' %}{{ x + content }}", f"{T}<E>"),
    ("{% macro m(x, y='</T>') %}<T>{{ x }}{{ y }}{% endmacro %}{{ m('<E>') }}", f"{T}{E}{T_END}"),
    ("{{ '<E>' if content == '<E>' else '<T>' }}", E),
    ("{% if '<E>' in content %}<T>{% endif %}", T),
    ("{% for x in ['<E>', '<T>'] if x %}{{ x }}{% endfor %}", f"{E}{T}"),
    ("{{ nothing | default('<E>') }}", E),
    ("{{ ['a', 'b'] | join('<T>') }}", f"a{T}b"),
    ("{{ '<E>'.join(['a', content]) }}", f"a{E}<E>"),
    ("{{ content | replace('<E>', '<T>') }}", T),
    ("{{ content.replace('<E>', '<T>') }}", T),
    ("{{ '%s<T>' | format(content) }}", f"<E>{T}"),
    ("{{ {'k': '<T>'}['k'] }}", T),
    ("{{ '<E' ~ '>' }}", f"{SHORT}>"),
]


@pytest.mark.parametrize(("source", "written"), WRITTEN)
def test_a_templates_literals_are_marked_and_its_inputs_are_not(source: str, written: str) -> None:
    assert render(source, "<E>") == written


LOOKED_FOR = [
    "{{ content.split('<E>')[-1] }}",
    "{{ 'b' if '<E>' in content }}",
    "{{ 'b' if content.startswith('a<E>') }}",
    "{{ 'b' if content is equalto('a<E>b') }}",
    "{{ 'b' if table['<E>'] == 'found' }}",
    "{{ {'<E>': 'b'}[content[1:4]] }}",
    "{{ content.lstrip('a<E>') }}",
    "{% set found = '<E>' in content %}{{ 'b' if found }}",
    "{% set found = content is equalto('a<E>b') %}{{ 'b' if found }}",
    "{% if content == 'a<E>b' %}b{% elif content == '<E>' %}c{% endif %}",
    "{{ content | replace('a<E>', '') }}",
]


@pytest.mark.parametrize("source", LOOKED_FOR)
def test_a_token_that_a_template_searches_for_is_found(source: str) -> None:
    assert render(source, "a<E>b") == "b"


def test_a_template_that_builds_control_tokens_from_pieces_is_refused() -> None:
    source = (
        "{% for m in messages %}{{ '<' + ('E' if m.role == 'user' else 'T') + '>' }}{% endfor %}"
    )
    with pytest.raises(InvalidCheckpoint, match="write each one whole"):
        ChatTemplate(TemplateSource(plain=source, with_tools=source), MARKS)


def test_a_template_that_searches_its_own_output_is_refused() -> None:
    source = "{% set x = '<T>' + messages[0].content %}{{ 'yes' if '<T>' in x else 'no' }}"
    with pytest.raises(InvalidCheckpoint, match="write each one whole"):
        ChatTemplate(TemplateSource(plain=source, with_tools=source), MARKS)


def test_only_the_template_writes_named_tokens() -> None:
    source = "{{ messages[0].content }}{{ eos_token }}"
    named = {"eos_token": "<E>"}
    template = ChatTemplate(
        TemplateSource(plain=source, with_tools=source, named_tokens=named), MARKS
    )
    conversation = Conversation(messages=[{"role": "user", "content": "<E>"}], tools=[])

    assert template.render_marked(conversation) == f"<E>{E}"
