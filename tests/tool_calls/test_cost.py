"""Reading an answer takes time linear in the text's length, for any text."""

from __future__ import annotations

import json
import time

import pytest

from tests.tool_calls.streaming import read_answer

TOOLS = (
    json.dumps(
        {
            "function": {
                "name": "f",
                "parameters": {
                    "properties": {"x": {"$ref": "#/$defs/A"}, "y": {"type": "array"}},
                    "$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}] * 3}},
                },
            }
        }
    ),
)
OPEN = "<tool_call>\n<function=f>\n<parameter=y>\n"
END = "\n</parameter>\n</function>\n</tool_call>"
SIZE = 250_000


@pytest.mark.parametrize(
    ("start", "piece", "end"),
    [
        ("", "<tool_call>", ""),
        ("", "<function=f>", ""),
        ("", "<function=", ""),
        ("", OPEN, ""),
        (OPEN, "<parameter=x>\n", ""),
        (OPEN, "<parameter=", ""),
        (OPEN, "</parameter>\n", ""),
        (OPEN, "</think>\n", ""),
        ("", "<think></think>", ""),
        ("", '<tool_call>{"name": ', ""),
        ("", '<tool_call>{"name": "f", "arguments": {"x": [', ""),
        ("", "<tool_call>{'a': ", "</tool_call>"),
        ("<tool_call>", '{"a": ', ""),
        ("<tool_call>\n<function=f>\n", "<parameter=x>\n1\n</parameter>\n", "</function>"),
        (OPEN, f"{OPEN}1{END}\n", END),
        (f"{OPEN}[", "'a', ", f"1]{END}"),
        (f"{OPEN}[", "1,   ", f"1]{END}"),
        (OPEN, "[", END),
        (f"{OPEN}[", "'\"", END),
        (OPEN, "9", END),
    ],
)
def test_any_markup_is_read_in_linear_time(start: str, piece: str, end: str) -> None:
    text = start + piece * (SIZE // len(piece)) + end
    began_at = time.process_time()

    read_answer(text, TOOLS)

    # Measured: at most 0.5 s. A quadratic cost would take many seconds.
    assert time.process_time() - began_at < 8
