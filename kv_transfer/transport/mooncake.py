"""The real transport: Mooncake's transfer engine over TCP or RDMA, peer to peer, without a master.

A process has two engines. The inbound one is what others write to; its port is our segment name,
so it lives as long as the process. The outbound one is thrown away after a failed write, before
anybody hears of the failure, and made anew by the next write: an engine that stays sends what is
left of a failed batch as soon as the peer answers again, out of memory that is somebody else's by
then. (Seen: a peer stopped for 2 s got 982 MiB after the write had failed; with the engine gone,
the 1 to 5 MiB that the kernels had buffered.)

Mooncake authenticates nobody: whoever reaches the port may write into whatever is registered.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

from kv_transfer.config import TransferConfig
from kv_transfer.transport.transport import Transport, paced
from kv_transfer.writing.plan import Fragment, batches
from segue.api.errors import InvalidConfig, TransferFailed
from segue.process.native_stderr import captured_stderr

MAX_QUEUED_ITEMS = 1024
"""Per peer, Mooncake's default. One more than it can queue may wedge the peer's engine for good."""

# What every new engine writes, whatever its log level: that glog was not initialised, and that the
# segment which it is about to make is not there yet.
_NOISE = ("Logging before InitGoogleLogging()", "Local segment descriptor not found")

_POLL_PERIOD_S = 0.05
_TIMEVAL = struct.Struct("ll")


def open_mooncake(config: TransferConfig, *, host: str, device: str) -> Transport:
    """See `OpenTransport`."""
    if device == "cuda":
        _require_cuda()
    return paced(MooncakeTransport(config, host=host), config.max_gbit_per_s)


class MooncakeTransport:
    """Satisfies `Transport`. One thread at a time may write."""

    def __init__(self, config: TransferConfig, *, host: str = "127.0.0.1") -> None:
        """`host`: how others reach this process. Mooncake listens on all interfaces anyway."""
        self._config = config
        self._host = host
        _set_environment(config)
        self._regions: list[tuple[int, int]] = []
        self._inbound = _new_engine(config, host)
        self._outbound: Any = None

    @property
    def segment(self) -> str:
        return f"{self._host}:{self._inbound.get_rpc_port()}"

    def register(self, address: int, num_bytes: int) -> None:
        _register(self._inbound, address, num_bytes)
        self._regions.append((address, num_bytes))

    def write(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        """See `Transport.write`. After a failure it takes a moment to close the connections.

        A peer that hangs is noticed after `progress_timeout_s`, but after 61 s if it hung before
        this engine's first write to it: Mooncake's handshake waits a fixed minute.
        """
        if self._outbound is None:
            self._outbound = self._new_outbound()
        for batch in batches(fragments, max_items=MAX_QUEUED_ITEMS, max_bytes=1 << 62):
            status = self._outbound.batch_transfer_sync_write(
                target_segment,
                [fragment.source_address for fragment in batch],
                [fragment.target_address for fragment in batch],
                [fragment.num_bytes for fragment in batch],
            )
            if status != 0:
                # Dropping the last reference joins its threads and closes its sockets.
                self._outbound = None
                num_bytes = sum(fragment.num_bytes for fragment in batch)
                raise TransferFailed(
                    f"Mooncake could not write {num_bytes} bytes in {len(batch)} fragments to "
                    f"{target_segment} (status {status}): the peer is gone, hangs, cannot be "
                    "reached, or has not registered that memory"
                )

    def close(self) -> None:
        self._outbound = None
        self._inbound = None

    def _new_outbound(self) -> Any:
        engine = _new_engine(self._config, self._host)
        for address, num_bytes in self._regions:
            _register(engine, address, num_bytes)
        return engine


def _require_cuda() -> None:
    """Raises InvalidConfig where Mooncake would take a GPU's address for one of the host."""
    if not _engine_module().SUPPORT_CUDA:
        raise InvalidConfig(
            'the cache is on a GPU ([engine] device = "cuda"), and this Mooncake moves host memory '
            "only: install mooncake-transfer-engine-cuda13 instead of "
            "mooncake-transfer-engine-non-cuda (the extra `cuda` instead of `cpu`)"
        )


def _engine_module() -> Any:
    """Raises InvalidConfig where it does not load: each wheel links against other libraries."""
    try:
        from mooncake import engine
    except ImportError as error:
        raise InvalidConfig(
            f"Mooncake does not load ({error}): it needs Debian's libibverbs1, and the wheel must "
            "be that of torch's CUDA (mooncake-transfer-engine-cuda13, the extra `cuda`) or that "
            "for CPUs (mooncake-transfer-engine-non-cuda, the extra `cpu`)"
        ) from None
    return engine


def _set_environment(config: TransferConfig) -> None:
    """Mooncake reads its settings from the environment, when an engine is made.

    Ours replace whatever is set there: the limits of this module hold only with these.
    """
    # Version 1 of its protocol does not acknowledge writes.
    os.environ.pop("MC_TCP_PROTO", None)
    os.environ["MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER"] = str(MAX_QUEUED_ITEMS)
    os.environ["MC_TCP_PROGRESS_TIMEOUT_SEC"] = str(config.progress_timeout_s)
    os.environ["MC_TRANSFER_TIMEOUT"] = str(config.transfer_timeout_s)
    if config.min_port:
        os.environ["MC_MIN_RPC_PORT"] = str(config.min_port)
        os.environ["MC_MAX_RPC_PORT"] = str(config.max_port)
    os.environ.setdefault("MC_LOG_LEVEL", "ERROR")


def _new_engine(config: TransferConfig, host: str) -> Any:
    module = _engine_module()
    with captured_stderr() as native:
        engine = module.TransferEngine()
        status = engine.initialize(host, "P2PHANDSHAKE", config.protocol, config.devices)
        said = native()
    for line in said.splitlines(keepends=True):
        if not any(noise in line for noise in _NOISE):
            sys.stderr.write(line)
    if status != 0:
        ports = f" and ports {config.min_port} to {config.max_port}" if config.min_port else ""
        raise TransferFailed(
            f"Mooncake did not start on {host} with {config.protocol}{ports} "
            f"(status {status}): a port may be missing, or the address not be this machine's"
        )
    if config.protocol == "rdma" and not _names_devices(engine.get_local_topology()):
        # It starts all the same, and would move nothing or fall back.
        raise InvalidConfig(
            "protocol is rdma, but Mooncake found no RDMA device "
            f"(devices: {config.devices or 'any'}); use tcp, or check the driver"
        )
    _poll_often(engine.get_rpc_port())
    return engine


def _names_devices(topology: str) -> bool:
    """Of `{"cpu:0": [[preferred ...], [others ...]], ...}`."""
    return any(devices for lists in json.loads(topology).values() for devices in lists)


def _register(engine: Any, address: int, num_bytes: int) -> None:
    status = engine.register_memory(address, num_bytes)
    if status != 0:
        raise TransferFailed(
            f"Mooncake did not register {num_bytes} bytes at {address:#x} (status {status})"
        )


def _poll_often(port: int) -> None:
    """Makes the listener on this port of this process check more often whether it should end.

    By itself it checks once a second. Dropping an engine waits for that with Python's lock held, so
    nothing else of the process runs meanwhile.
    """
    for name in os.listdir("/proc/self/fd"):
        # Other threads open and close theirs meanwhile, and not all are sockets.
        with contextlib.suppress(OSError), _borrowed(int(name)) as found:
            if _waits_on(found, port):
                interval = _TIMEVAL.pack(0, round(_POLL_PERIOD_S * 1e6))
                found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)


def _borrowed(descriptor: int) -> socket.socket:
    """Another descriptor of the same socket. Raises OSError."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _waits_on(found: socket.socket, port: int) -> bool:
    """Whether it accepts connections there, and looks up now and then."""
    if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    interval = found.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.size)
    return found.getsockname()[1] == port and interval != bytes(_TIMEVAL.size)
