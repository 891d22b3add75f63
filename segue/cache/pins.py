"""Who keeps which nodes and checkpoints, and hence what may be evicted.

A hold is a sequence that reads: what is held cannot go. A lease is a session that will come back:
what is leased goes only when its lease is revoked. Everything else waits in two eviction queues.
"""

from __future__ import annotations

from collections.abc import Callable

from segue.cache.eviction import EvictionQueue
from segue.cache.node import NEVER, Checkpoint, Node
from segue.cache.worth import Worth


class Pins:
    """The only writer of the nodes' and checkpoints' counts and of the two queues."""

    def __init__(self, worth: Worth) -> None:
        self.leaves: EvictionQueue[Node] = EvictionQueue(worth.page)
        """Exactly the nodes whose `may_go` is true."""
        self.checkpoints: EvictionQueue[Checkpoint] = EvictionQueue(
            lambda checkpoint: 0.0 if checkpoint.is_superseded else worth.checkpoint(checkpoint)
        )
        """Exactly the checkpoints whose `may_go` is true."""
        self.num_held_nodes = 0
        """Nodes that end a hold, or have one below. Without the root."""
        self.num_held_checkpoints = 0
        self.node_settled: Callable[[Node], None] = _nothing
        self.checkpoint_settled: Callable[[Checkpoint], None] = _nothing
        """For `Leases`: whoever could not give up the node, or the checkpoint, may look again."""

    def hold(self, node: Node) -> None:
        """Cost: the nodes on the way up that were not held yet."""
        held: Node | None = node
        while held is not None:
            held.num_holds += 1
            if held.num_holds > 1 or held.parent is None:
                return
            self.num_held_nodes += 1
            self.leaves.discard(held)
            held = held.parent

    def unhold(self, node: Node) -> None:
        """The end of a hold is a use: until then the node is not up for eviction."""
        node.last_use = self.leaves.use()
        held: Node | None = node
        while held is not None:
            held.num_holds -= 1
            if held.num_holds or held.parent is None:
                return
            self.num_held_nodes -= 1
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

    def lease(self, node: Node, checkpoint: Checkpoint | None) -> None:
        node.num_leases += 1
        self.settle(node)
        if checkpoint is not None:
            checkpoint.num_leases += 1
            self.settle_checkpoint(checkpoint)

    def unlease(self, node: Node, checkpoint: Checkpoint | None) -> None:
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
        """It goes before all else, unless somebody holds it after this."""
        checkpoint.is_superseded = True
        self.settle_checkpoint(checkpoint)

    def demote(self, node: Node) -> None:
        """What nobody but this prefix needs of it goes before all else."""
        for above in node.upwards():
            is_needed = above.num_leases or len(above.children) > (above is not node)
            if is_needed or above.parent is None:
                return
            above.last_use = NEVER
            self.settle(above)
            if above.checkpoint is not None:
                above.checkpoint.last_use = NEVER
                self.settle_checkpoint(above.checkpoint)

    def settle(self, node: Node) -> None:
        """Call when a node became a leaf, or when its worth fell."""
        if node.may_go:
            self.leaves.add(node, node.last_use)
        else:
            self.leaves.discard(node)
            self.node_settled(node)

    def settle_checkpoint(self, checkpoint: Checkpoint) -> None:
        if checkpoint.may_go:
            self.checkpoints.add(checkpoint, checkpoint.last_use)
        else:
            self.checkpoints.discard(checkpoint)
            self.checkpoint_settled(checkpoint)


def _nothing(_: object) -> None:
    pass
