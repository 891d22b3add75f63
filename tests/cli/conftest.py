"""Commands of `segue` that need no new Python: in this process, or forked."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from scripts.terminal import Start
from segue.cli.main import main
from tests.forked import Forked, Imported

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


@pytest.fixture(scope="session")
def start_segue() -> Iterator[Start]:
    """Starts `segue` at a terminal, without the half second of its imports."""
    # Not `segue.cli` itself: what depends on the terminal. pydantic is Typer's.
    modules = ("segue", "segue.cli.show", "rich.live", "typer", "pydantic.main", "pydantic.fields")
    with closing(Imported(*modules)) as imported:

        def start(
            command: Sequence[str], *, stream: int, env: Mapping[str, str], cwd: Path | None
        ) -> Forked:
            assert Path(command[0]).name == "segue"
            streams = (stream, stream, stream)
            function = "segue.cli.main:main"
            return imported.start(function, command[1:], streams=streams, env=env, cwd=cwd)

        yield start
