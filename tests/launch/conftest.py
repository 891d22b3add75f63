"""`run_here`: a command of `segue`, run in this process."""

from tests.cli.conftest import run_here

__all__ = ["run_here"]
