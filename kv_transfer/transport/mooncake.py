"""The real transport: Mooncake's transfer engine over TCP or RDMA, peer to peer, without a master.

A process has two engines. Others write to the inbound one; its port is part of our segment name, so
it lives as long as the process. The outbound one is dropped after a failed write, before the
failure is reported, and the next write makes a new one. If it were kept, it would send the rest of
the failed batch as soon as the peer answers again, from memory that has another owner by then. It
is also dropped when a peer is gone (`disconnect`).
(Measured with a peer stopped for 2 s: it got 982 MiB after the write had failed. With the engine
dropped, it got only the 1 to 5 MiB that the kernels had buffered.)

Mooncake has no authentication, and listens on all addresses: any process that reaches the port may
read and write registered memory. If other workers reach this one on loopback, its sockets accept
nothing else (`loopback_filter`). On a network, a firewall has to keep others away.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from kv_transfer.config import TransferConfig
from kv_transfer.transport.loopback_filter import borrowed, only_from_loopback
from kv_transfer.transport.submission import SubmittedWrites
from kv_transfer.transport.transport import Transport, paced
from kv_transfer.writing.plan import Fragment, batches
from segue.api.errors import InvalidConfig, TransferFailed
from segue.process.native_stderr import captured_stderr
from segue.security.config import is_loopback

MAX_QUEUED_ITEMS = 1024
"""Mooncake's default, per peer. Queueing more may wedge the peer's engine for good."""

# Every new engine writes these at any log level: glog was not initialised, and the segment that it
# is about to create does not exist yet.
_NOISE = ("Logging before InitGoogleLogging()", "Local segment descriptor not found")

_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_REFUSED = {
    ("expandable_segments", "true"): "memory that is mapped piece by piece",
    ("backend", "cudamallocasync"): "memory from the driver's pools",
}

_POLL_PERIOD_S = 0.05
_TIMEVAL = struct.Struct("ll")


def open_mooncake(config: TransferConfig, *, host: str, device: str) -> Transport:
    """See `OpenTransport`."""
    if device == "cuda":
        require_registrable(os.environ)
        _require_cuda()
    return paced(MooncakeTransport(config, host=host), config.max_gbit_per_s)


class MooncakeTransport:
    """Satisfies `Transport`. One thread at a time may write."""

    def __init__(self, config: TransferConfig, *, host: str = "127.0.0.1") -> None:
        """`host`: where others reach this process. Mooncake listens on all interfaces anyway."""
        self._config = config
        self._host = host
        _set_environment(config)
        self._regions: list[tuple[int, int]] = []
        self._inbound = _new_engine(config, host)
        self._outbound: Any = None
        self._writes = SubmittedWrites()
        self._connected: set[str] = set()
        """The segments that the outbound engine has written to."""

    @property
    def segment(self) -> str:
        return f"{self._host}:{self._inbound.get_rpc_port()}"

    def register(self, address: int, num_bytes: int) -> None:
        _register(self._inbound, address, num_bytes)
        self._regions.append((address, num_bytes))

    def write(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        """See `Transport.write`. After a failure it takes a moment to close the connections.

        A hung peer is noticed after `progress_timeout_s`, but only after 61 s if it hung before
        this engine's first write to it: Mooncake's handshake waits a fixed minute.
        """
        if self._outbound is None:
            self._outbound = self._new_outbound()
        self._connected.add(target_segment)
        for batch in batches(fragments, max_items=MAX_QUEUED_ITEMS, max_bytes=1 << 62):
            problem = self._writes.write_all(
                self._outbound,
                target_segment,
                batch,
                timeout_s=self._config.transfer_timeout_s,
            )
            if problem:
                self._drop_outbound()
                num_bytes = sum(fragment.num_bytes for fragment in batch)
                raise TransferFailed(
                    f"Mooncake could not write {num_bytes} bytes in {len(batch)} fragments to "
                    f"{target_segment} ({problem}): the peer is gone, hangs, cannot be reached, "
                    "or has not registered that memory"
                )

    def disconnect(self, target_segment: str) -> None:
        """Mooncake keeps four sockets to a dead peer, in CLOSE_WAIT, until the engine is dropped,
        and has no call that closes them. So this drops the engine, with its connections to the
        other peers. The next write makes a new one, as after a failure."""
        # On RDMA a new engine registers all memory again, which takes much longer.
        if target_segment in self._connected and self._config.protocol == "tcp":
            self._drop_outbound()

    def close(self) -> None:
        self._outbound = None
        self._inbound = None

    def _drop_outbound(self) -> None:
        # Dropping the last reference joins its threads and closes its sockets.
        self._outbound = None
        self._connected.clear()

    def _new_outbound(self) -> Any:
        engine = _new_engine(self._config, self._host)
        for address, num_bytes in self._regions:
            _register(engine, address, num_bytes)
        return engine


def require_registrable(environment: Mapping[str, str]) -> None:
    """Raises InvalidConfig if torch is set to allocate GPU memory in a way that RDMA and NVLink
    transfers cannot register: the registration fails, or is for other memory after a while."""
    for variable in _ALLOCATOR_VARIABLES:
        for part in environment.get(variable, "").split(","):
            name, _, value = part.partition(":")
            kind = _REFUSED.get((name.strip().lower(), value.strip().lower()))
            if kind is not None:
                raise InvalidConfig(
                    f"{variable} has {part.strip()}, so torch uses {kind}, which cannot be "
                    "registered for transfers: remove it from the worker's environment"
                )


def _require_cuda() -> None:
    """Raises InvalidConfig if Mooncake would treat a GPU address as a host address."""
    if not _engine_module().SUPPORT_CUDA:
        raise InvalidConfig(
            'the cache is on a GPU ([engine] device = "cuda"), but this Mooncake moves host memory '
            "only: install mooncake-transfer-engine-cuda13 instead of "
            "mooncake-transfer-engine-non-cuda (the extra `cuda` instead of `cpu`)"
        )


def _engine_module() -> Any:
    """Raises InvalidConfig if Mooncake does not load: each wheel links against other libraries."""
    try:
        from mooncake import engine
    except ImportError as error:
        raise InvalidConfig(
            f"Mooncake does not load ({error}): it needs Debian's libibverbs1, and the wheel must "
            "match torch: mooncake-transfer-engine-cuda13 for CUDA (the extra `cuda`) or "
            "mooncake-transfer-engine-non-cuda for CPUs (the extra `cpu`)"
        ) from None
    return engine


def _set_environment(config: TransferConfig) -> None:
    """Sets environment variables, which Mooncake reads when an engine is made.

    Ours replace those already set: this module's limits hold only with these values.
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
    on_loopback = only_from_loopback() if is_loopback(host) else contextlib.nullcontext()
    with captured_stderr() as native, on_loopback:
        engine = module.TransferEngine()
        status = engine.initialize(host, "P2PHANDSHAKE", config.protocol, config.devices)
        output = native()
    for line in output.splitlines(keepends=True):
        if not any(noise in line for noise in _NOISE):
            # The disk behind it may be full.
            with contextlib.suppress(OSError):
                sys.stderr.write(line)
    if status != 0:
        ports = f" and ports {config.min_port} to {config.max_port}" if config.min_port else ""
        raise TransferFailed(
            f"Mooncake did not start on {host} with {config.protocol}{ports} "
            f"(status {status}): the ports may be in use, or the address not this machine's"
        )
    # First, since a refused engine is dropped too.
    _poll_often(engine.get_rpc_port())
    if config.protocol == "rdma" and not _names_devices(engine.get_local_topology()):
        # Mooncake starts anyway, and would move nothing or fall back.
        raise InvalidConfig(
            "protocol is rdma, but Mooncake found no RDMA device "
            f"(devices: {config.devices or 'any'}); use tcp, or check the driver"
        )
    return engine


def _names_devices(topology: str) -> bool:
    """Whether `{"cpu:0": [[preferred ...], [others ...]], ...}` has any device."""
    return any(devices for lists in json.loads(topology).values() for devices in lists)


def _register(engine: Any, address: int, num_bytes: int) -> None:
    status = engine.register_memory(address, num_bytes)
    if status != 0:
        raise TransferFailed(
            f"Mooncake did not register {num_bytes} bytes at {address:#x} (status {status})"
        )


def _poll_often(port: int) -> None:
    """Makes the listener on this port of this process check more often whether it should stop.

    By default it checks once a second. Dropping an engine waits for that check with the GIL held,
    which stops all other Python code. A wait that has already started keeps its second, so a
    connection ends it.
    """
    for name in os.listdir("/proc/self/fd"):
        # Other threads open and close descriptors at the same time, and not all are sockets.
        with contextlib.suppress(OSError), borrowed(int(name)) as found:
            if _waits_on(found, port):
                interval = _TIMEVAL.pack(0, round(_POLL_PERIOD_S * 1e6))
                found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
                loopback = "::1" if found.family == socket.AF_INET6 else "127.0.0.1"
                socket.create_connection((loopback, port), _POLL_PERIOD_S).close()


def _waits_on(found: socket.socket, port: int) -> bool:
    """Whether it accepts connections on this port, with a receive timeout."""
    if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    interval = found.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.size)
    return found.getsockname()[1] == port and interval != bytes(_TIMEVAL.size)
