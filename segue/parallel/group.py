"""Collectives of a worker's ranks during a pass: sums of partial results, columns of the logits.

Sums are computed in rank order, in float32, and rounded once. So they have the same bits on every
rank, and a token's sum does not depend on the other tokens of the pass.
"""

from __future__ import annotations

import contextlib
import datetime
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C import _distributed_c10d as c10d
from torch.nn import functional

from segue.kernels.rank_sum import sum_parts
from segue.parallel.rank import FIRST_OF_ONE, Rank, RanksLost
from segue.parallel.symmetric import open_exchange

if TYPE_CHECKING:
    from segue.kernels.rank_sum.triton import RankSums

TIMEOUT_S = 60.0
"""A rank that takes longer to reach the others counts as lost. Ranks wait for each other's slowest
layer, and in the first pass for kernels to be compiled."""

TWO_STEP_BYTES = 1 << 20
"""From this size on a sum takes two steps: bytes cost more than the number of exchanges."""


class Group:
    """The ranks of a worker: only one, unless it is `Ranks`."""

    def __init__(self, rank: Rank = FIRST_OF_ONE) -> None:
        self.rank = rank

    def sum(self, partial: Tensor) -> Tensor:
        """The sum of all ranks' partial results, in their dtype, on every rank."""
        return partial

    def gather(self, own_RN: Tensor, num_columns: int) -> Tensor:
        """The columns of all ranks [R, num_columns], in rank order, on every rank. The last ranks
        may have fewer columns than the first."""
        return own_RN


ALONE = Group()


class Ranks(Group):
    """Several ranks: over gloo on CPUs; on GPUs through each other's memory if they share a
    machine, else over NCCL. Used by one thread."""

    def __init__(
        self, rank: Rank, backend: c10d.Backend, exchange: tuple[RankSums, Any] | None = None
    ) -> None:
        """`exchange`: see `open_exchange`."""
        super().__init__(rank)
        self._backend = backend
        self._exchange: RankSums | None = None
        if exchange is not None:
            self._exchange, self._kept = exchange

    def sum(self, partial: Tensor) -> Tensor:
        if self._exchange is not None and self._exchange.takes(partial):
            return self._exchange.sum(partial)
        if self.rank.count > 2 and partial.nbytes >= TWO_STEP_BYTES:
            return self._sum_in_two_steps(partial)
        return sum_parts(self._all(partial))

    def gather(self, own_RN: Tensor, num_columns: int) -> Tensor:
        width = -(-num_columns // self.rank.count)
        padded_RN = functional.pad(own_RN, (0, width - own_RN.shape[1]))
        return self._all(padded_RN).transpose(0, 1).flatten(1)[:, :num_columns]

    def _sum_in_two_steps(self, partial: Tensor) -> Tensor:
        """Each rank sums a part of the elements and sends it to the others: a reduce-scatter, then
        an all-gather. With R ranks each receives 2 (R - 1) / R of the tensor instead of R - 1. The
        order of additions, and so the bits, are those of the one-step sum."""
        num_ranks, num_elements = self.rank.count, partial.numel()
        width = -(-num_elements // num_ranks)
        sent = partial.flatten()
        if missing := width * num_ranks - num_elements:
            sent = functional.pad(sent, (0, missing))
        parts = torch.empty_like(sent)
        with self._or_lost():
            exchange = self._backend.alltoall_base  # type: ignore[attr-defined]  # torch's
            exchange(_as_bytes(parts), _as_bytes(sent), [], []).wait()
        whole = self._all(sum_parts(parts.view(num_ranks, width)))
        return whole.flatten()[:num_elements].view(partial.shape)

    def _all(self, own: Tensor) -> Tensor:
        """Every rank's tensor, stacked."""
        parts = own.new_empty((self.rank.count, *own.shape))
        with self._or_lost():
            gather = self._backend._allgather_base  # type: ignore[attr-defined]  # torch's
            gather(_as_bytes(parts), _as_bytes(own.contiguous())).wait()
        return parts

    @contextlib.contextmanager
    def _or_lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RanksLost(
                f"rank {self.rank.index} of {self.rank.count} cannot reach the others: {error}"
            ) from error


def _as_bytes(tensor: Tensor) -> Tensor:
    """gloo does not support every dtype."""
    return tensor.view(-1).view(torch.uint8)


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where ranks find each other: the address of their store, on the first rank."""

    host: str
    port: int


def join_ranks(
    rank: Rank,
    device: str,
    meeting: Meeting,
    *,
    host: str,
    listening: socket.socket | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Group:
    """Waits for the other ranks. `host`: an address of this machine that they can reach.
    `listening`: the first rank's socket at the meeting, which the store takes over.

    These connections are not authenticated, as usual for gloo and NCCL. Raises RanksLost if the
    others do not join within the timeout.
    """
    if rank.count == 1:
        return ALONE
    timeout = datetime.timedelta(seconds=timeout_s)
    try:
        store = c10d.TCPStore(
            meeting.host.strip("[]"),
            meeting.port,
            rank.count,
            listening is not None,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=listening.detach() if listening is not None else None,
        )
        exchange = open_exchange(store, rank) if device == "cuda" else None
        ranks = Ranks(rank, _backend(store, rank, device, host.strip("[]"), timeout), exchange)
        # NCCL connects during the first exchange, and needs the store for it.
        ranks.sum(torch.zeros(1, device=device))
        return ranks
    except RuntimeError as error:
        raise RanksLost(
            f"rank {rank.index} of {rank.count} waited {timeout_s:g} s for the others at "
            f"{meeting.host}: {error}"
        ) from error


def _backend(
    store: c10d.Store, rank: Rank, device: str, host: str, timeout: datetime.timedelta
) -> c10d.Backend:
    if device == "cuda":
        nccl = c10d.ProcessGroupNCCL.Options()
        nccl._timeout = timeout
        return c10d.ProcessGroupNCCL(store, rank.index, rank.count, nccl)
    gloo = c10d.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # not in torch's stubs
    gloo._devices = [c10d.ProcessGroupGloo.create_device(hostname=host)]
    gloo._timeout = timeout
    return c10d.ProcessGroupGloo(store, rank.index, rank.count, gloo)
