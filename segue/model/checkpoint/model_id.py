"""A fingerprint of a folder's weights, which workers compare before they share a cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from segue.model.weights.at_load import NONE

NUM_PROBES = 16
PROBE_BYTES = 4096
_MARK = "-"


def model_id(folder: Path) -> str:
    """A short name for the weights in `folder`, the same on every machine that has them.

    Hashes config.json and, for each safetensors file, its size, its header and a few samples of its
    data, since a fine-tune has the same headers as its base model. Reads about 64 KiB a file.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size_bytes = path.stat().st_size
        digest.update(f"{path.name}:{size_bytes}".encode())
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(header_bytes, size_bytes)))
            for probe in range(NUM_PROBES):
                file.seek(size_bytes * probe // NUM_PROBES)
                digest.update(file.read(PROBE_BYTES))
    return digest.hexdigest()[:16]


def quantised_id(folder_id: str, quantization: str) -> str:
    """Of weights that were quantised when they were loaded: states of other weights are no use."""
    return folder_id if quantization == NONE else f"{folder_id}{_MARK}{quantization}"


def folder_id(served_id: str) -> str:
    """Of a folder, whatever its weights were quantised to."""
    return served_id.partition(_MARK)[0]
