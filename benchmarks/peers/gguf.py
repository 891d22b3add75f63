"""Converts a checkpoint for llama.cpp, with the converter among llama-cpp-python's sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import typer

from benchmarks.harness.output import Report

_CONVERTER = Path("vendor") / "llama.cpp" / "convert_hf_to_gguf.py"
# The converter knows published tokenizers by a hash of what they make of a text. This one has the
# published vocabulary, but was converted here.
_RUN = """
import runpy, sys
from pathlib import Path
converter, model, out = sys.argv[1:]
sys.path[:0] = [str(Path(converter).parent), str(Path(converter).parent / "gguf-py")]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen35"
sys.argv = [converter, model, "--outfile", out, "--outtype", "bf16", "--no-mtp"]
runpy.run_path(converter, run_name="__main__")
"""


def converted(folder: Path, source: Path | None, report: Report) -> Path:
    """`folder` as one GGUF file next to it; made on first use, from `source`."""
    made = folder.with_suffix(folder.suffix + ".gguf")
    if made.is_file():
        return made
    if source is None or not (source / _CONVERTER).is_file():
        raise typer.BadParameter(
            f"{made} does not exist, and to make it {_CONVERTER} is needed in the folder that "
            f"--llama-source names, got {source}: see benchmarks/README.md",
            param_hint="--llama-source",
        )
    report("converting the checkpoint for llama.cpp")
    unfinished = made.with_suffix(".unfinished")
    run = subprocess.run(
        [sys.executable, "-c", _RUN, str(source / _CONVERTER), str(folder), str(unfinished)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise SystemExit(f"llama.cpp's converter failed:\n{run.stderr[-2000:]}")
    unfinished.rename(made)
    return made
