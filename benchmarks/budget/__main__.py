"""`python -m benchmarks.budget MODEL --gpus 8xB200 --tp 8 --context 128k`: what a model should cost
on these GPUs, beside what is published for others. It needs no GPU, and of MODEL only config.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.budget.facts import Fact, Kind, parse_gpus
from benchmarks.budget.report import Setup, report_of
from benchmarks.budget.show import as_json, lines
from segue.api.errors import InvalidConfig, SegueError
from segue.cache.layout import DTYPE_BYTES, E4M3
from segue.engine.config import FP8, EngineConfig
from segue.model.config import ModelConfig
from segue.parallel.rank import Rank

_ACCEPTANCE = Fact(0.79, Kind.ASSUMED, "2.9 tokens a step with 3 drafts")


def main(
    model: Annotated[Path, typer.Argument(help="A folder with config.json.")],
    gpus: Annotated[str, typer.Option(help="Number and kind: 8xB200, 2xH200.")],
    tp: Annotated[int, typer.Option(help="Ranks of a worker.")] = 1,
    ep: Annotated[int, typer.Option(help="Groups of ranks with experts of their own.")] = 1,
    context: Annotated[str, typer.Option(help="Tokens: 131072, 128k, 1m.")] = "128k",
    batch: Annotated[int, typer.Option(help="Sequences of a decode step.")] = 1,
    drafts: Annotated[int, typer.Option(help="Drafts of each sequence in a step.")] = 3,
    acceptance: Annotated[float | None, typer.Option(help="Probability of each draft.")] = None,
    draft_vocabulary: Annotated[
        int, typer.Option(help="Tokens that may be drafted, as [engine] draft_vocabulary; 0: all.")
    ] = EngineConfig().draft_vocabulary,
    kv_dtype: Annotated[
        str,
        typer.Option(
            help="fp8: of pages; others: of activations too; auto: the checkpoint's for both."
        ),
    ] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    try:
        config = ModelConfig.from_folder(model)
        num_gpus, gpu = parse_gpus(gpus)
        setup = Setup(
            gpu=gpu,
            num_gpus=num_gpus,
            rank=_ranks(tp, ep),
            context=parse_tokens(context),
            batch=batch,
            num_drafts=drafts,
            draft_vocabulary=draft_vocabulary,
            acceptance=_ACCEPTANCE
            if acceptance is None
            else Fact(acceptance, Kind.ASSUMED, "--acceptance"),
            dtype=config.dtype if kv_dtype == FP8 else _dtype(kv_dtype, config),
            kv_dtype=E4M3 if kv_dtype == FP8 else "",
        )
        report = report_of(config, setup)
    except (SegueError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    command = " ".join(["python -m benchmarks.budget", *sys.argv[1:]])
    typer.echo("\n".join([f"`{command}`", "", *lines(report)]))
    if json_file is not None:
        json_file.write_text(json.dumps({"command": command, **as_json(report)}, indent=1))


def parse_tokens(text: str) -> int:
    """ "128k" is 131,072. Raises InvalidConfig."""
    shift = {"k": 10, "m": 20}.get(text[-1:].lower(), 0)
    digits = text[:-1] if shift else text
    if not digits.isdecimal() or not int(digits):
        raise InvalidConfig(f"--context must be a number of tokens, as 128k or 1m, got {text!r}")
    return int(digits) << shift


def _ranks(tp: int, ep: int) -> Rank:
    return EngineConfig(tensor_parallel=tp, expert_parallel=ep).of_role(tp).ranks[0]


def _dtype(kv_dtype: str, config: ModelConfig) -> str:
    if kv_dtype == "auto":
        return config.dtype
    if kv_dtype not in DTYPE_BYTES:
        raise InvalidConfig(
            f"--kv-dtype must be auto, fp8 or one of {', '.join(DTYPE_BYTES)}, which the cache can "
            f"store, got {kv_dtype!r}"
        )
    return kv_dtype


if __name__ == "__main__":
    typer.run(main)
