"""`python -m benchmarks.gpu`: checks every kernel on this machine's GPU, then measures it, and
whole passes and a handoff, most important first. Writes gpu.json and gpu.md after every result.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import monotonic

from benchmarks.gpu.process.report import Report
from benchmarks.gpu.process.supervise import Unable, supervise
from benchmarks.harness.environment import this_environment

# Without typer: on a lent machine few packages are installed.


def main() -> None:
    options = _options()
    if options.from_item is not None:
        from benchmarks.gpu.process.child import run_items

        run_items(
            options.from_item, dry=options.dry, with_flashinfer=not options.without_flashinfer
        )
        return
    started_at = monotonic()

    def show(text: str) -> None:
        sys.stderr.write(f"{monotonic() - started_at:6.1f} s  {text}\n")

    given = {"--dry": options.dry, "--without-flashinfer": options.without_flashinfer}
    flags = [flag for flag, is_given in given.items() if is_given]
    report = Report(folder=options.out, environment=this_environment(), show=show)
    try:
        supervise(
            [sys.executable, "-m", "benchmarks.gpu", *flags, "--from-item"],
            report,
            limit_s=60 * options.minutes,
            silence_s=options.silence_s,
        )
    except Unable as unable:
        sys.stderr.write(f"benchmarks.gpu: {unable}\n")
        sys.exit(2)
    report.write()
    sys.stdout.write((options.out / "gpu.md").read_text("utf-8"))
    sys.exit(0 if report.is_right else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=11.0, help="time limit (default: 11)")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-results"), help="folder for gpu.json and gpu.md"
    )
    parser.add_argument(
        "--silence-s",
        type=float,
        default=120.0,
        help="end a measurement after this many seconds without a result (default: 120)",
    )
    parser.add_argument(
        "--dry", action="store_true", help="tiny sizes on the CPU, interpreted: does it run?"
    )
    parser.add_argument(
        "--without-flashinfer",
        action="store_true",
        help="leave FlashInfer out, which compiles for minutes when it is first used",
    )
    parser.add_argument("--from-item", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
