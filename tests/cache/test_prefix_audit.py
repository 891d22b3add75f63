from __future__ import annotations

from collections.abc import Callable

import pytest

from segue.api.prompt import Prompt
from segue.api.types import PageId, SlotId
from segue.cache.prefix.node import PageNode
from segue.cache.unit_pool import AccountingError, UnitState
from tests.cache.prefix_world import World, prompt

A = prompt(1, 16)


def last(world: World) -> PageNode:
    return world.cache.find(Prompt(A)).node


def free_a_cached_page(world: World) -> None:
    world.pages.give_back([PageId(0)], UnitState.CACHED)


def cache_a_page_without_a_node(world: World) -> None:
    world.pages.take(1, UnitState.CACHED)


def cache_a_slot_without_a_checkpoint(world: World) -> None:
    world.slots.take(1, UnitState.CACHED)


def free_a_cached_slot(world: World) -> None:
    world.slots.give_back([SlotId(0)], UnitState.CACHED)


def own_a_page_twice(world: World) -> None:
    last(world).page = PageId(0)


def lose_a_parent(world: World) -> None:
    last(world).parent = world.cache.tree.root


def miscount_tokens(world: World) -> None:
    last(world).num_tokens += 1


def hold_without_a_hold(world: World) -> None:
    world.cache.pins.hold(last(world))


def lease_without_a_lease(world: World) -> None:
    world.cache.pins.lease(last(world), None)


def hold_a_checkpoint_without_a_hold(world: World) -> None:
    checkpoint = last(world).checkpoint
    assert checkpoint is not None
    world.cache.pins.hold_checkpoint(checkpoint)


def miscount_held_nodes(world: World) -> None:
    world.cache.pins.num_held_nodes += 1


def miscount_held_checkpoints(world: World) -> None:
    world.cache.pins.num_held_checkpoints += 1


def take_a_leaf_out_of_the_queue(world: World) -> None:
    world.cache.pins.leaves.pop()


def queue_what_is_no_leaf(world: World) -> None:
    parent = last(world).parent
    assert parent is not None
    world.cache.pins.leaves.add(parent, parent.last_use)


def take_a_checkpoint_out_of_the_queue(world: World) -> None:
    world.cache.pins.checkpoints.pop()


@pytest.mark.parametrize(
    "damage",
    [
        free_a_cached_page,
        free_a_cached_slot,
        cache_a_page_without_a_node,
        cache_a_slot_without_a_checkpoint,
        own_a_page_twice,
        lose_a_parent,
        miscount_tokens,
        hold_without_a_hold,
        lease_without_a_lease,
        hold_a_checkpoint_without_a_hold,
        miscount_held_nodes,
        miscount_held_checkpoints,
        take_a_leaf_out_of_the_queue,
        queue_what_is_no_leaf,
        take_a_checkpoint_out_of_the_queue,
    ],
)
def test_damage_is_found(damage: Callable[[World], None]) -> None:
    world = World()
    world.keep(A, 16)
    world.check()

    damage(world)

    with pytest.raises(AccountingError):
        world.check()
