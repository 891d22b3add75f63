"""The gateway's settings: section `[gateway]`."""

from __future__ import annotations

from dataclasses import dataclass, replace

DEFAULT_PORT = 8000
UNSET_PORT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    host: str = "127.0.0.1"
    """Address to listen on. Loopback by default: keys travel in plaintext."""
    port: int = UNSET_PORT
    """0 lets the system choose. -1 is 8000, or with `segue serve --port 0` any free one, so that
    several clusters may start on one machine.
    """
    processes: int = 1
    """Processes that share the port. One relays about 20,000 tokens/s on one core."""
    max_body_bytes: int = 32 << 20
    """Larger requests are refused (413) before they are read. JSON takes up to twice the bytes of
    its texts, which `[router] max_prompt_bytes` limits.
    """
    max_choices: int = 16
    """Most answers to one request (`n` times the prompts of a completion): each is a turn."""
    ping_s: float = 15.0
    """A stream sends something at least this often, so that proxies do not close it while a long
    prompt is computed.
    """
    drain_s: float = 30.0
    """How long running requests may take to finish after SIGTERM."""

    def __post_init__(self) -> None:
        if not UNSET_PORT <= self.port < 65536:
            raise ValueError(f"port must be -1 or in [0, 65536), got {self.port}")
        for name in ("processes", "max_body_bytes", "max_choices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.ping_s <= 0:
            raise ValueError(f"ping_s must be > 0, got {self.ping_s}")
        if self.drain_s < 0:
            raise ValueError(f"drain_s must be >= 0, got {self.drain_s}")

    def with_port(self, router_port: int | None = None) -> GatewayConfig:
        """A copy whose port is set. `router_port`: the configured one, if there is a router."""
        if self.port != UNSET_PORT:
            return self
        return replace(self, port=0 if router_port == 0 else DEFAULT_PORT)
