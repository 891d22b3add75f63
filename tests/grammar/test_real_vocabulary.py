"""Grammars over Qwen3.5's vocabulary of 248,077 tokens, padded to 248,320."""

from __future__ import annotations

import json

import numpy as np
import pytest

from segue.api.types import JsonSchema, ToolCalls
from segue.grammar.build import GrammarSpec, build
from segue.grammar.compiler import GrammarCompiler
from segue.grammar.constraint import Constraint
from segue.text.tokens.tokenizer import Tokenizer
from tests.grammar.walks import allowed_ids
from tests.real_vocabulary import IM_END, VOCAB_SIZE, MakeReal, template

pytestmark = pytest.mark.slow

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
CODE = 'def f(x):\n\treturn {"a": x, "é": "日本語 🙂"}  # </div>'


def test_answers_as_models_write_them_follow_their_grammars(
    make_real_text: MakeReal,
) -> None:
    """Their own tokens, control tokens among them, and no special ones before the end."""
    tokenizer = Tokenizer.from_folder(make_real_text(template("3.5")))
    compiler = GrammarCompiler(tokenizer, VOCAB_SIZE)
    parameters = {
        "type": "object",
        "properties": {"code": {"type": "string"}},
        "required": ["code"],
    }
    tool = json.dumps({"name": "write", "parameters": parameters})
    call = f"<tool_call>\n<function=write>\n<parameter=code>\n{CODE}\n</parameter>\n</function>\n"
    answers = [
        (JsonSchema(json.dumps(SCHEMA)), '\n\n{"name": "Zoë 🙂", "age": 31}'),
        (JsonSchema(json.dumps(SCHEMA)), '\n\n{\n  "name": "A",\n  "age": 7\n}'),
        (ToolCalls("write"), f"\n\n{call}</tool_call>"),
    ]
    think_end = tokenizer.token_id("</think>")
    assert think_end is not None
    for output, text in answers:
        spec = GrammarSpec(
            output=output, tools=(tool,), call_format="qwen3_coder", after_reasoning=True
        )
        constraint = Constraint(
            vocab_size=VOCAB_SIZE,
            end_ids=[IM_END],
            grammar=compiler.compile(build(spec).grammar),
            reasoning_end=think_end,
        )
        constraint.take([*tokenizer.encode("Let me see: {"), think_end])
        for token_id in tokenizer.encode(text):
            allowed = constraint.mask()
            bits = np.unpackbits(allowed.view(np.uint8), bitorder="little")
            assert bits[token_id], (text, tokenizer.decode([token_id]))
            assert not bits[tokenizer.num_ids :].any()
            assert not any(bits[i] for i in range(tokenizer.num_ids) if tokenizer.is_special(i))
            constraint.take([token_id])
        assert IM_END in allowed_ids(constraint)
