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

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kv_transfer.listener import look_often
from kv_transfer.plan import Fragment, batches
from segue.errors import InvalidConfig, TransferFailed
from segue.native_stderr import captured_stderr

PROTOCOLS = ("tcp", "rdma")
MIN_TRANSFER_TIMEOUT_S = 5
"""Mooncake's own floor: a smaller value counts as this."""
MIN_PORTS = 8
"""Of one worker: two engines with two ports each, and as many of engines that were replaced."""
MAX_QUEUED_ITEMS = 1024
"""Per peer, Mooncake's default. One more than it can queue may wedge the peer's engine for good."""

# What every new engine writes, whatever its log level: that glog was not initialised, and that the
# segment which it is about to make is not there yet.
_NOISE = ("Logging before InitGoogleLogging()", "Local segment descriptor not found")


@dataclass(frozen=True, slots=True, kw_only=True)
class MooncakeConfig:
    protocol: str = "tcp"
    host: str = "127.0.0.1"
    """What we call ourselves to others. Mooncake listens on all interfaces whatever this says."""
    devices: str = ""
    """RDMA devices, comma-separated; empty lets Mooncake choose."""
    progress_timeout_s: int = 5
    """A connection on which no byte moves for so long is closed."""
    transfer_timeout_s: int = 15
    """A write that takes longer has failed."""
    min_port: int = 0
    """The first of the ports that its engines may listen on; 0 leaves them to Mooncake."""
    max_port: int = 0
    """The last of them."""

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InvalidConfig(f"protocol must be one of {PROTOCOLS}, got {self.protocol!r}")
        if self.transfer_timeout_s < MIN_TRANSFER_TIMEOUT_S:
            raise InvalidConfig(
                f"transfer_timeout_s must be >= {MIN_TRANSFER_TIMEOUT_S}, "
                f"got {self.transfer_timeout_s}"
            )
        # Otherwise a write that has "failed" is still being sent, from memory that is used again.
        if not 1 <= self.progress_timeout_s < self.transfer_timeout_s:
            raise InvalidConfig(
                "progress_timeout_s must be at least 1 and below transfer_timeout_s "
                f"({self.transfer_timeout_s}), got {self.progress_timeout_s}"
            )
        has_ports = self.max_port - self.min_port + 1 >= MIN_PORTS
        if (self.min_port or self.max_port) and not (
            self.min_port >= 1024 and has_ports and self.max_port < 65536
        ):
            raise InvalidConfig(
                f"min_port and max_port must both be 0, or hold {MIN_PORTS} ports between 1024 and "
                f"65535, got {self.min_port} and {self.max_port}"
            )


class MooncakeTransport:
    """Satisfies `Transport`. One thread at a time may write."""

    def __init__(self, config: MooncakeConfig) -> None:
        self._config = config
        _set_environment(config)
        self._regions: list[tuple[int, int]] = []
        self._inbound = _new_engine(config)
        self._outbound: Any = None

    @property
    def segment(self) -> str:
        return f"{self._config.host}:{self._inbound.get_rpc_port()}"

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
        engine = _new_engine(self._config)
        for address, num_bytes in self._regions:
            _register(engine, address, num_bytes)
        return engine


def require_cuda() -> None:
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


def _set_environment(config: MooncakeConfig) -> None:
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


def _new_engine(config: MooncakeConfig) -> Any:
    module = _engine_module()
    with captured_stderr() as native:
        engine = module.TransferEngine()
        status = engine.initialize(config.host, "P2PHANDSHAKE", config.protocol, config.devices)
        said = native()
    for line in said.splitlines(keepends=True):
        if not any(noise in line for noise in _NOISE):
            sys.stderr.write(line)
    if status != 0:
        ports = f" and ports {config.min_port} to {config.max_port}" if config.min_port else ""
        raise TransferFailed(
            f"Mooncake did not start on {config.host} with {config.protocol}{ports} "
            f"(status {status}): a port may be missing, or the address not be this machine's"
        )
    if config.protocol == "rdma" and not _names_devices(engine.get_local_topology()):
        # It starts all the same, and would move nothing or fall back.
        raise InvalidConfig(
            "protocol is rdma, but Mooncake found no RDMA device "
            f"(devices: {config.devices or 'any'}); use tcp, or check the driver"
        )
    look_often(engine.get_rpc_port())
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
