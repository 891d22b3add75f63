"""A stream of many small pieces costs work in proportion to its text, however it is made."""

from __future__ import annotations

import pytest

from segue.answers import AnswerParser
from segue.answers.growing_text import GrowingText
from segue.answers.tool_calls import markup
from tests.tool_calls.writing import OPEN, TOOLS

TEXT = "<parameter=text>\n"
OBJECT = '<tool_call>{"name": "f", "arguments": {"x": ['


class Counted(GrowingText):
    """Counts the characters that the parser looks at. What follows a tag in text that was held back
    is looked at when it is read, so only the next ones count.
    """

    num_characters = 0

    def at(self, position: int) -> tuple[str, int]:
        text, index = super().at(position)
        Counted.num_characters += min(300, len(text) - index)
        return text, index

    def cut(self, start: int, end: int) -> str:
        Counted.num_characters += max(0, end - start)
        return super().cut(start, end)


def work(text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(markup, "GrowingText", Counted)
    Counted.num_characters = 0
    parser = AnswerParser(tools=TOOLS)
    for character in f"{text}</tool_call>":
        parser.push(character)
    parser.finish()
    return Counted.num_characters


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        ("", "word "),
        ("", "<"),
        ("", " "),
        ("", "\n"),
        ("", "<tool_call>"),
        ("", "<tool_call>\n"),
        ("", "<function=find>"),
        ("", "<function=find>\n"),
        ("", "<function="),
        ("", "<think>\n"),
        ("", "<think></think>"),
        ("", OPEN),
        ("", f"{OPEN}{TEXT}"),
        (f"{OPEN}{TEXT}", "word "),
        (f"{OPEN}{TEXT}", "<"),
        (f"{OPEN}{TEXT}", "\n"),
        (f"{OPEN}{TEXT}", "<parameter="),
        (f"{OPEN}{TEXT}", "</parameter>\n"),
        (f"{OPEN}{TEXT}", "x\n</parameter>\n<parameter=limit>\n"),
        (f"{OPEN}{TEXT}", "<parameter=limit>\n"),
        (f"{OPEN}{TEXT}", f"{OPEN}{TEXT}y\n</parameter>\n"),
        (f"{OPEN}<parameter=where>\n", '{"a": '),
        ("", '<tool_call>{"name": '),
        ("", '<tool_call>{"'),
        ("", "<tool_call>{'a': "),
        ("", "<tool_call>[1, "),
        ("", OBJECT),
        (OBJECT, "1, "),
        (OBJECT, '"</tool_call>", '),
        (f'{OBJECT}"', "</tool_call>"),
        (f'{OBJECT}"', "<tool_call>["),
        (f'{OBJECT}"', "\\n"),
        ('<tool_call>{"name": "find"}', "} "),
        ('<tool_call>{"name": "find"}', ", "),
        ("", '<tool_call>{"name": "find"}'),
        ("<tool_call>", '{"name": "find"}'),
        ("<tool_call>", "["),
        ("<tool_call>", "{'a': <tool_call>"),
    ],
)
def test_twice_the_text_is_twice_the_work(
    start: str, piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 1500 // len(piece)

    once = work(start + piece * size, monkeypatch)
    twice = work(start + piece * 2 * size, monkeypatch)

    assert twice < 2.5 * once + 2000
