"""Tool calls in a model's answer: which parts of the text are calls, and what their arguments mean.

    markup.py    the text as tags and Hermes calls, in one pass
    reading.py   which tags open and close calls and parameters, and which are only text
    steps.py     what a reading took for markup, and the calls that result
    schema.py    what a tool's schema allows for a parameter
    literals.py  JSON and Python literals as models write them
    values.py    a parameter's text as a value that fits its schema
    answer.py    the whole: an answer as a message

`markup` and `reading` know nothing about values, and `values` nothing about markup. Reading is a
fold over tags that only looks back, so a streaming parser can use the same fold.
"""

from __future__ import annotations

from segue.answers.tool_calls.answer import read_answer

__all__ = ["read_answer"]
