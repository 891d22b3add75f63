"""A subject's process: started, asked, stopped; its memory, with that of its children."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.samples import Answered
from benchmarks.peers.subjects.line_server import Request

ROOT = Path(__file__).parents[2]
_STOP_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectSpec:
    name: str
    python: str
    module: str
    """A module of `benchmarks.peers.subjects`."""
    model: Path
    options: tuple[str, ...] = ()
    """More arguments of the module."""
    pauses: bool = True
    """Stopped by a signal while others are measured, so that no waiting thread spins. A cluster
    would count its stopped workers as lost."""


class SubjectFailed(Exception):
    """A subject's process ended, or did not load its model."""


class RunningSubject:
    """Starts the process and waits until its model is loaded. Raises SubjectFailed."""

    def __init__(self, spec: SubjectSpec, *, threads: int, log: Path) -> None:
        self.spec = spec
        self.memory = Memory(pss_bytes=0, rss_high_bytes=0)
        started_at = time.monotonic()
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [
                    *(spec.python, "-m", f"benchmarks.peers.subjects.{spec.module}"),
                    *(str(spec.model), str(threads), *spec.options),
                ],
                # Before torch is imported: its own setting does not reach all products.
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        try:
            self._read()
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - started_at
        self._signal(signal.SIGSTOP)

    def ask(
        self, prompts: Sequence[Sequence[int]], num_tokens: int, *, is_suffix: bool = False
    ) -> tuple[list[Answered], str]:
        """The answers, and the subject's note. Nothing else runs meanwhile."""
        request = Request([list(prompt) for prompt in prompts], num_tokens, is_suffix)
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(vars(request)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        answer = self._read()
        self.memory = self.memory.or_more(memory_of(self._process.pid))
        self._signal(signal.SIGSTOP)
        answered = [
            Answered(asked_at=answer["asked_at"], token_at=tuple(at), token_ids=tuple(ids))
            for at, ids in zip(answer["token_at"], answer["token_ids"], strict=True)
        ]
        return answered, answer["note"]

    def stop(self) -> None:
        """Ends stdin, then the process, then its group."""
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: int) -> None:
        if self.spec.pauses and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        return json.loads(line)

    def _failed(self) -> SubjectFailed:
        self._process.wait(_STOP_S)
        last = self._log.read_text(errors="replace").splitlines()[-5:]
        text = "\n".join(last)
        return SubjectFailed(f"{self.spec.name} ended; the last lines of {self._log}:\n{text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of a process and its children."""

    pss_bytes: int
    """Private pages and shares of shared ones, after an answer."""
    rss_high_bytes: int
    """The sum of each process' highest resident size so far. It counts shared pages repeatedly, but
    misses no peak during an answer."""

    def or_more(self, other: Memory) -> Memory:
        return Memory(
            pss_bytes=max(self.pss_bytes, other.pss_bytes),
            rss_high_bytes=max(self.rss_high_bytes, other.rss_high_bytes),
        )


def memory_of(pid: int) -> Memory:
    tree = _tree(pid)
    return Memory(
        pss_bytes=sum(_bytes_in(one, "smaps_rollup", "Pss:") for one in tree),
        rss_high_bytes=sum(_bytes_in(one, "status", "VmHWM:") for one in tree),
    )


def reset_peak_rss() -> None:
    """The highest resident size of this process counts from here."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_rss_bytes() -> int:
    """The highest resident size of this process so far."""
    return _bytes_in(os.getpid(), "status", "VmHWM:")


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                # The thread or process has ended.
                continue
    return found


def _bytes_in(pid: int, file: str, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(name))
