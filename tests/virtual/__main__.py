"""`python -m tests.virtual --faults 10000 --seed 1`: random faults in virtual time."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from tests.virtual.campaign import campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.virtual", description=__doc__)
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", default="CRITICAL", help="level of the processes' log lines")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets is part of a run.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.virtual", *sys.argv[1:]])
    logging.basicConfig(level=options.log)
    report = campaign(options.faults, options.seed)
    sys.stdout.write(f"{report}\n" + "".join(f"  {wrong}\n" for wrong in report.wrongs[:50]))
    return 1 if report.wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
