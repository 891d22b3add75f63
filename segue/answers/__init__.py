"""What a model's answer means: reasoning, content and tool calls, each as soon as it is certain.

parser.py      the whole: text in, parts out
parts.py       the parts, and a message made of them
reasoning.py   where the reasoning ends
tool_calls/    where calls are, and what their arguments mean
formats.py     which parsers a checkpoint needs, by its chat template
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
