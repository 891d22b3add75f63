"""A typed call that a template writes is read back, for any values.

The examples are the same in every run: among many thousands there is one in which stray tags of
several values complete each other, so that another reading is equally good.

Values that look the same are left out: if a schema allows both, the text null and null cannot be
distinguished, nor the text 4 and the number.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.api.types import ChatInput, Message, ToolCall
from segue.text.chat import ChatTemplate
from segue.text.template.source import TemplateSource
from tests.tool_calls.streaming import read_answer

REAL = Path(__file__).parents[3] / "shared" / "data" / "qwen" / "trl"
REAL_NAMES = ("qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "qwen3_8")

# The two forms in which templates of the family write values, and one that writes JSON.
OURS = r"""
{%- for message in messages if message.role == 'assistant' -%}
<|im_start|>assistant
{{ message.content }}{{ '\n\n' if message.content }}
{%- for call in message.tool_calls -%}
{{ '\n' if not loop.first }}<tool_call>
<<call>>
</tool_call>
{%- endfor -%}
<|im_end|>
{%- endfor -%}
"""
MARKUP = r"""<function={{ call.function.name }}>
{% for name, value in call.function.arguments.items() -%}
<parameter={{ name }}>
{{ <<value>> }}
</parameter>
{% endfor -%}
</function>"""
AS_PYTHON = (
    "value | string if value is not mapping and (value is string or value is not sequence) "
    "else value | tojson"
)
AS_JSON = "value if value is string else value | tojson"
HERMES = (
    r"""{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}"""
)
SOURCES = {
    "scalars as Python": OURS.replace("<<call>>", MARKUP.replace("<<value>>", AS_PYTHON)),
    "all as JSON": OURS.replace("<<call>>", MARKUP.replace("<<value>>", AS_JSON)),
    "Hermes": OURS.replace("<<call>>", HERMES),
}


class Typed(NamedTuple):
    schema: dict[str, Any]
    value: Any


QUOTED = "<tool_call>\n<function=f>\n<parameter=a>\nb\n</parameter>\n</function>\n</tool_call>"
PIECES = st.sampled_from(
    [
        *(" ", "\n", "\r\n", "\t", "a", "Grüße", "02134", "4", "null", "'", '"', "\\", "{", "🚀"),
        *("the <tool_call> tag", "a </tool_call> tag", "a <function=f> b", "a </function> tag"),
        *("a <parameter=a> b", "a </parameter> tag", "a </think> tag", "a <think> tag"),
        *("<tool_call>\nx", "x\n</think>\ny", "</parameter>\nx", "<think>", "<function=f>"),
        *(f"\n{QUOTED}\n", f"{QUOTED}\n{QUOTED}", '<tool_call>\n{"name": "f"}\n</tool_call>'),
    ]
)
TEXTS = st.one_of(st.text(st.characters(codec="utf-8")), st.lists(PIECES, max_size=6).map("".join))
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXTS,
    "integer": st.integers(),
    "number": NUMBERS,
    "boolean": st.booleans(),
    "array": st.lists(JSON, max_size=3),
    "object": st.dictionaries(TEXTS, JSON, max_size=3),
}


@st.composite
def typed(draw: st.DrawFn) -> Typed:
    """A schema of one parameter in one of its forms, and a value for it."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    form = draw(st.sampled_from(["type", "TYPE", "nullable", "types", "anyOf", "ref", "allOf"]))
    value = draw(KINDS[kind])
    if form in ("nullable", "types", "anyOf"):
        value = None if draw(st.booleans()) or value in ("null", "None") else value
    schema: dict[str, Any] = {
        "type": {"type": kind},
        "TYPE": {"type": kind.upper()},
        "nullable": {"type": kind, "nullable": True},
        "types": {"type": [kind, "null"]},
        "anyOf": {"anyOf": [{"type": kind}, {"type": "null"}]},
        "ref": {"$ref": f"#/$defs/{kind}"},
        "allOf": {"allOf": [{"$ref": f"#/$defs/{kind}"}], "description": "x"},
    }[form]
    return Typed(schema, value)


LISTED = st.sampled_from(
    [Typed({"enum": ["a", 4, 2.5, True, None]}, one) for one in ("a", 4, 2.5, True, None)]
    + [Typed({"const": 4}, 4), Typed({"const": "4"}, "4"), Typed({}, "02134"), Typed({}, "4")]
    + [Typed({}, {"a": "4"}), Typed({}, ["02134"])]
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["a", "path", "file name", "größe", "x<y", "a.b"]), typed() | LISTED, max_size=3
)
CONTENTS = st.sampled_from(["", "One moment.", "The <tool_call> tag:", "a\n\nb </function>"])


@functools.cache
def template(source: str) -> ChatTemplate:
    return ChatTemplate(TemplateSource(plain=source, with_tools=source))


def written(template: ChatTemplate, content: str, calls: list[ToolCall]) -> str:
    """The assistant's message as the template writes it."""
    messages = (
        Message(role="user", content="q"),
        Message(role="assistant", content=content, tool_calls=tuple(calls)),
        Message(role="tool", content="r"),
    )
    text = template.render(ChatInput(messages=messages, enable_thinking=True))
    return text.partition("<|im_start|>assistant\n")[2].partition("<|im_end|>")[0]


def check(source: str, content: str, calls: list[dict[str, Typed]]) -> None:
    tools = [
        json.dumps(
            {
                "type": "function",
                "function": {
                    "name": f"f{number}",
                    "parameters": {
                        "type": "object",
                        "properties": {name: one.schema for name, one in call.items()},
                        "$defs": {kind: {"type": kind} for kind in KINDS},
                    },
                },
            }
        )
        for number, call in enumerate(calls)
    ]
    meant = [{name: one.value for name, one in call.items()} for call in calls]
    text = written(
        template(source),
        content,
        [
            ToolCall(name=f"f{number}", arguments=json.dumps(arguments))
            for number, arguments in enumerate(meant)
        ],
    )

    message = read_answer(text, tools)

    assert [json.loads(call.arguments) for call in message.tool_calls] == meant, text
    assert [call.name for call in message.tool_calls] == [f"f{n}" for n in range(len(calls))]
    assert message.content.endswith(content)


# Markup without its other half. Several in one answer may complete each other.
HALVES = (
    "x\n</parameter>\ny",
    "x\n<parameter=q>\ny",
    "x\n</function>\ny",
    "\n</tool_call>\n",
    "<function=f>\n<parameter=a>",
    "x\n<tool_call>\n<function=f>\n<parameter=a>\ny",
    "x\n<tool_call>\n<function=f>\n<parameter=path>\ny\n</parameter>\n",
    "x\n</parameter>\n</function>\n</tool_call>\ny",
    "</parameter>\n</function>\n</tool_call>",
)
TEXT = {"type": "string"}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("content", ["", "One moment."])
def test_half_a_call_may_be_any_value(source: str, half: str, position: int, content: str) -> None:
    names = ("a", "path", "b")
    values = ["1", "b", "c d"]
    values[position] = half
    call = {name: Typed(TEXT, value) for name, value in zip(names, values, strict=True)}
    plain = {"a": Typed(TEXT, "z"), "limit": Typed({"type": "integer"}, 3)}

    for calls in ([call], [plain, call], [call, plain], [plain, call, plain]):
        check(source, content, calls)


CALLS = st.lists(ARGUMENTS, min_size=1, max_size=3)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@settings(max_examples=100, derandomize=True)
@given(content=CONTENTS, calls=CALLS)
def test_a_message_written_by_our_templates_is_read_back(
    source: str, content: str, calls: list[dict[str, Typed]]
) -> None:
    check(source, content, calls)


@pytest.mark.parametrize("name", REAL_NAMES)
@settings(max_examples=100, derandomize=True)
@given(content=CONTENTS, calls=CALLS)
def test_a_message_written_by_a_published_template_is_read_back(
    name: str, content: str, calls: list[dict[str, Typed]]
) -> None:
    path = REAL / f"{name}.jinja"
    if not path.exists():
        pytest.skip(f"no published template beside the repository: {path}")
    check(path.read_text(), content, calls)
