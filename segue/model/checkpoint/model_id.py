"""A fingerprint of a folder's weights, which workers compare before they exchange caches."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from segue.model.weights.at_load import NONE

NUM_PROBES = 16
PROBE_BYTES = 4096
_MARK = "-"
_KV_SCALE = re.compile(
    rb'"[^"]*\.[kv]_scale"\s*:\s*\{[^}]*"data_offsets"\s*:\s*\[\s*(\d+)\s*,\s*(\d+)\s*\]'
)
"""A pattern, since parsing the JSON header of a large model takes a second."""


def model_id(folder: Path) -> str:
    """A short name for the weights in `folder`, the same on every machine that has them.

    Hashes config.json and, for each safetensors file, its size, its header and a few samples of its
    data, since a fine-tune has the same headers as its base model. Reads about 64 KiB a file. All
    scales of keys and values are hashed: what pages hold depends on them.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size_bytes = path.stat().st_size
        digest.update(f"{path.name}:{size_bytes}".encode())
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = file.read(min(header_bytes, size_bytes))
            digest.update(header)
            for start, num_bytes in _kv_scales(header):
                file.seek(8 + header_bytes + start)
                digest.update(file.read(num_bytes))
            for probe in range(NUM_PROBES):
                file.seek(size_bytes * probe // NUM_PROBES)
                digest.update(file.read(PROBE_BYTES))
    return digest.hexdigest()[:16]


def quantised_id(folder_id: str, quantization: str, *, activations: bool = False) -> str:
    """The id of weights that are quantised at load, or whose inputs are quantised: their caches
    have different numbers."""
    marks = [quantization] * (quantization != NONE) + ["activations"] * activations
    return _MARK.join([folder_id, *marks])


def folder_id(served_id: str) -> str:
    """The folder's id, without marks of quantisation."""
    return served_id.partition(_MARK)[0]


def _kv_scales(header: bytes) -> Iterator[tuple[int, int]]:
    """Start and length of their data, in the header's order."""
    for found in _KV_SCALE.finditer(header):
        start, end = int(found[1]), int(found[2])
        yield start, min(max(end - start, 0), PROBE_BYTES)
