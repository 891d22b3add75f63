"""Grammars are made in a process of their own, which ends when one takes too long."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from router.sessions.grammars import GrammarDesk
from segue.api.errors import InvalidRequest
from segue.api.types import Choice, Ebnf, JsonSchema, Regex
from segue.demo import checkpoint_dir
from segue.grammar.build import GrammarSpec


@pytest_asyncio.fixture
async def desk() -> AsyncIterator[GrammarDesk]:
    made = GrammarDesk(Path(checkpoint_dir()), 1536, max_job_s=1.0)
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_desk() -> AsyncIterator[GrammarDesk]:
    """Starts its process once."""
    made = GrammarDesk(Path(checkpoint_dir()), 1536, max_job_s=1.0)
    yield made
    await made.close()


def large() -> str:
    """Takes some 5 s on an idle machine: thousands of objects, each in two places."""
    schema: Any = {"type": "string"}
    for _ in range(11):
        schema = {"type": "object", "properties": {"a": schema, "b": schema}}
    return json.dumps(schema)


async def test_a_grammar_is_made_once(desk: GrammarDesk) -> None:
    spec = GrammarSpec(output=Choice(("yes", "no")), after_reasoning=True)

    both = await asyncio.gather(desk.make(spec), desk.make(spec))
    process_id = desk.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    again = await desk.make(spec)

    assert both[0] is both[1] is again
    assert again.after_reasoning
    assert "yes" in again.text


async def test_a_grammar_that_takes_too_long_ends_with_its_process(desk: GrammarDesk) -> None:
    with pytest.raises(InvalidRequest, match=r"could not be compiled within 1 s") as raised:
        await desk.make(GrammarSpec(output=JsonSchema(large())))

    assert raised.value.field == "output"
    assert desk.process_id is None
    assert (await desk.make(GrammarSpec(output=Regex("a")))).text


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("output", "field", "message"),
    [
        (Regex("a("), "output.regex", "parenthesis"),
        (Ebnf('root ::= "a'), "output.ebnf", "line 1"),
        (
            Ebnf("root ::= \ufffe"),
            "output.ebnf",
            "Unexpected character: one that is not ASCII, without quotes",
        ),
        (
            JsonSchema('{"properties": {"a": {"type": "string", "pattern": "\\\\p{L}"}}}'),
            "output.json_schema.properties.a.pattern",
            "not supported",
        ),
        (JsonSchema('{"not": {}}'), "output.json_schema.not", "cannot be enforced"),
        (JsonSchema("{"), "output.json_schema", "expected JSON"),
    ],
)
async def test_what_is_wrong_is_said_with_its_path(
    shared_desk: GrammarDesk, output: Any, field: str, message: str
) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=message) as raised:
            await shared_desk.make(GrammarSpec(output=output))
        assert raised.value.field == field
        assert "/project/" not in str(raised.value)
