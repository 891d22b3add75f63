"""The parts of the prefix tree: nodes with their pages, and checkpoints on some of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from segue.api.types import PageId, SessionId, SlotId


class Use(NamedTuple):
    """The time of a use: the eviction queue's line at that time, and a tick that never repeats.

    Later uses compare greater.
    """

    line: float
    tick: int


NEVER = Use(0.0, 0)


@dataclass(slots=True, eq=False, repr=False)
class PageNode:
    """The page of tokens that follows its parent's tokens, with their K and V.

    Only leaves can be evicted, so pinning a node keeps all nodes above it.
    """

    parent: PageNode | None
    """None for the root, and for an evicted node."""
    key: bytes
    """The page's tokens and media (`segue/api/prompt.py`). The root has none."""
    page: PageId
    """Frozen: it is not written while the node is in the tree. The root has -1."""
    num_tokens: int
    """Tokens from the start of the prompt to the end of this page."""
    children: dict[bytes, PageNode] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    num_holds: int = 0
    """Holds that end here, plus one for each held child."""
    num_leases: int = 0
    """Leases that end here."""
    last_use: Use = NEVER
    """Last use as the end of a held prefix. An evicted leaf passes its own on to its parent."""
    digest: bytes = b""
    """Names the tokens up to the end of this page (`segue/api/prompt.py`)."""
    twin: PageNode | None = None
    """The node of the same prefix in the other tier, if there ever was one. It may be evicted."""

    @property
    def has_twin(self) -> bool:
        return self.twin is not None and self.twin.parent is not None

    @property
    def is_evictable(self) -> bool:
        is_in_tree = self.parent is not None
        return is_in_tree and not (self.children or self.num_holds or self.num_leases)

    def nearest_checkpoint(self) -> Checkpoint | None:
        """The checkpoint of this node, or else of the next node above that has one."""
        return next((node.checkpoint for node in self.upwards() if node.checkpoint), None)

    def states(self) -> tuple[int, ...]:
        """The positions of the checkpoints between the root and this node, ascending, in tokens."""
        kept = [node.num_tokens for node in self.upwards() if node.checkpoint]
        return tuple(reversed(kept))

    def upwards(self) -> Iterator[PageNode]:
        """This node, its parent, and so on, up to the root."""
        node: PageNode | None = self
        while node is not None:
            yield node
            node = node.parent

    def at(self, num_tokens: int) -> PageNode:
        """The node at the end of this prefix's first `num_tokens` tokens, which end a page."""
        return next(node for node in self.upwards() if node.num_tokens <= num_tokens)


@dataclass(slots=True, eq=False, repr=False)
class Checkpoint:
    """The recurrent and convolution state after a node's last token. Frozen, like the page."""

    node: PageNode
    slot: SlotId
    num_holds: int = 0
    num_leases: int = 0
    last_use: Use = NEVER
    session_id: SessionId | None = None
    """The session that left it, unless another session has used it since."""
    is_superseded: bool = False
    """Its session will resume from other states: its worth is 0 until it is held again."""

    @property
    def num_tokens(self) -> int:
        return self.node.num_tokens

    @property
    def is_in_tree(self) -> bool:
        return self.node.checkpoint is self

    @property
    def has_twin(self) -> bool:
        twin = self.node.twin
        return self.node.has_twin and twin is not None and twin.checkpoint is not None

    @property
    def is_evictable(self) -> bool:
        return self.is_in_tree and not (self.num_holds or self.num_leases)

    def num_tokens_above(self) -> int:
        """Where a prompt would resume without this checkpoint; 0 means at its start."""
        parent = self.node.parent
        above = parent.nearest_checkpoint() if parent else None
        return above.num_tokens if above else 0
