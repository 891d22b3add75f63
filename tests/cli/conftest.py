"""Commands of `segue`, run in this process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from segue.cli.main import main

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The output of a `segue` command that starts nothing, run in this process: a new one takes a
    second.
    """

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["segue", *arguments])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            # `segue serve` has its own.
            for number, handler in handlers.items():
                signal.signal(number, handler)
        shown = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(arguments, ended.value.code, shown.out, shown.err)

    return run
