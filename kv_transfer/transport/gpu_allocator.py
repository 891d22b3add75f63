"""Whether torch's GPU memory can be registered for transfers."""

from __future__ import annotations

from collections.abc import Mapping

from segue.api.errors import InvalidConfig

_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_REFUSED = {
    ("expandable_segments", "true"): "memory that is mapped piece by piece",
    ("backend", "cudamallocasync"): "memory from the driver's pools",
}


def require_registrable(environment: Mapping[str, str]) -> None:
    """Raises InvalidConfig if torch is told to allocate in a way that RDMA and NVLink transfers
    cannot register: the registration fails, or is for other memory after a while."""
    for variable in _VARIABLES:
        for part in environment.get(variable, "").split(","):
            name, _, value = part.partition(":")
            kind = _REFUSED.get((name.strip().lower(), value.strip().lower()))
            if kind is not None:
                raise InvalidConfig(
                    f"{variable} has {part.strip()}, so torch uses {kind}, which cannot be "
                    "registered for transfers: remove it from the worker's environment"
                )
