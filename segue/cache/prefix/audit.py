"""Recounts a prefix cache from scratch and compares. For tests, and for an idle worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from segue.api.types import PageId, SlotId
from segue.cache.prefix.cache import PrefixCache
from segue.cache.prefix.node import Checkpoint, PageNode
from segue.cache.unit_pool import UnitId, UnitPool, UnitState, require_sound


def check_invariants(cache: PrefixCache, pages: UnitPool[PageId], slots: UnitPool[SlotId]) -> None:
    """Raises AccountingError. Time: about a microsecond for each node and each unit."""
    pages.check_invariants()
    slots.check_invariants()
    nodes = list(cache.tree.nodes())
    checkpoints = [node.checkpoint for node in nodes if node.checkpoint]
    for node in nodes:
        _check_links(node, cache.tree.page_tokens)
        _check_twin(node)
    _check_owned(pages, [node.page for node in nodes])
    _check_owned(slots, [checkpoint.slot for checkpoint in checkpoints])
    _check_node_counts(cache, nodes)
    _check_checkpoint_counts(cache, checkpoints)
    _check_queue("leaf", set(cache.pins.leaves), {n for n in nodes if n.is_evictable})
    _check_queue(
        "checkpoint", set(cache.pins.checkpoints), {c for c in checkpoints if c.is_evictable}
    )
    cache.pins.leaves.check_invariants()
    cache.pins.checkpoints.check_invariants()


def _check_links(node: PageNode, page_tokens: int) -> None:
    parent = node.parent
    require_sound(
        parent is not None and parent.children.get(node.key) is node, "a node has lost its parent"
    )
    assert parent is not None
    require_sound(
        node.num_tokens == parent.num_tokens + page_tokens,
        f"a node at {node.num_tokens} tokens is a child of one at {parent.num_tokens}",
    )
    checkpoint = node.checkpoint
    require_sound(checkpoint is None or checkpoint.node is node, "a checkpoint names another node")


def _check_twin(node: PageNode) -> None:
    if not node.has_twin:
        return
    twin, parent = node.twin, node.parent
    assert twin is not None
    assert parent is not None
    require_sound(twin.twin is node, "the other tier's node has another twin")
    require_sound(twin.key == node.key and twin.parent is parent.twin, "a twin has another prefix")


def _check_owned(units: UnitPool[UnitId], owned: Sequence[UnitId]) -> None:
    """Checks that every cached unit has one owner in the tree, and every owned unit is cached."""
    twice = [unit for unit, times in Counter(owned).items() if times > 1]
    require_sound(not twice, f"{units.name}s owned twice: {twice}")
    stray = [unit for unit in owned if units.state_of(unit) is not UnitState.CACHED]
    require_sound(not stray, f"{units.name}s in the tree, but not cached: {stray}")
    cached = units.counts().cached
    require_sound(len(owned) == cached, f"{cached} {units.name}s cached, {len(owned)} in the tree")


def _check_node_counts(cache: PrefixCache, nodes: Sequence[PageNode]) -> None:
    holds = Counter(hold.node for hold in cache.holds)
    leases = Counter(lease.node for lease in cache.leases.all())
    everything = [cache.tree.root, *nodes]
    require_sound(holds.keys() | leases.keys() <= set(everything), "a pinned node left the tree")
    for node in everything:
        held = holds[node] + sum(child.num_holds > 0 for child in node.children.values())
        require_sound(node.num_holds == held, f"{held} holds, {node.num_holds} counted")
        require_sound(node.num_leases == leases[node], f"{leases[node]} leases, {node.num_leases}")
    num_held = sum(node.num_holds > 0 for node in nodes)
    kept = cache.pins.num_held_nodes
    require_sound(num_held == kept, f"{num_held} nodes are held, {kept} counted")


def _check_checkpoint_counts(cache: PrefixCache, checkpoints: Sequence[Checkpoint]) -> None:
    holds = Counter(hold.checkpoint for hold in cache.holds if hold.checkpoint)
    leases = Counter(lease.checkpoint for lease in cache.leases.all() if lease.checkpoint)
    require_sound(
        holds.keys() | leases.keys() <= set(checkpoints), "a pinned checkpoint left the tree"
    )
    for checkpoint in checkpoints:
        counted = checkpoint.num_holds, checkpoint.num_leases
        expected = holds[checkpoint], leases[checkpoint]
        require_sound(counted == expected, f"holds and leases are {expected}, counted {counted}")
        is_safe = checkpoint.is_evictable or not checkpoint.node.is_evictable
        require_sound(is_safe, "a pinned checkpoint is on an evictable node")
    num_held = sum(checkpoint.num_holds > 0 for checkpoint in checkpoints)
    kept = cache.pins.num_held_checkpoints
    require_sound(num_held == kept, f"{num_held} checkpoints are held, {kept} counted")


def _check_queue(
    name: str, queued: set[PageNode] | set[Checkpoint], expected: Iterable[object]
) -> None:
    expected = set(expected)
    require_sound(
        queued == expected, f"{len(queued ^ expected)} {name}s are wrongly in or out of the queue"
    )
