"""A folder of safetensors as one table of tensors, each read on demand.

Files are memory-mapped, not read: a tensor costs memory only when it is copied, and what has been
copied is unmapped again, so that a process never holds its weights twice.
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
from segue.model.checkpoint.preflight import INDEX_NAME, SINGLE_NAME
from segue.model.checkpoint.typed_json import listed, read_object, section

_BLOCK_BYTES = 32 << 20
"""Of a file, mapped at once while it is copied."""
_MADV_DONTNEED = 4


class SafetensorsFile(Protocol):
    def keys(self) -> list[str]: ...
    def get_tensor(self, name: str) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """The tensors of all files, in their order on disk."""

    folder: Path
    files: Mapping[str, SafetensorsFile]
    """Tensor name → the open file that holds it."""

    def read(self, name: str) -> Tensor:
        """A view of the mapped file, valid while the checkpoint is open."""
        return self.files[name].get_tensor(name)


def copy_mapped(place: Tensor, mapped: Tensor) -> None:
    """Copies a tensor of a checkpoint to `place`, of the same shape, and unmaps its memory block by
    block. Its content must not be read afterwards."""
    if mapped.nbytes <= _BLOCK_BYTES:
        place.copy_(mapped)
        _unmap(mapped)
        return
    rows = max(_BLOCK_BYTES // mapped[0].nbytes, 1)
    for to, block in zip(torch.split(place, rows), torch.split(mapped, rows), strict=True):
        to.copy_(block)
        _unmap(block)


def _unmap(mapped: Tensor) -> None:
    """Lets the system take back the whole pages of a tensor in a mapped file. They stay in its
    cache of files, for other processes that load the same checkpoint."""
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
    """Open every file of the checkpoint in `folder`.

    Raises InvalidCheckpoint for a missing, truncated or foreign file, for a tensor that is in two
    files, and for a file that lacks a tensor which the index places there.
    """
    index = _read_index(folder)
    with ExitStack() as stack:
        files: dict[str, SafetensorsFile] = {}
        for file_name, promised in index.items():
            file = stack.enter_context(_open_file(folder / file_name))
            names = file.keys()
            if missing := sorted(promised.difference(names)):
                raise InvalidCheckpoint(
                    f"{folder / file_name} lacks tensors that the index places there: "
                    f"{listed(missing)}"
                )
            if twice := sorted(files.keys() & set(names)):
                raise InvalidCheckpoint(f"{folder}: tensors in more than one file: {listed(twice)}")
            files.update(dict.fromkeys(names, file))
        yield CheckpointFiles(folder, files)


def _read_index(folder: Path) -> dict[str, set[str]]:
    """File name → the tensors that the index places there; no tensors without an index."""
    path = folder / INDEX_NAME
    if not path.exists():
        return {SINGLE_NAME: set()}
    index: dict[str, set[str]] = {}
    for tensor_name, file_name in section(read_object(path), "weight_map").items():
        index.setdefault(str(file_name), set()).add(tensor_name)
    return index


@contextmanager
def _open_file(path: Path) -> Iterator[SafetensorsFile]:
    try:
        file = safe_open(path, framework="pt")
    except FileNotFoundError:
        hint = f"no {INDEX_NAME} either" if path.name == SINGLE_NAME else "the index names it"
        raise InvalidCheckpoint(f"missing weights file {path} ({hint})") from None
    except (SafetensorError, OSError) as error:
        raise InvalidCheckpoint(f"{path} is truncated or not safetensors: {error}") from error
    with file as opened:
        yield opened
