"""A cluster of plain processes, whose CPU time, memory and metrics can be read individually."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_START_S = 60.0
_STOP_S = 30.0
_SCRAPE_S = 10.0


@dataclass(frozen=True, slots=True)
class Process:
    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def cpu_s(self) -> float:
        """User and system time so far."""
        return _cpu_s(self.popen.pid)

    def cpu_with_children_s(self) -> float:
        pid = self.popen.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return _cpu_s(pid) + sum(map(_cpu_s, map(int, children)))

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) << 10 if found else 0

    def wait_for(self, pattern: str) -> str:
        """The first group of the first log line that matches. Raises RuntimeError."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if found := re.search(pattern, self.log.read_text()):
                return found[1]
            if self.popen.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text()}")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@dataclass(frozen=True, slots=True)
class ProcessCluster:
    address: str
    router: Process
    workers: tuple[Process, ...]
    gateway: Process | None = None
    http_address: str = ""

    @property
    def processes(self) -> tuple[Process, ...]:
        gateway = () if self.gateway is None else (self.gateway,)
        return (self.router, *self.workers, *gateway)


@contextlib.contextmanager
def process_cluster(
    model: str,
    settings: str,
    *,
    prefill: int = 1,
    decode: int = 1,
    code: Path = ROOT,
    worker_command: Sequence[str] | None = None,
    has_gateway: bool = False,
) -> Iterator[ProcessCluster]:
    """`settings` is TOML; `code` is the checkout to run. `worker_command`, a module and arguments
    that precede a worker's own, replaces the real workers.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segue-load-")))
        (folder / "segue.toml").write_text(settings)

        def start(name: str, *arguments: str) -> Process:
            log = folder / f"{name}.log"
            with log.open("wb") as output:
                popen = subprocess.Popen(
                    [sys.executable, "-m", *arguments, "--config", str(folder / "segue.toml")],
                    cwd=folder,
                    env={**os.environ, "PYTHONPATH": str(code)},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            stack.callback(_stop, popen)
            return Process(name, popen, log)

        router = start("router", "router", "--model", model, "--port", "0")
        address = router.wait_for(r"serving .*?\baddress=(\S+)")
        roles = [("prefill", i) for i in range(prefill)] + [("decode", i) for i in range(decode)]
        workers = []
        for role, index in roles:
            name = f"{role}-{index}"
            arguments = ["--id", name, "--model", model, "--router", address]
            command = worker_command or (f"{role}_worker",)
            workers.append(start(name, *command, *arguments))
        gateway, http_address = None, ""
        if has_gateway:
            gateway = start("gateway", "segue.gateway", "--router", address, "--port", "0")
            http_address = gateway.wait_for(r"serving .*?\baddress=(\S+)")
        yield ProcessCluster(address, router, tuple(workers), gateway, http_address)


def _stop(popen: subprocess.Popen[bytes]) -> None:
    popen.send_signal(signal.SIGTERM)
    try:
        popen.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


@dataclass(frozen=True, slots=True)
class Total:
    """A histogram's sum and count since its process started."""

    sum: float
    count: float

    def mean_since(self, earlier: Total) -> float:
        """Raises ZeroDivisionError if nothing was observed in between."""
        return (self.sum - earlier.sum) / (self.count - earlier.count)


def read_metrics(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=_SCRAPE_S) as reply:
        text: bytes = reply.read()
    return text.decode()


def total_of(text: str, name: str) -> Total:
    """Raises KeyError if there is no histogram `name` without labels."""
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name == name and not sample.labels
    }
    return Total(values[f"{name}_sum"], values[f"{name}_count"])
