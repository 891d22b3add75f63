"""An answer as it arrives: reasoning, content and tool calls, each as soon as it is certain.

    parser.py      the whole: text in, parts out
    reasoning.py   where the reasoning ends
    formats.py     which parsers a checkpoint needs, by its chat template

The parts are in `segue/sdk/answer_parts.py`; `segue/sdk/tool_calls` reads the calls.
"""

from __future__ import annotations

from segue.sdk.answer_parts import (
    AnswerPart,
    CallAbandoned,
    CallArguments,
    CallEnd,
    CallStart,
    ContentText,
    ReasoningText,
    gather,
)
from segue.sdk.answer_stream.formats import ParserNames, opens_reasoning, parsers_for
from segue.sdk.answer_stream.parser import AnswerParser

__all__ = [
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
