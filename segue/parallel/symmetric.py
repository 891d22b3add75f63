"""GPU memory that all ranks of a machine can access, for sums in one launch."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

import torch
from torch._C import _distributed_c10d as c10d

from segue.parallel.rank import Rank

if TYPE_CHECKING:
    from segue.kernels.rank_sum.triton import RankSums

logger = logging.getLogger(__name__)

_GROUP = "segue"
_YES, _NO = "yes", "no"


def open_exchange(store: c10d.Store, rank: Rank) -> tuple[RankSums, Any] | None:
    """The exchange of this rank, and the objects that must live as long. None on all ranks if they
    are on several machines, or if one of them cannot access the others' memory: sums are then
    computed by all-gather."""
    hosts = _from_all(store, "host", rank, socket.gethostname())
    if len(set(hosts)) > 1:
        return None
    # A rank that fails does not block the others for ever: PyTorch's rendezvous has a timeout.
    opened = None
    try:
        opened = _opened(store, rank)
    except (RuntimeError, AttributeError) as error:
        logger.warning(
            "the ranks' GPUs cannot share memory; sums use all-gather",
            extra={"rank": rank.index, "error": str(error)},
        )
    answers = _from_all(store, "opened", rank, _NO if opened is None else _YES)
    return None if _NO in answers else opened


def _opened(store: c10d.Store, rank: Rank) -> tuple[RankSums, Any]:
    from segue.kernels.rank_sum.triton import RankSums

    memory: Any = c10d._SymmetricMemory
    own = c10d.PrefixStore("symmetric", store)
    memory.set_group_info(_GROUP, rank.index, rank.count, own)
    num_bytes = RankSums.block_bytes(rank.count)
    device = torch.device("cuda", torch.cuda.current_device())
    block = memory.empty_strided_p2p((num_bytes,), (1,), torch.uint8, device, _GROUP).zero_()
    torch.cuda.synchronize()
    reached = memory.rendezvous(block, _GROUP)
    return RankSums(block, list(reached.buffer_ptrs), rank.index), (block, reached)


def _from_all(store: c10d.Store, what: str, rank: Rank, own: str) -> list[str]:
    """The value of every rank, in rank order. Waits for all of them."""
    store.set(f"{what}/{rank.index}", own)
    return [store.get(f"{what}/{index}").decode() for index in range(rank.count)]
