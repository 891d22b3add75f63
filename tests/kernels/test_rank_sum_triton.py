from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segue.kernels.rank_sum import reference, triton
from segue.kernels.rank_sum.triton import ADD, WRITE, RankSums
from tests.kernels.closeness import randn
from tests.kernels.device import DEVICE, DTYPES


def parts_of(num_ranks: int, *shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    # Sums in another order would differ.
    return (100 * randn(num_ranks, *shape, seed=seed)).to(dtype).to(DEVICE)


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (2, 1024), (0, 8)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_ranks", [2, 8])
def test_gathered_parts_have_the_references_sum(
    num_ranks: int, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    parts = parts_of(num_ranks, *shape, dtype=dtype)

    assert torch.equal(triton.sum_parts(parts), reference.sum_parts(parts))


class Machine:
    """All ranks of a machine in one process, on one GPU or none."""

    def __init__(self, num_ranks: int) -> None:
        num_bytes = RankSums.block_bytes(num_ranks)
        self._blocks = torch.zeros(num_ranks, num_bytes, dtype=torch.uint8, device=DEVICE)
        addresses = [block.data_ptr() for block in self._blocks]
        self.ranks = [RankSums(b, addresses, rank) for rank, b in enumerate(self._blocks)]

    def sum(self, parts: Tensor) -> Tensor:
        """[R, …]: each rank's result. No rank adds before all have written."""
        out = torch.empty_like(parts)
        for half in (WRITE, ADD):
            for rank, part, of_rank in zip(self.ranks, parts, out, strict=True):
                rank.sum(part, part=half, out=of_rank)
        return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_every_rank_reads_the_same_sum_from_the_others_memory(
    num_ranks: int, dtype: torch.dtype
) -> None:
    """Rounds of different sizes: programs that take part in some have written fewer rounds."""
    machine = Machine(num_ranks)

    for number, shape in enumerate([(1, 64), (3, 1000), (1, 64), (1, 64), (4, 1000)]):
        parts = parts_of(num_ranks, *shape, dtype=dtype, seed=number)
        expected = reference.sum_parts(parts)

        for of_rank in machine.sum(parts):
            assert torch.equal(of_rank, expected)


def assert_one_launch_sums(num_ranks: int, dtype: torch.dtype) -> None:
    """Of the second rank, after all others have written."""
    machine = Machine(num_ranks)
    parts = parts_of(num_ranks, 2, 1024, dtype=dtype)
    second = machine.ranks[1]
    for rank, part in zip(machine.ranks, parts, strict=True):
        if rank is not second:
            rank.sum(part, part=WRITE)

    assert torch.equal(second.sum(parts[1]), reference.sum_parts(parts))


def test_a_launch_writes_and_adds() -> None:
    assert_one_launch_sums(2, DTYPES[1])


def test_a_round_leaves_what_the_round_before_wrote() -> None:
    """A slow rank may still read it."""
    machine = Machine(2)
    first, second = (parts_of(2, 1, 64, dtype=torch.float32, seed=seed) for seed in (0, 1))
    out = torch.empty_like(first)
    for rank, part, of_rank in zip(machine.ranks, first, out, strict=True):
        rank.sum(part, part=WRITE, out=of_rank)
    fast, slow = machine.ranks
    fast.sum(first[0], part=ADD, out=out[0])

    fast.sum(second[0], part=WRITE, out=torch.empty_like(out[0]))
    slow.sum(first[1], part=ADD, out=out[1])

    assert torch.equal(out[1], reference.sum_parts(first))


@pytest.mark.parametrize(
    ("num_elements", "dtype", "is_taken"),
    [
        (1, torch.bfloat16, True),
        (256 << 10, torch.bfloat16, True),
        ((256 << 10) + 1, torch.bfloat16, False),
        (128 << 10, torch.float32, True),
        ((128 << 10) + 1, torch.float32, False),
    ],
)
def test_only_what_fits_a_buffer_is_taken(
    num_elements: int, dtype: torch.dtype, is_taken: bool
) -> None:
    assert RankSums.takes(torch.empty(num_elements, dtype=dtype, device=DEVICE)) == is_taken
