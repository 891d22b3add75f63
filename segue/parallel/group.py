"""What the ranks of a worker exchange during a pass: partial sums, and columns of the logits.

Sums are made in rank order, in float32, and rounded once. So they have the same bits on every rank,
and a token's sum does not depend on which other tokens are in the pass.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch._C import _distributed_c10d as c10d
from torch.nn import functional

from segue.parallel.rank import FIRST_OF_ONE, Rank, RanksLost

TIMEOUT_S = 60.0
"""A rank that takes longer to reach the others counts as lost. Ranks wait for each other's slowest
layer, and at first for kernels to be compiled."""


class Group(Protocol):
    rank: Rank

    def sum(self, partial: Tensor) -> Tensor:
        """The sum of all ranks' partial results, in their dtype, on every rank."""
        ...

    def gather(self, own_RN: Tensor, num_columns: int) -> Tensor:
        """The columns of all ranks [R, num_columns], in rank order, on every rank. The last ranks
        may have fewer columns than the first."""
        ...


class Alone:
    """The group of a worker with one rank."""

    rank = FIRST_OF_ONE

    def sum(self, partial: Tensor) -> Tensor:
        return partial

    def gather(self, own_RN: Tensor, num_columns: int) -> Tensor:
        return own_RN


ALONE = Alone()


class Ranks:
    """Several ranks: over gloo on CPUs and NCCL on GPUs. Used by one thread."""

    def __init__(self, rank: Rank, backend: c10d.Backend) -> None:
        self.rank = rank
        self._backend = backend

    def sum(self, partial: Tensor) -> Tensor:
        parts = self._all(partial)
        total = parts[0].float()
        for part in parts[1:]:
            total = total + part.float()
        return total.to(partial.dtype)

    def gather(self, own_RN: Tensor, num_columns: int) -> Tensor:
        width = -(-num_columns // self.rank.count)
        padded_RN = functional.pad(own_RN, (0, width - own_RN.shape[1]))
        return self._all(padded_RN).transpose(0, 1).flatten(1)[:, :num_columns]

    def _all(self, own: Tensor) -> Tensor:
        """Every rank's tensor, stacked."""
        parts = own.new_empty((self.rank.count, *own.shape))
        try:
            # As bytes: gloo does not know every dtype.
            self._backend._allgather_base(  # type: ignore[attr-defined]  # torch's
                parts.view(-1).view(torch.uint8), own.contiguous().view(-1).view(torch.uint8)
            ).wait()
        except RuntimeError as error:
            raise RanksLost(
                f"rank {self.rank.index} of {self.rank.count} cannot reach the others: {error}"
            ) from error
        return parts


def join_ranks(rank: Rank, device: str, meeting: Path, *, timeout_s: float = TIMEOUT_S) -> Group:
    """Waits for the other ranks. `meeting`: a file that does not exist yet, which they all name.

    Raises RanksLost if they do not come within the timeout.
    """
    if rank.count == 1:
        return ALONE
    timeout = datetime.timedelta(seconds=timeout_s)
    store = c10d.FileStore(str(meeting), rank.count)
    store.set_timeout(timeout)
    try:
        ranks = Ranks(rank, _backend(store, rank, device, timeout))
        # NCCL connects at the first exchange, for which it needs the store.
        ranks.sum(torch.zeros(1, device=device))
        return ranks
    except RuntimeError as error:
        raise RanksLost(
            f"rank {rank.index} of {rank.count} waited {timeout_s:g} s for the others: {error}"
        ) from error


def _backend(
    store: c10d.Store, rank: Rank, device: str, timeout: datetime.timedelta
) -> c10d.Backend:
    if device == "cuda":
        nccl = c10d.ProcessGroupNCCL.Options()
        nccl._timeout = timeout
        return c10d.ProcessGroupNCCL(store, rank.index, rank.count, nccl)
    gloo = c10d.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # not in torch's stubs
    # The ranks of a worker are on one machine.
    gloo._devices = [c10d.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    gloo._timeout = timeout
    return c10d.ProcessGroupGloo(store, rank.index, rank.count, gloo)
