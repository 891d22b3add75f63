"""Compares an answer that a client sent back with the generated one.

Clients trim lines and reorder the keys of a call's arguments. If the meaning is the same, the
prompt has the generated tokens, so that workers can reuse their cached state.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from segue.answers import AnswerParser, gather


def means_the_same(rendered: str, generated: str, tools: Sequence[str]) -> bool:
    """Compares an assistant's message as the template writes it with the tokens' own text. Both
    start with the message's header line; their end token is left out.

    Reasoning that the template leaves out is a difference, even if it is empty.
    """
    return _meaning(rendered, tools) == _meaning(generated, tools)


def _meaning(text: str, tools: Sequence[str]) -> object:
    header, _, body = text.lstrip().partition("\n")
    parser = AnswerParser(tools=tools, starts_in_reasoning=None)
    answer = gather(parser.push(body) + parser.finish(is_whole=True))
    reasoning = None if answer.reasoning is None else answer.reasoning.strip()
    calls = [(call.name, json.loads(call.arguments)) for call in answer.tool_calls]
    # JSON equality, not Python's, for which 1 == True.
    return header, reasoning, answer.content.strip(), json.dumps(calls, sort_keys=True)
