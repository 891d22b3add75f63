"""`python -m benchmarks.structured`: the cost of a grammar for its answer and for the other answers
of the batch. A table, and as the last line of stdout one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from time import process_time

import torch
import typer

from benchmarks.harness.environment import this_environment
from benchmarks.harness.output import show, show_json, table
from benchmarks.mtp.drive import Drive, Prompt, Seen, TimedRunner
from decode_worker.config import DecodeConfig
from segue.api.types import JsonSchema
from segue.demo import checkpoint_dir
from segue.engine.config import EngineConfig
from segue.engine.served_model import ServedModel
from segue.grammar.build import GrammarSpec, build
from segue.grammar.compiler import GrammarCompiler
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
    runner = TimedRunner.load(served, num_pages=num_pages, num_slots=num_slots)
    # Masks may be computed by other threads.
    runner.clock = process_time
    grammar = GrammarCompiler(tokenizer, runner.config.vocab_size).compile(
        build(GrammarSpec(output=JsonSchema(json.dumps(_SCHEMA)))).grammar
    )
    prompt_ids = tuple(tokenizer.encode(_PROMPT))
    # It stands for the end token, so that answers have their full length.
    unused_id = tokenizer.token_id("<|endoftext|>")
    assert unused_id is not None
    plain = Prompt(token_ids=prompt_ids, max_tokens=num_tokens, eos_ids=(unused_id,))
    prompts = {False: plain, True: dataclasses.replace(plain, grammar=grammar)}
    rows = []
    for drafts in _DRAFTS:
        drive = Drive(runner, DecodeConfig(max_drafts=drafts, adaptive_drafts=False))
        for batch in _BATCHES:
            rows += _of_batch(drive, drafts, batch, prompts, num_rounds)
    return rows


def _of_batch(
    drive: Drive, drafts: int, batch: int, prompts: dict[bool, Prompt], num_rounds: int
) -> list[Row]:
    """Rounds of no, one and only structured turns alternate: the machine's load changes."""
    found: dict[int, list[Seen]] = {count: [] for count in sorted({0, 1, batch})}
    for _ in range(num_rounds):
        for count, seen in found.items():
            seen.append(drive.run([prompts[i < count] for i in range(batch)], batch))
    return [
        Row(
            drafts=drafts,
            batch=batch,
            structured=count,
            step_ms=1e3 * statistics.median(step.seconds for one in seen for step in one.steps),
            tokens_per_s=statistics.median(one.tokens_per_s for one in seen),
        )
        for count, seen in found.items()
    ]


def main(quick: bool = False) -> None:
    """The cost of a grammar on the demo model, in processor time."""
    torch.set_num_threads(1)
    rows = measure(num_rounds=1 if quick else 7, num_tokens=24 if quick else _NUM_TOKENS)
    shown = table("What a grammar costs", "drafts | turns | structured | ms a step | tokens/s")
    for row in rows:
        counts = map(str, (row.drafts, row.batch, row.structured))
        shown.add_row(*counts, f"{row.step_ms:.2f}", f"{row.tokens_per_s:.0f}")
    show([shown], width=80)
    show_json(
        {
            "benchmark": "structured",
            "environment": dataclasses.asdict(this_environment()),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
    )


if __name__ == "__main__":
    typer.run(main)
