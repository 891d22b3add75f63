"""Published times of others for the same work on an H200, and our goals.

GDN: 16 key and 32 value heads of 128. FlashQLA's times are its own; vLLM's and SGLang's were
measured by NVIDIA's aiconfigurator-core 0.12.0 (2026-08). Attention: 8 query and 2 key heads of
256.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    seconds: float | None = None
    """At most this long."""
    share: float | None = None
    """At least this share of the floor's speed."""
    of: str
    """Where it comes from."""

    def is_met(self, seconds: float, share: float) -> bool:
        return (self.seconds is None or seconds <= self.seconds) and (
            self.share is None or share >= self.share
        )

    def __str__(self) -> str:
        wanted = f"{self.share:.0%}" if self.seconds is None else f"{self.seconds * 1e6:.1f} µs"
        return f"{wanted} ({self.of})"


def _bars(of: str, times_us: dict[str, float]) -> dict[str, Bar]:
    return {size: Bar(seconds=us * 1e-6, of=of) for size, us in times_us.items()}


_GDN = {
    "delta rule, prefill": {
        **_bars("1.1 x FlashQLA", {"8192": 308.0, "32768": 964.7}),
        **_bars("vLLM 0.24", {"2048": 108.0}),
    },
    "delta rule, decode": _bars(
        "vLLM 0.24", {"1 x 1": 4.8, "16 x 1": 17.1, "64 x 1": 71.6, "256 x 1": 267.0}
    ),
}
_ATTENTION = {
    "attention, decode": {
        "1 x 1 after 131072": Bar(share=0.85, of="of the copy bandwidth"),
        **_bars("SGLang 0.5.14", {"4 x 1 after 131072": 262.0, "8 x 1 after 131072": 497.0}),
    },
}
OPERATORS = {"0.8B": _ATTENTION, "9B": _GDN, "35B-A3B": _GDN}
"""By model, operator and size."""
STEPS = {
    ("9B", "decode, graph", 1): Bar(share=0.65, of="of the roofline"),
    ("35B-A3B", "decode, graph", 1): Bar(share=0.55, of="of the roofline"),
}
"""By model, kind and batch."""


def operator_bar(model: str, operator: str, size: str) -> Bar | None:
    return OPERATORS.get(model, {}).get(operator, {}).get(size)
