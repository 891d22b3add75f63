"""The loss of accuracy by quantising a checkpoint at load: `python -m benchmarks.quantization`.

Each conversation runs through the runner token by token as decode steps do, eight at a time, once
for each way of storing weights, and every next token is compared with what the plain checkpoint in
float32 predicts there. With the demo model the conversations are ones that training never saw, and
the answers' tokens count; with `FOLDER --text FILE` all tokens of the file do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.harness.output import show, table
from segue.demo import checkpoint_dir
from segue.demo.corpus.conversations import conversation
from segue.demo.corpus.examples import encode
from segue.engine.batch import DecodeChunk, PrefillChunk
from segue.engine.config import EngineConfig
from segue.engine.runner import ModelRunner
from segue.engine.served_model import ServedModel

WAYS = {
    "float32": EngineConfig(dtype="float32"),
    "bfloat16": EngineConfig(dtype="bfloat16"),
    "int8": EngineConfig(dtype="bfloat16", quantization="int8"),
    "int4": EngineConfig(dtype="bfloat16", quantization="int4"),
}
"""The others are compared with the first."""
_STEP_TOKENS = 8
_TEXT_TOKENS = 512
"""The length of the parts that a text is cut into."""
# Training counts its seeds up from zero and never reaches this.
_FIRST_SEED = 10**9 + 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    token_ids: Sequence[int]
    counts: Sequence[bool]
    """Whether the prediction of this token counts."""


@dataclass(slots=True, kw_only=True)
class Sums:
    num_tokens: int = 0
    negative_log: float = 0.0
    divergence: float = 0.0
    """Kullback-Leibler, of the first way's distribution from this one's, in nats."""
    agreeing: int = 0
    """Positions at which both have the same most likely token."""

    def add(self, log_TV: Tensor, reference_TV: Tensor, next_T: Tensor) -> None:
        self.num_tokens += len(next_T)
        self.negative_log -= float(log_TV.gather(1, next_T[:, None]).sum())
        self.divergence += float((reference_TV.exp() * (reference_TV - log_TV)).sum())
        self.agreeing += int((log_TV.argmax(-1) == reference_TV.argmax(-1)).sum())


def main(
    folder: Annotated[Path | None, typer.Argument(help="Default: the demo model.")] = None,
    text: Annotated[Path | None, typer.Option(help="A text file, for another model.")] = None,
    samples: Annotated[int, typer.Option(help="Conversations, or parts of the text.", min=1)] = 20,
) -> None:
    """A table of perplexity, divergence and agreement for each way of storing weights."""
    if folder is not None and text is None:
        raise typer.BadParameter("another model needs --text FILE")
    model = folder or checkpoint_dir()
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    chosen = _parts_of(text, tokenizer, samples) if text else _conversations(tokenizer, samples)
    shown = table(
        f"{model.name}: each way against the first",
        "weights | MiB | perplexity | divergence | same best token",
    )
    references: list[Tensor] = []
    for way, engine in WAYS.items():
        runner = _runner(model, engine, max(len(sample.token_ids) for sample in chosen))
        sums = Sums()
        for number, sample in enumerate(chosen):
            log_TV, next_T = _predictions(runner, sample)
            if len(references) == number:
                references.append(log_TV)
            sums.add(log_TV, references[number], next_T)
        shown.add_row(way, f"{runner.weight_bytes / 2**20:.1f}", *_numbers(sums))
    show([shown], width=100)


def _numbers(sums: Sums) -> Iterator[str]:
    yield f"{math.exp(sums.negative_log / sums.num_tokens):.4f}"
    yield f"{sums.divergence / sums.num_tokens:.5f}"
    yield f"{sums.agreeing / sums.num_tokens:.2%} of {sums.num_tokens}"


def _conversations(tokenizer: Tokenizer, count: int) -> list[Sample]:
    examples = [encode(tokenizer, conversation(_FIRST_SEED + i, 1200)) for i in range(count)]
    return [
        Sample(token_ids=one.ids, counts=[answer >= 0 for answer in one.answer]) for one in examples
    ]


def _parts_of(text: Path, tokenizer: Tokenizer, count: int) -> list[Sample]:
    token_ids = tokenizer.encode(text.read_text()).ids
    firsts = range(0, min(len(token_ids), count * _TEXT_TOKENS), _TEXT_TOKENS)
    parts = [token_ids[first : first + _TEXT_TOKENS] for first in firsts]
    return [Sample(token_ids=part, counts=[True] * len(part)) for part in parts if len(part) > 1]


def _runner(folder: Path, engine: EngineConfig, most_tokens: int) -> ModelRunner:
    served = ServedModel.of(folder, engine)
    num_pages = served.layout.num_pages_for(most_tokens)
    return ModelRunner.load(served, num_pages=num_pages, num_slots=_STEP_TOKENS)


def _predictions(runner: ModelRunner, sample: Sample) -> tuple[Tensor, Tensor]:
    """Log-probabilities [T, V] at the positions that count, and the tokens that follow [T]."""
    ids, pages = sample.token_ids, range(runner.layout.num_pages_for(len(sample.token_ids)))
    first = PrefillChunk(token_ids=ids[:1], start=0, page_ids=pages, slot_in=None, slot_out=0)
    logits, slot = [runner.forward([first])], 0
    for start in range(1, len(ids) - 1, _STEP_TOKENS):
        some = ids[start : min(start + _STEP_TOKENS, len(ids) - 1)]
        chunk = DecodeChunk(
            token_ids=some, start=start, page_ids=pages, slot_in=slot, slots_out=range(len(some))
        )
        logits.append(runner.forward([chunk]))
        slot = len(some) - 1
    counts_T = torch.tensor(sample.counts[1:])
    log_TV = torch.cat(logits).log_softmax(-1)
    return log_TV[counts_T], torch.tensor(ids[1:])[counts_T]


if __name__ == "__main__":
    typer.run(main)
