"""A rank: one of the processes that compute a model together. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """Rank `index` of `count`. Routed experts are split into `expert_groups` groups of whole
    experts; the ranks of a group split each of its experts by columns."""

    index: int = 0
    count: int = 1
    expert_groups: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.index < self.count, f"rank {self.index} of {self.count}"
        assert self.count % self.expert_groups == 0, f"{self.expert_groups} of {self.count}"

    def part(self, size: int) -> range:
        """This rank's part of `size` equal units, such as heads. If there are fewer units than
        ranks, adjacent ranks share a unit."""
        return part_of(size, self.index, self.count)

    def experts(self, num_experts: int) -> range:
        """The routed experts that this rank has."""
        return part_of(num_experts, self.index // self._ranks_per_group, self.expert_groups)

    def expert_columns(self, width: int) -> range:
        """This rank's columns of each routed expert that it has."""
        return part_of(width, self.index % self._ranks_per_group, self._ranks_per_group)

    @property
    def _ranks_per_group(self) -> int:
        return self.count // self.expert_groups


FIRST_OF_ONE = Rank()


class RanksLost(RuntimeError):
    """The ranks of a worker can no longer compute together: the worker must exit."""


def part_of(size: int, index: int, count: int) -> range:
    """Part `index` of `count`. Raises ValueError unless one number is a multiple of the other."""
    if size % count == 0:
        width = size // count
        return range(index * width, (index + 1) * width)
    if count % size == 0:
        first = index * size // count
        return range(first, first + 1)
    raise ValueError(f"{size} cannot be split over {count} ranks")
