"""Settings for moving bytes between workers: section `[transfer]`, equal for all workers."""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.errors import InvalidConfig

PROTOCOLS = ("tcp", "rdma")
MIN_TRANSFER_TIMEOUT_S = 5
"""Mooncake's own floor: a smaller value counts as this."""
MIN_PORTS = 8
"""For one worker: two engines with two ports each, and the same for engines that were replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    protocol: str = "tcp"
    """"tcp" or "rdma". With "rdma", a worker without an RDMA device does not start."""
    devices: str = ""
    """RDMA devices, comma-separated; if empty, Mooncake chooses."""
    progress_timeout_s: int = 5
    """A connection on which no byte moves for this long is closed; below `transfer_timeout_s`."""
    transfer_timeout_s: int = 15
    """A write that takes longer has failed."""
    min_port: int = 0
    """Mooncake's ports lie between this and `max_port`, both included: at least 8 for each worker
    of a machine, since an engine that is replaced keeps its ports busy for a while. 0 leaves the
    choice to Mooncake, which takes 15000 to 17000.
    """
    max_port: int = 0
    max_gbit_per_s: float = 0.0
    """The most that each worker may send; 0 sets no limit. Leaves room on a shared link."""
    verify_checksums: bool = True
    """The writer sums what it sends, the reader what arrived; a difference fails the turn."""

    def __post_init__(self) -> None:
        """Raises InvalidConfig."""
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
        if self.max_gbit_per_s < 0:
            raise InvalidConfig(
                f"max_gbit_per_s must be >= 0 (0 sets no limit), got {self.max_gbit_per_s:g}"
            )
