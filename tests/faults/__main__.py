"""`python -m tests.faults`: runs the matrix, or a part of it, and prints one line for each cell."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.faults.cell import Result
from tests.faults.matrix import FAULT_WORDS, Fault, Moment, Target, cells, why_left_out
from tests.faults.run import run_all
from tests.faults.table import (
    left_out,
    line_of,
    markdown,
    read_json,
    summary,
    with_newer,
    write_json,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if a cell is bad."""
    options = _parser().parse_args(arguments)
    known = read_json(options.json) if options.json and options.json.exists() else []
    has_run = {result.cell for result in known if not (result.left_out or result.missed)}
    wanted = [
        cell
        for cell in cells()
        if (not options.only or cell.target in options.only)
        and (not options.fault or cell.fault in options.fault)
        and (not options.moment or cell.moment in options.moment)
        and (options.show_left_out or not why_left_out(cell))
        and not (options.missing and str(cell) in has_run)
    ]
    seeds = range(options.seed, options.seed + options.rounds)
    done: list[Result] = []
    out = Console()

    def on_result(result: Result) -> None:
        done.append(result)
        out.print(line_of(result), soft_wrap=True, highlight=False, markup=False)
        # Written each time: a run takes long, and may be ended.
        if options.json:
            write_json(options.json, with_newer(known, done))

    asyncio.run(run_all(wanted, seeds, on_result, logs=options.logs))
    if options.markdown:
        options.markdown.write_text(markdown(with_newer(known, done)) + "\n" + left_out(done))
    out.print(summary(done), soft_wrap=True, highlight=False)
    return 0 if all(result.is_good for result in done) else 1


def _parser() -> argparse.ArgumentParser:
    words = "\n".join(f"  {fault:10} {meaning}" for fault, meaning in FAULT_WORDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=f"{__doc__}\n\nfaults:\n{words}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    several = {"action": "append", "default": []}
    parser.add_argument("--only", choices=[*Target], help="targets; may be repeated", **several)
    parser.add_argument("--fault", choices=[*Fault], **several)
    parser.add_argument("--moment", choices=[*Moment], **several)
    parser.add_argument("--seed", type=int, default=1, help="of texts and sampling")
    parser.add_argument("--rounds", type=int, default=1, help="each with the next seed")
    parser.add_argument(
        "--json", type=Path, help="file for all results; of a cell that is in it, the last counts"
    )
    parser.add_argument("--missing", action="store_true", help="only cells that the file lacks")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    parser.add_argument("--logs", type=Path, help="folder for the processes' logs of bad cells")
    parser.add_argument("--show-left-out", action="store_true", help="the cells without a meaning")
    return parser


if __name__ == "__main__":
    sys.exit(main())
