"""An answer that a client sends back in another form keeps the generated tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from segue.api.types import ChatInput, Message, ToolCall
from segue.text.chat import ChatTemplate
from segue.text.prompt import PromptEncoder
from segue.text.replay.echo import means_the_same
from segue.text.session_prompt import PromptRecord
from segue.text.template.source import TemplateSource
from segue.text.tokens.tokenizer import Tokenizer
from tests.real_vocabulary import KINDS, template

TOOL = json.dumps(
    {
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {}, "b": {"type": "integer"}}},
    }
)
CALL = """\
<tool_call>
<function=f>
<parameter=b>
1
</parameter>
<parameter=a>
x
</parameter>
</function>
</tool_call>"""
USER = Message(role="user", content="q")
RESULT = Message(role="tool", content="r")


class Conversation:
    """A session whose model generates one token per character."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        named = {"eos_token": "<|im_end|>"}
        texts = TemplateSource(plain=source, with_tools=source, named_tokens=named)
        self.tokenizer = tokenizer
        self.encoder = PromptEncoder(tokenizer, ChatTemplate(texts, tokenizer.marks))
        self.chat = ChatInput(messages=(), tools=(TOOL,), enable_thinking=True)
        self.memory: PromptRecord | None = None
        self.tokens: list[int] = []

    def turn(self, *new: Message, generated: str, is_whole: bool = True) -> list[int]:
        """Returns the prompt."""
        num_same = len(self.chat.messages)
        self.chat = replace(self.chat, messages=(*self.chat.messages, *new))
        made = self.encoder.encode_turn(self.chat, self.memory, num_same)
        assert made.memory is not None
        prompt = [*self.tokens[: made.num_kept], *made.ids]
        answer = self._spelled(generated)
        if is_whole:
            answer.append(self.tokenizer.encode("<|im_end|>")[0])
        self.tokens = prompt + answer
        self.memory = made.memory.with_answer(self.tokens)
        return prompt

    def anew(self) -> list[int]:
        """The prompt rendered from all messages, without the generated tokens."""
        return list(self.encoder.encode(self.chat))

    def _spelled(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(text.split("</think>")):
            ids += self.tokenizer.encode("</think>") if number else []
            ids += [id_ for letter in piece for id_ in self.tokenizer.encode_plain(letter)]
        return ids


def starts_with(prompt: Sequence[int], tokens: Sequence[int]) -> bool:
    return list(prompt[: len(tokens)]) == list(tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spaces", ["", "\n", "  \n"])
def test_for_a_faithful_client_no_token_is_re_rendered(
    kind: str, spaces: str, tokenizer: Tokenizer
) -> None:
    talk = Conversation(template(kind), tokenizer)
    talk.turn(USER, generated=f"hm\n</think>\n\nLet me look.\n\n{CALL}{spaces}")
    call = ToolCall(name="f", arguments='{"a": "x",    "b":1}')
    echo = Message(role="assistant", content="Let me look.", reasoning="hm", tool_calls=(call,))
    before = talk.tokens
    prompt = talk.turn(echo, RESULT, generated="so\n</think>\n\nIt is  x." + spaces)
    assert starts_with(prompt, before)
    assert prompt != talk.anew()

    # Another tool result: the tokens spliced in before are still there.
    before = talk.tokens
    answer = Message(role="assistant", content="It is  x.", reasoning="so")
    prompt = talk.turn(answer, RESULT, generated="done\n</think>\n\nyes")
    assert starts_with(prompt, before)


@pytest.mark.parametrize(
    "echo",
    [
        Message(role="assistant", content="Let me see.", reasoning="hm"),
        Message(role="assistant", content="Let me look.", reasoning="another thought"),
        Message(role="assistant", content="Let me look."),
        Message(
            role="assistant",
            content="Let me look.",
            reasoning="hm",
            tool_calls=(ToolCall(name="f", arguments="{}"),),
        ),
    ],
)
def test_an_answer_that_the_client_changed_is_re_rendered(
    echo: Message, tokenizer: Tokenizer
) -> None:
    talk = Conversation(template("3.5"), tokenizer)
    talk.turn(USER, generated="hm\n</think>\n\nLet me look.")
    assert talk.turn(echo, RESULT, generated="x") == talk.anew()


def test_an_answer_that_was_cut_off_gets_its_end(tokenizer: Tokenizer) -> None:
    talk = Conversation(template("3.5"), tokenizer)
    talk.turn(USER, generated="hm\n</think>\n\nLet me", is_whole=False)
    before = talk.tokens
    echo = Message(role="assistant", content="Let me", reasoning="hm")
    prompt = talk.turn(echo, RESULT, generated="x")
    assert starts_with(prompt, before)
    text = tokenizer.decode(prompt[len(before) :], skip_special=False)
    assert text.startswith("<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize(
    ("rendered", "generated", "is_same"),
    [
        ("assistant\nyes", "assistant\n yes\n", True),
        ("assistant\nyes", "assistant\n<think>\n\n</think>\n\nyes", False),
        ("assistant\nyes", "user\nyes", False),
        ("assistant\n" + CALL, "assistant\n" + CALL.replace("1", "1 "), True),
        ("assistant\n" + CALL, "assistant\n" + CALL.replace("1", "true"), False),
        ("assistant\n" + CALL, "assistant\n" + CALL.replace("x", "x "), False),
    ],
)
def test_answers_with_the_same_meaning_are_equal(
    rendered: str, generated: str, is_same: bool
) -> None:
    assert means_the_same(rendered, generated, (TOOL,)) is is_same
