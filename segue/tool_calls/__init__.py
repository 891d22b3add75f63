"""Tool calls in a model's answer: what of the text is a call, and what its arguments mean.

    markup.py    the text as tags and Hermes calls, in one pass
    reading.py   which tags open and close calls and parameters, and which are only text
    steps.py     what a reading has taken for markup, and the calls that come of it
    schema.py    what a tool's schema allows for a parameter
    literals.py  JSON and Python literals as models write them
    values.py    a parameter's text as the value that its schema means
    answer.py    all of it: an answer as a message

`markup` and `reading` know nothing of values, and `values` nothing of markup. Reading is a fold
over tags that only ever looks back, so a parser of a stream can drive the same fold.
"""

from __future__ import annotations

from segue.tool_calls.answer import read_answer

__all__ = ["read_answer"]
