"""The numbers that a budget starts from, each with its source. Rates are those of one GPU."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from segue.api.errors import InvalidConfig


class Kind(StrEnum):
    MEASURED = "measured"
    PUBLISHED = "published"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Fact:
    value: float
    kind: Kind
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    name: str
    memory_bytes: Fact
    bytes_per_s: Fact
    """The rate of large reads."""
    flops_per_s: Fact
    """The rate of large bfloat16 products, in which quantised weights are multiplied too."""
    nvlink_bytes_per_s: Fact
    """In one direction, to all others together."""
    rdma_bytes_per_s: Fact


_HALF_OF_PEAK = "half of the published {} TFLOP/s of dense bfloat16; no kernel here has run on it"
_RDMA = Fact(50e9, Kind.PUBLISHED, "one 400 Gbit/s adapter a GPU, as in NVIDIA's DGX systems")

GPUS = {
    "H200": Gpu(
        name="H200",
        memory_bytes=Fact(141e9, Kind.PUBLISHED, "NVIDIA's data sheet"),
        bytes_per_s=Fact(4.3e12, Kind.MEASURED, "a large copy on an H200; 4.8 TB/s specified"),
        flops_per_s=Fact(989e12 / 2, Kind.ASSUMED, _HALF_OF_PEAK.format(989)),
        nvlink_bytes_per_s=Fact(450e9, Kind.PUBLISHED, "half of NVLink's 900 GB/s"),
        rdma_bytes_per_s=_RDMA,
    ),
    "B200": Gpu(
        name="B200",
        memory_bytes=Fact(180e9, Kind.PUBLISHED, "an eighth of a DGX B200's 1,440 GB"),
        bytes_per_s=Fact(
            8e12 * 4.3 / 4.8, Kind.ASSUMED, "the published 8 TB/s, and the share measured on H200"
        ),
        flops_per_s=Fact(2250e12 / 2, Kind.ASSUMED, _HALF_OF_PEAK.format("2,250")),
        nvlink_bytes_per_s=Fact(900e9, Kind.PUBLISHED, "half of NVLink's 1.8 TB/s"),
        rdma_bytes_per_s=_RDMA,
    ),
}


MACHINE_GPUS = 8
"""The number of GPUs that can read each other's memory."""
EAGER_S = Fact(
    6e-6, Kind.ASSUMED, "the host's time for a launch of a prompt; the GPU computes beside it"
)
CAPTURED_S = Fact(2e-6, Kind.ASSUMED, "in a captured graph (docs/kernels.md: about 2 µs)")
EXCHANGE_S = Fact(5e-6, Kind.ASSUMED, "latency of an exchange between the ranks over NVLink")
GATES = {131_072: 530.0, 262_144: 495.0, 1_048_576: 445.0}
"""TokenSpeed's tokens/s for one user, by context, published for the 397B in NVFP4 on eight B200;
580 in its agentic workload."""


def parse_gpus(text: str) -> tuple[int, Gpu]:
    """ "8xB200". Raises InvalidConfig."""
    count, _, name = text.rpartition("x")
    if name not in GPUS or not (count or "1").isdecimal() or not int(count or "1"):
        raise InvalidConfig(
            f"--gpus must be a number and one of {', '.join(GPUS)}, as in 8xB200, got {text!r}"
        )
    return int(count or "1"), GPUS[name]
