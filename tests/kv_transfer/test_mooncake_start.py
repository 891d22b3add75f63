"""How a Mooncake engine starts: its ports, its log output, its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kv_transfer.config import MIN_PORTS, TransferConfig
from kv_transfer.transport import mooncake
from kv_transfer.transport.mooncake import MooncakeTransport
from segue.api.errors import InvalidConfig

# In a separate process: Mooncake reads the environment, and ours is the test runner's.
LISTENING = """
import os
from pathlib import Path
from kv_transfer.config import TransferConfig
from kv_transfer.transport.mooncake import MooncakeTransport

transport = MooncakeTransport(TransferConfig(min_port={first}, max_port={last}))
transport._outbound = transport._new_outbound()
fds = Path("/proc/self/fd")
mine = {{os.readlink(fd) for fd in fds.iterdir() if fd.is_symlink()}}
ports = set()
for table in ("tcp", "tcp6"):
    for line in Path("/proc/net", table).read_text().splitlines()[1:]:
        columns = line.split()
        if columns[3] == "0A" and f"socket:[{{columns[9]}}]" in mine:
            ports.add(int(columns[1].rpartition(":")[2], 16))
print(transport.segment, *sorted(ports))
"""


def test_ports_are_in_the_configured_range_and_native_noise_is_hidden() -> None:
    # Below the ephemeral ports, and different for tests that run in parallel.
    first = 18_000 + os.getpid() % 500 * 20
    last = first + 2 * MIN_PORTS

    done = subprocess.run(
        [sys.executable, "-c", LISTENING.format(first=first, last=last)],
        capture_output=True,
        text=True,
        check=True,
    )

    segment, *ports = done.stdout.split()
    # Two engines, each with one port for handshakes and one for data.
    assert len(ports) == 4
    assert all(first <= int(port) <= last for port in ports)
    assert segment.rpartition(":")[2] in ports
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("min_port", "max_port"),
    [(23_000, 0), (0, 23_000), (23_000, 23_006), (80, 900), (65_530, 65_540), (-1, 23_000)],
)
def test_a_port_range_too_small_for_a_worker_is_refused(min_port: int, max_port: int) -> None:
    with pytest.raises(
        InvalidConfig, match=f"min_port and max_port.*got {min_port} and {max_port}"
    ):
        TransferConfig(min_port=min_port, max_port=max_port)


def test_without_a_range_mooncake_chooses_the_ports() -> None:
    config = TransferConfig()

    assert (config.min_port, config.max_port) == (0, 0)


def test_dropping_an_engine_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's lock is held during the end. Mooncake's listener checks only once a second whether
    to end: here it has just checked, when it is made to check more often.
    """
    poll_often = mooncake._poll_often

    def poll_often_later(port: int) -> None:
        time.sleep(0.1)
        poll_often(port)

    monkeypatch.setattr(mooncake, "_poll_often", poll_often_later)

    def seconds_to_close() -> float:
        transport = MooncakeTransport(TransferConfig())
        started_at = time.monotonic()
        transport.close()
        return time.monotonic() - started_at

    # In one of three attempts: other tests use the machine too.
    assert any(seconds_to_close() < 0.4 for _ in range(3))


def test_a_wheel_for_other_libraries_is_named_with_the_missing_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import fails, as with the wheel for another CUDA version."""
    package = tmp_path / "mooncake"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "engine.py").write_text(
        'raise ImportError("libcudart.so.12: cannot open shared object file")\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    for module in [name for name in sys.modules if name.partition(".")[0] == "mooncake"]:
        monkeypatch.delitem(sys.modules, module)

    with pytest.raises(InvalidConfig) as refused:
        MooncakeTransport(TransferConfig())

    # The next import finds the real one.
    sys.modules.pop("mooncake")
    assert "Mooncake does not load (libcudart.so.12: cannot open shared object file)" in str(
        refused.value
    )
    assert "mooncake-transfer-engine-cuda13" in str(refused.value)
