"""Settings for moving bytes between workers: section `[transfer]`, the same for all workers."""

from __future__ import annotations

from dataclasses import dataclass

from segue.api.errors import InvalidConfig

PROTOCOLS = ("tcp", "rdma")
MIN_TRANSFER_TIMEOUT_S = 5
"""Mooncake's own minimum: it treats smaller values as this one."""
MIN_PORTS = 8
"""For one worker: two engines with two ports each, and the same for replaced engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    protocol: str = "tcp"
    """"tcp" or "rdma". With "rdma", a worker without an RDMA device does not start."""
    devices: str = ""
    """RDMA devices, comma-separated; if empty, Mooncake chooses."""
    progress_timeout_s: int = 5
    """Closes a connection on which no byte moves for this long. Below `transfer_timeout_s`."""
    transfer_timeout_s: int = 15
    """A write that takes longer fails."""
    min_port: int = 0
    """Mooncake uses the ports from this one to `max_port`, both included. A machine needs at least
    8 for each worker, since a replaced engine keeps its ports busy for a while. With 0, Mooncake
    chooses from 15000 to 17000.
    """
    max_port: int = 0
    max_gbit_per_s: float = 0.0
    """Limits the send rate of each worker, to leave room on a shared link. 0 sets no limit."""
    verify_checksums: bool = True
    """The writer checksums what it sends, the reader what arrives. A mismatch fails the turn."""

    def __post_init__(self) -> None:
        """Raises InvalidConfig."""
        if self.protocol not in PROTOCOLS:
            raise InvalidConfig(
                f"protocol must be one of {', '.join(PROTOCOLS)}, got {self.protocol!r}"
            )
        if self.transfer_timeout_s < MIN_TRANSFER_TIMEOUT_S:
            raise InvalidConfig(
                f"transfer_timeout_s must be >= {MIN_TRANSFER_TIMEOUT_S}, "
                f"got {self.transfer_timeout_s}"
            )
        # Otherwise Mooncake may still send a "failed" write from memory that has been reused.
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
                f"min_port and max_port must both be 0, or span {MIN_PORTS} ports between 1024 and "
                f"65535, got {self.min_port} and {self.max_port}"
            )
        if self.max_gbit_per_s < 0:
            raise InvalidConfig(
                f"max_gbit_per_s must be >= 0 (0 sets no limit), got {self.max_gbit_per_s:g}"
            )
