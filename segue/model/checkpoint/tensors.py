"""A folder of safetensors as one table of tensors, each read on demand.

Files are memory-mapped, not read. A tensor is unmapped once it is copied, so that a process never
holds its weights twice.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segue.api.errors import InvalidCheckpoint
from segue.model.checkpoint.headers import read_index
from segue.model.checkpoint.typed_json import listed

_BLOCK_BYTES = 32 << 20
"""Part of a file that is mapped at once while it is copied."""
_MADV_DONTNEED = 4


class SafetensorsFile(Protocol):
    def keys(self) -> list[str]: ...
    def get_tensor(self, name: str) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """The tensors of all files, in disk order."""

    folder: Path
    files: Mapping[str, SafetensorsFile]
    """Tensor name → the open file that holds it."""

    def read(self, name: str) -> Tensor:
        """A view of the mapped file, valid while the checkpoint is open."""
        return self.files[name].get_tensor(name)


def copy_mapped(place: Tensor, mapped: Tensor) -> None:
    """Copies a checkpoint's tensor to `place`, of the same shape, and unmaps it block by block. It
    must not be read afterwards."""
    if mapped.nbytes <= _BLOCK_BYTES:
        place.copy_(mapped)
        _unmap(mapped)
        return
    rows = max(_BLOCK_BYTES // mapped[0].nbytes, 1)
    for to, block in zip(torch.split(place, rows), torch.split(mapped, rows), strict=True):
        to.copy_(block)
        _unmap(block)


def _unmap(mapped: Tensor) -> None:
    """Unmaps the whole pages of a tensor in a mapped file. They stay in the page cache, for other
    processes that load the same checkpoint."""
    if sys.platform != "linux":
        return
    page = mmap.PAGESIZE
    start = -(-mapped.data_ptr() // page) * page
    size = (mapped.data_ptr() + mapped.nbytes) // page * page - start
    if size > 0:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED)


@contextmanager
def open_checkpoint(folder: Path) -> Iterator[CheckpointFiles]:
    """Opens all files of the checkpoint in `folder`.

    Raises InvalidCheckpoint for a missing, truncated or foreign file, for a tensor in two files,
    and for a file that lacks a tensor of the index.
    """
    index = read_index(folder)
    with ExitStack() as stack:
        files: dict[str, SafetensorsFile] = {}
        for file_name, promised in index.items():
            path = folder / file_name
            try:
                file: SafetensorsFile = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise InvalidCheckpoint(
                    f"{path} is truncated or not safetensors: {error}"
                ) from error
            names = file.keys()
            if missing := sorted(promised.difference(names)):
                raise InvalidCheckpoint(f"{path} lacks tensors of the index: {listed(missing)}")
            if twice := sorted(files.keys() & set(names)):
                raise InvalidCheckpoint(f"{folder}: tensors in more than one file: {listed(twice)}")
            files.update(dict.fromkeys(names, file))
        yield CheckpointFiles(folder, files)
