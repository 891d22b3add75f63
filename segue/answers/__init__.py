"""Parses a model's answer into reasoning, content and tool calls, each as soon as it is certain.

parser.py      the entry point: text in, parts out
parts.py       the parts, and a message made of them
reasoning.py   finds the end of the reasoning
tool_calls/    finds calls, and reads their arguments
formats.py     selects the parsers by the checkpoint's chat template
"""

from __future__ import annotations

from segue.answers.formats import AUTO, ParserNames, opens_reasoning, parsers_for
from segue.answers.parser import AnswerParser
from segue.answers.parts import (
    AnswerPart,
    CallAbandoned,
    CallArguments,
    CallEnd,
    CallStart,
    ContentText,
    ReasoningText,
    gather,
)

__all__ = [
    "AUTO",
    "AnswerParser",
    "AnswerPart",
    "CallAbandoned",
    "CallArguments",
    "CallEnd",
    "CallStart",
    "ContentText",
    "ParserNames",
    "ReasoningText",
    "gather",
    "opens_reasoning",
    "parsers_for",
]
