"""Checks that this machine has the configured devices, without importing torch.

Only if Ray starts here: with another Ray cluster this machine may have no devices, and the nodes
are judged by their resources.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from segue.api.errors import InvalidConfig
from segue.launch.config import Config

INFINIBAND = Path("/sys/class/infiniband")
_CPU_MOONCAKE = "mooncake-transfer-engine-non-cuda"
_CUDA_EXTRA = "`pip install -e '.[cuda]'` without an index of CPU builds"
_NO_DEVICE = 100
"""Status of `cuInit`: the driver finds no GPU, or CUDA_VISIBLE_DEVICES hides all."""


def require_devices(
    config: Config,
    *,
    torch_version: str | None = None,
    num_gpus: Callable[[], int | None] | None = None,
    infiniband: Path = INFINIBAND,
) -> None:
    """Raises InvalidConfig."""
    if config.engine.device == "cuda":
        _require_cuda_builds(torch_version_text() if torch_version is None else torch_version)
        if (num_gpus or count_gpus)() == 0:
            raise InvalidConfig(
                '[engine] device = "cuda", but this machine has no GPU that the NVIDIA driver '
                'shows: check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or set "cpu"'
            )
    if config.transfer.protocol == "rdma" and not _has_entries(infiniband):
        raise InvalidConfig(
            f'[transfer] protocol = "rdma", but this machine has no RDMA device ({infiniband} is '
            'empty or missing): load its driver, or set "tcp"'
        )


def _require_cuda_builds(torch_version: str) -> None:
    version = re.search(r"^__version__ = '(.*)'", torch_version, re.M)
    if version and re.search(r"^cuda\b.*= None", torch_version, re.M):
        raise InvalidConfig(
            f'[engine] device = "cuda", but the installed torch {version[1]} has no CUDA: '
            f'`pip uninstall torch`, then {_CUDA_EXTRA}, or set "cpu"'
        )
    if _is_installed(_CPU_MOONCAKE):
        raise InvalidConfig(
            f'[engine] device = "cuda", but {_CPU_MOONCAKE} is installed, which moves host memory '
            f"only: `pip uninstall` it, then {_CUDA_EXTRA}, which brings "
            'mooncake-transfer-engine-cuda13, or set "cpu"'
        )


def torch_version_text() -> str:
    """The text of torch's `version.py`, which describes its build; empty if it cannot be found."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return ""
    try:
        return Path(found.origin).with_name("version.py").read_text("utf-8")
    except OSError:
        return ""


def count_gpus() -> int | None:
    """The number of GPUs that a process in this environment may use, according to the driver; None
    if unknown.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    status = driver.cuInit(0)
    if status:
        return 0 if status == _NO_DEVICE else None
    number = ctypes.c_int()
    return None if driver.cuDeviceGetCount(ctypes.byref(number)) else number.value


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _has_entries(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
