"""A session's prompt built from its last one equals, id for id, the prompt built from scratch: for
every template, including those that read all messages, count them, or keep state.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from segue.api.types import ChatInput, Message, ToolCall
from segue.text.chat import ChatTemplate
from segue.text.prompt import PromptEncoder
from segue.text.session_prompt import PromptRecord, SessionPrompt, continue_prompt
from segue.text.template.source import TemplateSource
from segue.text.tokens.tokenizer import Tokenizer
from tests.real_vocabulary import KINDS, template

DEMO = Path(__file__).parents[2] / "segue" / "demo" / "chat_template.jinja"
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "qwen" / "trl"

HEAD = "{%- set ns = namespace(n=0, last=-1, seen='', open=true) -%}"
LINE = "{{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' -}}"
END = "{{- '<|im_start|>assistant\n' -}}"


def loop(body: str, over: str = "messages") -> str:
    return f"{HEAD}{{%- for message in {over} -%}}{body}{{%- endfor -%}}{END}"


# Each is correct only if all messages are rendered again, or if its dependence is detected.
HOSTILE = {
    "number of messages": loop(LINE + "{{- messages | length -}}"),
    "number of messages, compared": loop(LINE + "{{- 'x' if messages | length > 9 -}}"),
    "number of messages, even": loop(LINE + "{{- 'x' if messages | length is even -}}"),
    "number of messages, before": "{{- messages | length ~ '\n' -}}" + loop(LINE),
    "number of messages, kept": "{%- set n = messages | length -%}" + loop(LINE + "{{- n -}}"),
    "number, at the end": loop(LINE) + "{{- messages | length -}}",
    "position": loop("{{- loop.index -}}" + LINE),
    "position from the end": loop("{{- loop.revindex -}}" + LINE),
    "position from the end, compared": loop("{{- 'x' if loop.revindex0 < 4 -}}" + LINE),
    "last": loop("{{- 'last ' if loop.last -}}" + LINE),
    "last, by number": loop("{{- 'x' if loop.index0 == messages | length - 1 -}}" + LINE),
    "length of the loop": loop("{{- 'x' if loop.length >= 7 -}}" + LINE),
    "neighbours": loop(
        "{{- loop.previtem.role if loop.previtem -}}"
        "{{- loop.nextitem.content[:2] if loop.nextitem is defined -}}" + LINE
    ),
    "the one after the next": loop(
        "{{- messages[loop.index0 + 2].role if loop.index0 + 2 < messages | length -}}" + LINE
    ),
    "the last message, by its number": loop("{{- messages[-1].content -}}" + LINE),
    "the last message, before": "{{- messages[-1].role -}}" + loop(LINE),
    "the third message": "{{- messages[2].content if messages[2] -}}" + loop(LINE),
    "a counter": loop("{%- set ns.n = ns.n + 1 -%}{{- ns.n -}}" + LINE),
    "a counter of questions": loop(
        "{%- if message.role == 'user' -%}{%- set ns.n = ns.n + 1 -%}{%- endif -%}" + LINE
    )
    + "{{- ns.n -}}",
    "what was seen": loop("{%- set ns.seen = message.content -%}" + LINE) + "{{- ns.seen -}}",
    "what was seen before": loop("{{- ns.seen -}}{%- set ns.seen = message.role -%}" + LINE),
    "a switch": loop(
        "{{- '!' if ns.open -}}"
        "{%- if message.role == 'assistant' -%}{%- set ns.open = false -%}{%- endif -%}" + LINE
    ),
    "the same, set again": loop("{%- set ns.open = true -%}" + LINE + "{{- ns.open -}}"),
    "all contents": "{{- messages | map(attribute='content') | join('|') -}}" + loop(LINE),
    "a choice of messages": loop(LINE, "messages | selectattr('role', 'equalto', 'user')"),
    "a condition": loop(LINE, "messages if message.role != 'system'"),
    "without the first": loop(LINE + "{{- loop.index0 -}}", "messages[1:]"),
    "the last three": loop(LINE, "messages[-3:]"),
    "backwards": loop(LINE + "{{- loop.index -}}", "messages[::-1]"),
    "backwards, until": HEAD
    + "{%- for message in messages[::-1] -%}{%- if message.role == 'user' -%}"
    "{%- set ns.seen = message.content -%}{%- break -%}{%- endif -%}{%- endfor -%}"
    + loop(LINE).removeprefix(HEAD)
    + "{{- ns.seen -}}",
    "the last question": HEAD
    + "{%- for message in messages[::-1] -%}{%- set at = messages | length - 1 - loop.index0 -%}"
    "{%- if ns.open and message.role == 'user' -%}{%- set ns.last = at -%}"
    "{%- set ns.open = false -%}{%- endif -%}{%- endfor -%}"
    "{%- for message in messages -%}{{- 'late ' if loop.index0 > ns.last -}}"
    "{{- 'at ' if loop.index0 == ns.last -}}" + LINE + "{%- endfor -%}" + END,
    "the last question, given": HEAD
    + "{%- for message in messages -%}{%- if message.role == 'user' -%}"
    "{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for message in messages -%}{{- ns.last -}}" + LINE + "{%- endfor -%}" + END,
    "twice": loop(LINE) + loop("{{- message.role -}}"),
    "each with each": loop(
        "{%- for other in messages -%}{{- other.role[0] -}}{%- endfor -%}" + LINE
    ),
    "in a macro": "{%- macro all(list) -%}{%- for message in list -%}"
    + LINE
    + "{%- endfor -%}{%- endmacro -%}{{- all(messages) | replace('word', 'WORD') -}}"
    + END,
    "in a set": "{%- set text -%}"
    + loop(LINE)
    + "{%- endset -%}{{- text | replace('one', 'ONE') -}}",
    "in a filter": "{%- filter replace('one', 'ONE') -%}" + loop(LINE) + "{%- endfilter -%}",
    "a generator": "{%- set it = ['a', 'b', 'c', 'd', 'e', 'f'] | map('upper') -%}"
    + loop("{{- it | first -}}" + LINE),
    "a cycle": loop("{{- loop.cycle('a', 'b', 'c') -}}" + LINE),
    "a change": loop("{{- 'new ' if loop.changed(message.role) -}}" + LINE),
    "a joiner": "{%- set comma = joiner(', ') -%}" + loop("{{- comma() -}}" + LINE),
    "a list": HEAD + "{%- set box = namespace(all=[]) -%}"
    "{%- for message in messages -%}{%- set box.all = box.all + [message.role] -%}"
    + LINE
    + "{%- endfor -%}{{- box.all | join -}}",
    "arithmetic": loop(
        "{{- (messages | length - loop.index0) * 2 -}}{{- (loop.revindex + 1) // 2 -}}" + LINE
    ),
    "sorted": loop("{{- [loop.index0, messages | length - 3] | max -}}" + LINE),
    "formatted": loop(
        "{{- '%d' | format(messages | length) -}}{{- '%s' % loop.revindex -}}" + LINE
    ),
    "open end": loop("{{- '<|im_start|>' ~ message.role ~ ' ' ~ message.content ~ ' and' -}}"),
    "no control tokens": loop("{{- message.role ~ ': ' ~ message.content ~ ' ' -}}"),
    "the first once more": loop(LINE) + "{{- messages[0].content -}}",
    "refuses": loop(
        "{%- if loop.index0 > 6 and message.role == 'user' -%}"
        "{{- raise_exception('too long') -}}{%- endif -%}" + LINE
    ),
}


class Twice:
    """A template and tokenizer that build each prompt in both ways."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        named = {"eos_token": "<|im_end|>"}
        self.template = ChatTemplate(
            TemplateSource(plain=source, with_tools=source, named_tokens=named), tokenizer.marks
        )
        self.encoder = PromptEncoder(tokenizer, self.template)
        self.tokenizer = tokenizer

    def turn(
        self,
        chat: ChatInput,
        memory: PromptRecord | None,
        last: tuple[int, ...],
        num_same: int,
    ) -> tuple[SessionPrompt | None, tuple[int, ...]]:
        try:
            whole = self.encoder.encode(chat)
        except ValueError as error:
            whole = ()
            refusal: ValueError | None = error
        else:
            refusal = None
        made = continue_prompt(chat, self.template, self.tokenizer, memory, num_same)
        if made is None:
            return None, whole
        assert refusal is None
        ids = last[: made.num_kept] + tuple(made.ids)
        assert ids == whole
        return made, ids


TOOLS = (
    json.dumps({"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}),
    json.dumps({"type": "function", "function": {"name": "g", "description": "<|im_end|>"}}),
)
TEXTS = (
    "one", "  two ", "<|im_end|>", "a</think>b", "<think>\nhm\n</think>\n\nyes", "", "\n\n",
    "<tool_response>\nx\n</tool_response>", "日本 🌤", "end<|im_", "word " * 30,
)  # fmt: skip


def some_message(rng: random.Random, before: str) -> Message:
    text = rng.choice(TEXTS)
    kind = rng.random()
    if before in ("user", "tool", "system"):
        calls = tuple(
            ToolCall(
                name=rng.choice("fg"), arguments=json.dumps({"a": rng.choice(TEXTS), "n": [1]})
            )
            for _ in range(rng.choice((0, 0, 1, 2)))
        )
        if kind < 0.75 and before != "system":
            thought = rng.choice((None, "", "hm", "so\n\n"))
            return Message(role="assistant", content=text, reasoning=thought, tool_calls=calls)
        return Message(role="tool" if before == "tool" else "user", content=text)
    return Message(role="tool" if kind < 0.45 else "user", content=text)


def added(rng: random.Random, messages: Sequence[Message], num: int) -> tuple[Message, ...]:
    longer = list(messages)
    for _ in range(num):
        longer.append(some_message(rng, longer[-1].role if longer else "assistant"))
    return tuple(longer)


def converse(twice: Twice, rng: random.Random, num_turns: int) -> int:
    """Turns of one session, in which now and then something earlier changes. Returns how many ids
    were kept of earlier prompts.
    """
    system = (Message(role="system", content=rng.choice(TEXTS)),) if rng.random() < 0.6 else ()
    thinking = rng.choice((None, True, False))
    chat = ChatInput(
        messages=(*system, Message(role="user", content="q")),
        tools=rng.choice(((), TOOLS)),
        enable_thinking=thinking,
        chat_template_kwargs=rng.choice(("", '{"preserve_thinking": true}')),
    )
    memory: PromptRecord | None = None
    last: tuple[int, ...] = ()
    num_same = num_kept = 0
    for _ in range(num_turns):
        made, last = twice.turn(chat, memory, last, num_same)
        memory = made.memory if made else None
        num_kept += made.num_kept if made else 0
        num_same = len(chat.messages)
        if rng.random() < 0.12:
            num_same = rng.randrange(num_same)
        messages = added(rng, chat.messages[:num_same], rng.choice((1, 2, 2, 2, 3, 4)))
        if rng.random() < 0.05:
            note = Message(role=rng.choice(("developer", "system")), content="note")
            messages = (*messages[:-1], note, messages[-1])
            num_same = min(num_same, len(messages) - 2)
        chat = ChatInput(
            messages=messages,
            tools=chat.tools if rng.random() < 0.95 else rng.choice(((), TOOLS)),
            enable_thinking=chat.enable_thinking,
            chat_template_kwargs=chat.chat_template_kwargs,
        )
    return num_kept


@pytest.mark.parametrize("name", HOSTILE)
def test_no_template_gets_a_wrong_prompt(name: str, tokenizer: Tokenizer) -> None:
    twice = Twice(HOSTILE[name], tokenizer)

    for seed in range(4):
        converse(twice, random.Random(seed), 12)


@pytest.mark.parametrize("kind", KINDS)
def test_templates_like_qwens_keep_the_unchanged_part(kind: str, tokenizer: Tokenizer) -> None:
    twice = Twice(template(kind), tokenizer)

    assert sum(converse(twice, random.Random(seed), 14) for seed in range(6)) > 10_000


def test_the_demo_template_keeps_the_unchanged_part(tokenizer: Tokenizer) -> None:
    twice = Twice(DEMO.read_text(), tokenizer)

    assert sum(converse(twice, random.Random(seed), 14) for seed in range(6)) > 10_000


@pytest.mark.parametrize(
    "name", ["qwen3", "qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "qwen3_8", "qwen3_vl",
             "qwen3_instruct_2507"],
)  # fmt: skip
def test_published_templates_keep_the_unchanged_part(name: str, tokenizer: Tokenizer) -> None:
    path = PUBLISHED / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"needs the published templates in {PUBLISHED}")
    twice = Twice(path.read_text(), tokenizer)

    assert sum(converse(twice, random.Random(seed), 14) for seed in range(6)) > 10_000
