"""The fastest way of multiplying on this machine: measured once, and stored in the user's cache.

A way that is not ours must be faster by a margin, so that noise does not decide.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from functools import lru_cache

import torch

from segue.kernels.native import build, library
from segue.kernels.product.paths import ProductPath, product_by

logger = logging.getLogger(__name__)

_MARGIN = 1.1
_ROUNDS = 5
_FEW_SHAPE = (1, 8192, 1024)
"""Rows, outputs, inputs: the weight must not fit into the caches of many cores."""
_MANY_SHAPE = (512, 1024, 1024)


_chosen: dict[str, ProductPath] = {}


def ways(dtype: torch.dtype, *, is_few: bool) -> list[ProductPath]:
    """The ways that this processor supports, the preferred one first."""
    if is_few:
        return [ProductPath.STREAMED, ProductPath.TORCH]
    has_pairs = dtype is torch.bfloat16 and library.variant() == "avx512_bf16"
    return [*([ProductPath.PAIRS] if has_pairs else []), ProductPath.FLOATS, ProductPath.TORCH]


@lru_cache
def way_for(dtype: torch.dtype, *, is_few: bool) -> ProductPath:
    """The fastest way on this machine, with the threads that PyTorch has now."""
    options = ways(dtype, is_few=is_few)
    key = f"{str(dtype).removeprefix('torch.')} {'few' if is_few else 'many'} rows"
    known = _read()
    if known.get(key) in options:
        _chosen[key] = ProductPath(known[key])
        return _chosen[key]
    seconds = _measure(dtype, options, is_few=is_few)
    best = min(options, key=seconds.__getitem__)
    chosen = best if seconds[best] * _MARGIN < seconds[options[0]] else options[0]
    logger.info(
        "chose how to multiply",
        extra={
            "what": key,
            "way": chosen,
            "milliseconds": {way: round(1e3 * s, 2) for way, s in seconds.items()},
        },
    )
    _write({**_read(), key: chosen})
    _chosen[key] = chosen
    return chosen


def described() -> str:
    """The operators of this process, and the ways that it has chosen."""
    chosen = [f"{what}: {way}" for what, way in sorted(_chosen.items())]
    return ", ".join([library.variant() or "reference", *chosen])


def _measure(
    dtype: torch.dtype, options: list[ProductPath], *, is_few: bool
) -> dict[ProductPath, float]:
    """The shortest time of each way, measured alternately."""
    num_rows, num_outputs, num_inputs = _FEW_SHAPE if is_few else _MANY_SHAPE
    # A thread's own time excludes the time that others use its core.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    with torch.inference_mode():
        weight_NK = torch.full((num_outputs, num_inputs), 0.5, dtype=dtype)
        x_TK = torch.full((num_rows, num_inputs), 0.5, dtype=dtype)
        seconds = dict.fromkeys(options, float("inf"))
        for _ in range(_ROUNDS):
            for way in options:
                start = clock()
                product_by(way, x_TK, weight_NK)
                seconds[way] = min(seconds[way], clock() - start)
    return seconds


def _path() -> str:
    """A file for this processor, library and number of threads."""
    machine = " ".join(
        [_cpu_name(), build.file_name(str(library.variant())), str(torch.get_num_threads())]
    )
    digest = hashlib.sha256(machine.encode()).hexdigest()[:16]
    return str(build.cache_folder() / f"products-{digest}.json")


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next((line for line in lines if line.startswith("model name")), "")
    except OSError:
        return ""


def _read() -> dict[str, str]:
    try:
        with open(_path()) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(choices: dict[str, str]) -> None:
    """Replaces the whole file, since other processes may read it at any time."""
    path = _path()
    scratch = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(scratch, "w") as file:
            json.dump(choices, file)
        os.replace(scratch, path)
    except OSError as error:
        logger.info("the choice is not stored", extra={"path": path, "error": str(error)})
