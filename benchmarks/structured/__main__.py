"""`python -m benchmarks.structured`: a table, and as the last line of stdout one JSON object."""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.serving.environment import this_environment
from benchmarks.structured.drive import Case, Drive, Steps
from segue.api.types import JsonSchema
from segue.demo import checkpoint_dir
from segue.engine.config import EngineConfig
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel
from segue.grammar.build import Asked, build
from segue.grammar.compiler import CompiledGrammar, GrammarCompiler
from segue.text.tokens.tokenizer import Tokenizer

_BATCHES = (1, 4, 8)
_DRAFTS = (0, 3)
_NUM_TOKENS = 96
_PAGE_TOKENS = 16
_PROMPT = "<|im_start|>user\nCount from 1 to 60.<|im_end|>\n<|im_start|>assistant\n"
# An answer that never ends, and that looks at its grammar at each token.
_SCHEMA = {
    "type": "array",
    "minItems": 10_000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "kind": {"enum": ["a", "b", None]},
        },
        "required": ["name", "age", "kind"],
    },
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    drafts: int
    batch: int
    structured: int
    """Turns with a grammar."""
    step_ms: float
    """Median, over the rounds."""
    tokens_per_s: float
    """Of the whole batch."""


def measure(num_rounds: int, num_tokens: int) -> list[Row]:
    folder = Path(checkpoint_dir())
    tokenizer = Tokenizer.from_folder(folder)
    served = ServedModel.of(folder, EngineConfig(page_tokens=_PAGE_TOKENS))
    most = max(_BATCHES)
    num_positions = len(tokenizer.encode(_PROMPT)) + num_tokens
    num_pages = most * (num_positions // _PAGE_TOKENS + 1)
    num_slots = most * (max(_DRAFTS) + 2)
    runner = ModelRunner.load(served, num_pages=num_pages, num_slots=num_slots)
    grammar = GrammarCompiler(tokenizer, runner.config.vocab_size).compile(
        build(Asked(output=JsonSchema(json.dumps(_SCHEMA)))).grammar
    )
    prompt = tuple(tokenizer.encode(_PROMPT))
    unused_id = tokenizer.token_id("<|endoftext|>")
    assert unused_id is not None
    rows = []
    for drafts in _DRAFTS:
        drive = Drive(runner, max_drafts=drafts, unused_id=unused_id)
        for batch in _BATCHES:
            rows += _of_batch(drive, drafts, batch, prompt, grammar, num_rounds, num_tokens)
    return rows


def _of_batch(
    drive: Drive,
    drafts: int,
    batch: int,
    prompt: tuple[int, ...],
    grammar: CompiledGrammar,
    num_rounds: int,
    num_tokens: int,
) -> list[Row]:
    """Rounds of no, one and only structured turns alternate: the machine's load changes."""
    counts = sorted({0, 1, batch})
    found: dict[int, list[Steps]] = {count: [] for count in counts}
    for _ in range(num_rounds):
        for count in counts:
            cases = [
                Case(
                    prompt=prompt,
                    num_tokens=num_tokens,
                    grammar=grammar if i < count else None,
                )
                for i in range(batch)
            ]
            found[count].append(drive.run(cases))
    return [
        Row(
            drafts=drafts,
            batch=batch,
            structured=count,
            step_ms=1e3 * statistics.median(s for steps in found[count] for s in steps.seconds),
            tokens_per_s=statistics.median(steps.tokens_per_s for steps in found[count]),
        )
        for count in counts
    ]


def main(quick: bool = False) -> None:
    """What a grammar costs, on the demo model. Milliseconds are processor time: the machine is
    shared."""
    torch.set_num_threads(1)
    rows = measure(num_rounds=1 if quick else 7, num_tokens=24 if quick else _NUM_TOKENS)
    table = Table("drafts", "turns", "structured", "ms a step", "tokens/s")
    for row in rows:
        table.add_row(
            *(str(row.drafts), str(row.batch), str(row.structured)),
            *(f"{row.step_ms:.2f}", f"{row.tokens_per_s:.0f}"),
        )
    Console(file=sys.stdout, width=80).print(table)
    environment = dataclasses.asdict(this_environment())
    result = {"benchmark": "structured", "environment": environment}
    typer.echo(json.dumps({**result, "rows": [dataclasses.asdict(row) for row in rows]}))


if __name__ == "__main__":
    typer.run(main)
