"""Counts the holds and leases on nodes and checkpoints, which decide what may be evicted.

A hold is a sequence that reads: what it holds cannot be evicted. A lease is a session that will
come back: what it pins is evicted only after the lease is revoked. Everything else waits in two
eviction queues.
"""

from __future__ import annotations

from collections.abc import Callable

from segue.cache.prefix.eviction import EvictionQueue
from segue.cache.prefix.eviction_cost import EvictionCost
from segue.cache.prefix.node import NEVER, Checkpoint, PageNode


class Pins:
    """The only writer of the nodes' and checkpoints' counts and of the two queues."""

    def __init__(self, worth: EvictionCost) -> None:
        self.leaves: EvictionQueue[PageNode] = EvictionQueue(worth.page)
        """Exactly the nodes for which `is_evictable` is true."""
        self.checkpoints: EvictionQueue[Checkpoint] = EvictionQueue(
            lambda checkpoint: 0.0 if checkpoint.is_superseded else worth.checkpoint(checkpoint)
        )
        """Exactly the checkpoints for which `is_evictable` is true."""
        self.num_held_nodes = 0
        """Nodes at or above the end of a hold. Without the root."""
        self.num_held_checkpoints = 0
        self.node_settled: Callable[[PageNode], None] = lambda node: None
        self.checkpoint_settled: Callable[[Checkpoint], None] = lambda checkpoint: None
        """Set by `Leases`: called when a lease may now be able to give up its node or
        checkpoint."""

    def hold(self, node: PageNode) -> None:
        """Takes time in proportion to the nodes above that were not held yet."""
        # The nodes above are inner ones, which are not in the queue.
        self.leaves.discard(node)
        held: PageNode | None = node
        while held is not None:
            held.num_holds += 1
            if held.num_holds > 1 or held.parent is None:
                return
            self.num_held_nodes += 1
            held = held.parent

    def unhold(self, node: PageNode) -> None:
        """The end of a hold counts as a use: until then the node cannot be evicted."""
        node.last_use = self.leaves.use()
        held: PageNode | None = node
        while held is not None:
            held.num_holds -= 1
            if held.num_holds or held.parent is None:
                return
            self.num_held_nodes -= 1
            # An inner node is not evictable, and only a lease waits for it: a long prefix has
            # thousands of them.
            if held.num_leases or not held.children:
                self.settle(held)
            held = held.parent

    def hold_checkpoint(self, checkpoint: Checkpoint) -> None:
        checkpoint.is_superseded = False
        checkpoint.num_holds += 1
        self.num_held_checkpoints += checkpoint.num_holds == 1
        self.settle_checkpoint(checkpoint)

    def unhold_checkpoint(self, checkpoint: Checkpoint) -> None:
        checkpoint.num_holds -= 1
        self.num_held_checkpoints -= checkpoint.num_holds == 0
        self.touch_checkpoint(checkpoint)

    def lease(self, node: PageNode, checkpoint: Checkpoint | None) -> None:
        node.num_leases += 1
        self.settle(node)
        if checkpoint is not None:
            checkpoint.num_leases += 1
            self.settle_checkpoint(checkpoint)

    def unlease(self, node: PageNode, checkpoint: Checkpoint | None) -> None:
        node.num_leases -= 1
        self.settle(node)
        if checkpoint is not None:
            self.unlease_checkpoint(checkpoint)

    def unlease_checkpoint(self, checkpoint: Checkpoint) -> None:
        checkpoint.num_leases -= 1
        self.settle_checkpoint(checkpoint)

    def touch_checkpoint(self, checkpoint: Checkpoint) -> None:
        checkpoint.last_use = self.checkpoints.use()
        self.settle_checkpoint(checkpoint)

    def supersede(self, checkpoint: Checkpoint) -> None:
        """Makes it the first to be evicted, unless it is held again."""
        checkpoint.is_superseded = True
        self.settle_checkpoint(checkpoint)

    def demote(self, node: PageNode) -> None:
        """Makes the nodes that only this prefix needs the first to be evicted."""
        for above in node.upwards():
            is_needed = above.num_leases or len(above.children) > (above is not node)
            if is_needed or above.parent is None:
                return
            above.last_use = NEVER
            self.settle(above)
            if above.checkpoint is not None:
                above.checkpoint.last_use = NEVER
                self.settle_checkpoint(above.checkpoint)

    def settle(self, node: PageNode) -> None:
        """Call when a node has become a leaf, or when its worth has fallen."""
        if node.is_evictable:
            self.leaves.add(node, node.last_use)
        else:
            self.leaves.discard(node)
            self.node_settled(node)

    def settle_checkpoint(self, checkpoint: Checkpoint) -> None:
        if checkpoint.is_evictable:
            self.checkpoints.add(checkpoint, checkpoint.last_use)
        else:
            self.checkpoints.discard(checkpoint)
            self.checkpoint_settled(checkpoint)
