"""The sum over ranks in Triton: of parts that were gathered, or straight from the ranks' memory.

With memory that all GPUs of a machine reach, a sum is one launch and one way through NVLink. Each
rank has a block for the others to read:

    flags [programs, ranks]   the last round in which a rank has written this program's elements
    two buffers of elements   rounds take turns

A program writes its elements to its own rank's buffer, raises its flag on all ranks, waits until
all have raised theirs, and adds up what they wrote. When the others have raised their flags in a
round, they have finished reading in the one before; so a buffer may be written again two rounds
later, and one wait in each is enough. The scheme of one-shot all-reduce, as in TensorRT-LLM and
vLLM, but adding in rank order.

Elements are counted in groups of eight, where their number allows it: so a thread moves 16 bytes.

R ranks, X elements of a program.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
GROUP = 8
NUM_WARPS = 4
BUFFER_BYTES = 512 << 10
"""Above it, exchanging parts of the sum costs less than reading all of every rank's."""
MAX_PROGRAMS = BUFFER_BYTES // 2 // BLOCK

WHOLE, WRITE, ADD = 0, 1, 2
"""The parts of a launch. The halves are for tests, which have one thread for all ranks."""


@triton.jit(do_not_specialize=["num_groups"])
def sum_parts_kernel(
    parts_ptr,
    out_ptr,
    num_groups,
    GROUP: tl.constexpr,
    NUM_RANKS: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    at_X = tl.program_id(0).to(tl.int64) * BLOCK_X + tl.arange(0, BLOCK_X)
    num_elements = num_groups.to(tl.int64) * GROUP
    inside_X = at_X < num_elements
    total_X = tl.zeros([BLOCK_X], tl.float32)
    for rank in tl.static_range(NUM_RANKS):
        part_ptr = parts_ptr + num_elements * rank
        total_X += tl.load(part_ptr + at_X, mask=inside_X, other=0.0).to(tl.float32)
    tl.store(out_ptr + at_X, total_X, mask=inside_X)


@triton.jit
def _apart(distances_ptr, rank, num_bytes: tl.constexpr):
    """The distance from this rank's block to another's, in elements. Both are at multiples of 16
    bytes, which the compiler cannot know of an address that is read from memory."""
    return tl.multiple_of(tl.load(distances_ptr + rank) // num_bytes, 16 // num_bytes)


@triton.jit(do_not_specialize=["num_groups"])
def exchange_sum_kernel(
    own_ptr,
    out_ptr,
    flags_ptr,
    buffers_ptr,
    distances_ptr,
    rounds_ptr,
    num_groups,
    GROUP: tl.constexpr,
    RANK: tl.constexpr,
    NUM_RANKS: tl.constexpr,
    CAPACITY: tl.constexpr,
    BLOCK_X: tl.constexpr,
    PART: tl.constexpr,
):
    num_bytes: tl.constexpr = own_ptr.dtype.element_ty.primitive_bitwidth // 8
    program = tl.program_id(0)
    at_X = program * BLOCK_X + tl.arange(0, BLOCK_X)
    inside_X = at_X < num_groups * GROUP
    # Wraps around after two thousand million rounds, as the difference of two rounds does.
    number = tl.load(rounds_ptr + program) + 1
    buffer_X = buffers_ptr + (number & 1) * CAPACITY + at_X
    if PART != 2:
        own_X = tl.load(own_ptr + at_X, mask=inside_X)
        tl.store(buffer_X, own_X, mask=inside_X)
        # All threads have written before one of them raises the flag.
        tl.debug_barrier()
        for rank in tl.static_range(NUM_RANKS):
            flag = flags_ptr + _apart(distances_ptr, rank, 4) + program * NUM_RANKS + RANK
            tl.atomic_xchg(flag, number, sem="release", scope="sys")
    if PART != 1:
        for rank in tl.static_range(NUM_RANKS):
            flag = flags_ptr + program * NUM_RANKS + rank
            while tl.atomic_add(flag, 0, sem="acquire", scope="sys") - number < 0:
                pass
        tl.debug_barrier()
        total_X = tl.zeros([BLOCK_X], tl.float32)
        for rank in tl.static_range(NUM_RANKS):
            theirs_X = buffer_X + _apart(distances_ptr, rank, num_bytes)
            # Past the first cache, which does not see what other GPUs write.
            part_X = tl.load(theirs_X, mask=inside_X, other=0.0, cache_modifier=".cg")
            total_X += part_X.to(tl.float32)
        tl.store(out_ptr + at_X, total_X, mask=inside_X)
        tl.store(rounds_ptr + program, number)


def group_of(num_elements: int) -> int:
    return 1 if num_elements % GROUP else GROUP


def sum_parts(parts: Tensor) -> Tensor:
    """As the reference's."""
    if not parts.is_contiguous():
        raise ValueError(f"sum_parts takes contiguous parts, got strides {parts.stride()}")
    out = torch.empty_like(parts[0])
    if num_elements := out.numel():
        group = group_of(num_elements)
        sum_parts_kernel[(triton.cdiv(num_elements, BLOCK),)](
            parts,
            out,
            num_elements // group,
            GROUP=group,
            NUM_RANKS=parts.shape[0],
            BLOCK_X=BLOCK,
            num_warps=NUM_WARPS,
        )
    return out


class RankSums:
    """Sums through memory that all ranks reach. All ranks make the same calls, on one stream."""

    def __init__(self, block: Tensor, addresses: Sequence[int], rank: int) -> None:
        """`block`: this rank's, `block_bytes` zeros. `addresses`: of all ranks' blocks, as this
        rank reaches them."""
        flag_bytes = _flag_bytes(len(addresses))
        self._flags = block[:flag_bytes].view(torch.int32)
        self._buffers = block[flag_bytes:]
        self._rank = rank
        self._distances_R = torch.tensor(
            [address - addresses[rank] for address in addresses], device=block.device
        )
        self._rounds = torch.zeros(MAX_PROGRAMS, dtype=torch.int32, device=block.device)

    @staticmethod
    def block_bytes(num_ranks: int) -> int:
        return _flag_bytes(num_ranks) + 2 * BUFFER_BYTES

    @staticmethod
    def takes(partial: Tensor) -> bool:
        """Whether a sum of this size may go this way: the same on all ranks."""
        num_programs = triton.cdiv(partial.numel(), BLOCK)
        return partial.nbytes <= BUFFER_BYTES and num_programs <= MAX_PROGRAMS

    def sum(self, partial: Tensor, *, part: int = WHOLE, out: Tensor | None = None) -> Tensor:
        """The sum of all ranks' tensors. `part` and `out` are for tests."""
        partial = partial.contiguous()
        out = torch.empty_like(partial) if out is None else out
        if num_elements := partial.numel():
            group = group_of(num_elements)
            exchange_sum_kernel[(triton.cdiv(num_elements, BLOCK),)](
                partial,
                out,
                self._flags,
                self._buffers.view(partial.dtype),
                self._distances_R,
                self._rounds,
                num_elements // group,
                GROUP=group,
                RANK=self._rank,
                NUM_RANKS=len(self._distances_R),
                CAPACITY=BUFFER_BYTES // partial.element_size(),
                BLOCK_X=BLOCK,
                PART=part,
                num_warps=NUM_WARPS,
            )
        return out


def _flag_bytes(num_ranks: int) -> int:
    return MAX_PROGRAMS * num_ranks * 4
