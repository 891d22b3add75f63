"""What listens in a running cluster, and who may connect: nothing is open beyond this machine."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from kv_transfer.transport.loopback_filter import only_from_loopback
from segue.launch.ray.surroundings import keep_token_private
from segue.wire.addresses import own_address
from tests.cluster.serving import is_whole, serving, wait_until

_LISTEN = "0A"
_LOOPBACK_V6 = "00000000000000000000000001000000"
_MAPPED_V4 = "0000000000000000FFFF0000"


@dataclass(frozen=True, slots=True)
class Listener:
    pid: int
    command: str
    is_loopback: bool
    port: int


def listeners_of(root_pid: int) -> list[Listener]:
    """Of a process and its descendants, from /proc."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                host, _, port = fields[1].partition(":")
                v4 = host.removeprefix(_MAPPED_V4)
                is_loopback = host == _LOOPBACK_V6 or (len(v4) == 8 and v4.endswith("7F"))
                sockets[fields[9]] = (is_loopback, int(port, 16))
    found = []
    for pid in _family(root_pid):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            inode = target.removeprefix("socket:[").rstrip("]")
            if inode in sockets:
                found.append(Listener(pid, command, *sockets[inode]))
    return found


def _family(root_pid: int) -> list[int]:
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int(
                    (folder / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
    family = [root_pid]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    return family


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=0.5).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_nothing_of_a_cluster_is_open_beyond_loopback(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    outside = own_address()
    assert outside != "127.0.0.1", "this machine has no other address to try"
    secret = "the-secret-that-nothing-may-show"
    environment = {"HOME": str(home), "SEGUE_CLUSTER_SECRET": secret}
    with serving(tmp_path, environment=environment) as started:
        status = wait_until(started.address(), is_whole)
        listeners = listeners_of(started.process.pid)
        shown = "\n".join(map(str, listeners))
        beyond = [one for one in listeners if not one.is_loopback]

        assert len(listeners) >= 8, shown
        # Only Mooncake's own sockets are bound to all addresses: two an engine.
        assert {one.pid for one in beyond} <= {worker.pid for worker in status.workers}, shown
        for one in listeners:
            assert not connects(outside, one.port), f"{one} answers at {outside}\n{shown}"
            assert connects("127.0.0.1", one.port) or connects("::1", one.port), one
        (gcs,) = {one.pid for one in listeners if "gcs_server" in one.command}
        assert b"RAY_AUTH_MODE=token" in Path(f"/proc/{gcs}/environ").read_bytes().split(b"\0")
        # What the launcher handed out is in no argument and no log.
        token = home / ".ray" / "auth_token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        arguments = subprocess.run(
            ["ps", "-eo", "args"], capture_output=True, text=True, check=True
        ).stdout
        session = started.logs().parent
        written = [path for path in session.rglob("*") if path.is_file()]
        assert any(path.name == "segue-router.log" for path in written)
        for hidden in (token.read_text(), secret):
            assert hidden not in arguments
            assert [path for path in written if hidden.encode() in path.read_bytes()] == []


def test_the_kernel_drops_what_does_not_come_from_loopback() -> None:
    outside = own_address()
    open_before = socket.create_server(("", 0))
    with only_from_loopback():
        guarded = [
            socket.create_server(("", 0)),
            socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True),
        ]
    try:
        for listener in guarded:
            port = listener.getsockname()[1]
            assert connects("127.0.0.1", port)
            if outside != "127.0.0.1":
                assert not connects(outside, port)
        assert connects("::1", guarded[1].getsockname()[1])
        assert connects(outside, open_before.getsockname()[1])
    finally:
        for listener in (open_before, *guarded):
            listener.close()


def test_rays_token_is_for_its_owner_only(tmp_path: Path) -> None:
    environment: dict[str, str] = {}

    keep_token_private(environment, tmp_path)

    token = tmp_path / ".ray" / "auth_token"
    text = token.read_text()
    assert len(text) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert environment == {}
    token.chmod(0o644)
    keep_token_private(environment, tmp_path)
    assert token.read_text() == text
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "environment",
    [
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_TOKEN": "given"},
        {"RAY_AUTH_TOKEN_PATH": "/somewhere"},
    ],
)
def test_a_token_that_was_given_is_used(tmp_path: Path, environment: dict[str, str]) -> None:
    before = dict(environment)

    keep_token_private(environment, tmp_path)

    assert environment == before
    assert not (tmp_path / ".ray").exists()


def test_without_a_home_the_token_is_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".ray").write_text("a file where Ray wants a folder")
    environment: dict[str, str] = {}

    keep_token_private(environment, tmp_path)

    assert len(environment["RAY_AUTH_TOKEN"]) == 64
