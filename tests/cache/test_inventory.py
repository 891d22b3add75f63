"""Routers' view of a worker's memory equals the memory, whatever happens to it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from segue.api.cluster.kept import KeptChanges, KeptSession
from segue.api.prompt import PageDigests, Prompt
from segue.api.types import SessionId
from segue.cache.inventory import Inventory, InventoryReader
from tests.cache.prefix_world import PAGE_TOKENS, World, prompt

A, B = prompt(1, 40), prompt(2, 40)


@dataclass
class Told:
    """What one router knows, from the changes that it received."""

    reader: InventoryReader
    states: dict[bytes, bool] = field(default_factory=dict)
    sessions: dict[str, KeptSession] = field(default_factory=dict)

    def listen(self) -> list[KeptChanges]:
        pieces = list(self.reader.pieces())
        for piece in pieces:
            self.states.update(dict.fromkeys(piece.with_state, True))
            self.states.update(dict.fromkeys(piece.without_state, False))
            for digest in piece.gone:
                self.states.pop(digest, None)
            self.sessions.update({one.session_id: one for one in piece.sessions})
            for name in piece.ended:
                self.sessions.pop(name, None)
        return pieces

    def of(self, tokens: tuple[int, ...]) -> dict[int, bool]:
        """What is known of one prompt: states by number of tokens."""
        digests = PageDigests(PAGE_TOKENS).up_to_page(Prompt(tokens), len(tokens) // PAGE_TOKENS)
        return {
            PAGE_TOKENS * (index + 1): self.states[digest]
            for index, digest in enumerate(digests)
            if digest in self.states
        }


def told(*worlds: World) -> tuple[Inventory, Told]:
    inventory = Inventory([world.cache for world in worlds])
    return inventory, Told(inventory.read())


def test_a_turn_is_known_by_its_end_and_its_states() -> None:
    world = World()
    _, router = told(world)

    world.keep(A[:22], 8)
    router.listen()

    assert router.of(A) == {8: True, 20: False}


def test_the_next_turn_replaces_the_end_of_the_one_before() -> None:
    world = World()
    _, router = told(world)
    world.keep(A[:20], 20)
    world.keep(A[:12])
    router.listen()

    world.keep(A[:32], 32)
    router.listen()

    assert router.of(A) == {20: True, 32: True}
    assert router.listen() == []


def test_where_prompts_branch_is_known() -> None:
    world = World()
    _, router = told(world)

    world.keep(A[:16])
    world.keep((*A[:8], *B[:8]))
    router.listen()

    assert router.of(A) == {8: False, 16: False}


def test_an_evicted_prefix_is_withdrawn() -> None:
    world = World()
    _, router = told(world)
    world.keep(A[:12], 12)
    router.listen()

    world.free_one_slot()
    world.free_one_page()
    router.listen()
    assert router.of(A) == {8: False}

    world.cache.make_room(world.pages.total, 0)
    router.listen()
    assert router.states == {}


def test_a_prefix_counts_as_long_as_one_tier_has_it() -> None:
    device, host = World(), World()
    _, router = told(device, host)
    device.keep(A[:12], 8)
    host.keep(A[:12], 12)
    router.listen()
    assert router.of(A) == {8: True, 12: True}

    device.cache.make_room(device.pages.total, device.slots.total)
    router.listen()
    assert router.of(A) == {12: True}

    host.cache.make_room(host.pages.total, host.slots.total)
    router.listen()
    assert router.states == {}


def test_a_session_is_known_until_its_lease_ends() -> None:
    world = World()
    _, router = told(world)
    world.lease("s", A[:12], 8, until=10.0)
    world.lease("t", B[:12], until=20.0)
    router.listen()
    assert router.sessions == {
        "s": KeptSession(SessionId("s"), 12, 8),
        "t": KeptSession(SessionId("t"), 12, 0),
    }

    # Nothing else would notice that the lease has expired.
    world.now = 10.0
    router.listen()
    assert router.sessions.keys() == {"t"}
    world.cache.leases.end(SessionId("t"))
    router.listen()
    assert router.sessions == {}


def test_a_router_that_joins_late_learns_the_same() -> None:
    world = World()
    inventory, first = told(world)
    world.lease("s", A[:20], 8)
    world.keep(B[:12], 12)
    first.listen()

    late = Told(inventory.read())
    late.listen()

    assert (late.states, late.sessions) == (first.states, first.sessions)
    late.reader.close()
    world.lease("s", A[:32], 32)
    assert not late.listen()
    assert first.listen()


def test_messages_are_bounded() -> None:
    world = World(num_pages=700)
    inventory = Inventory([world.cache])
    for session in range(1, 626):
        world.keep(prompt(session, 4))

    router = Told(inventory.read())
    sizes = [len(piece.without_state) for piece in router.listen()]

    assert sizes == [250, 250, 125]


def test_beyond_the_limit_the_latest_prefixes_are_known() -> None:
    world = World()
    inventory = Inventory([world.cache], max_prefixes=2)
    router = Told(inventory.read())
    for session in (1, 2, 3):
        world.keep(prompt(session, 4))
        router.listen()

    assert [router.of(prompt(session, 4)) for session in (1, 2, 3)] == [{}, {4: False}, {4: False}]


def change(world: World, chance: random.Random) -> None:
    world.now += chance.random()
    tokens = prompt(chance.randrange(1, 4), 36)[: chance.randrange(4, 36)]
    if chance.random() < 0.3:
        tokens = (*tokens[:8], *prompt(9, 8))
    match chance.randrange(4):
        case 0 | 1:
            end = len(tokens) // PAGE_TOKENS * PAGE_TOKENS
            at = chance.randrange(PAGE_TOKENS, end + 1, PAGE_TOKENS)
            if world.cache.make_room(10, 1):
                world.lease(f"s{tokens[0]}", tokens, at, until=world.now + 5)
        case 2:
            world.cache.make_room(chance.randrange(world.pages.total), 0)
        case 3:
            world.cache.make_room(0, chance.randrange(world.slots.total))


@pytest.mark.parametrize("seed", range(20))
def test_after_any_changes_the_routers_know_what_is_there(seed: int) -> None:
    chance = random.Random(seed)
    worlds = World(), World(num_pages=10, num_slots=3)
    inventory, early = told(*worlds)
    late: Told | None = None
    for step in range(120):
        change(chance.choice(worlds), chance)
        if chance.random() < 0.2:
            early.listen()
        if step == 60:
            late = Told(inventory.read())
    assert late is not None
    early.listen()
    late.listen()

    expected: dict[bytes, bool] = {}
    for world in worlds:
        for node in world.cache.tree.nodes():
            if node.checkpoint or len(node.children) != 1:
                has_state = node.checkpoint is not None or expected.get(node.digest, False)
                expected[node.digest] = has_state
    leases = [world.cache.leases.sessions() for world in worlds]
    assert early.states == late.states == expected
    assert early.sessions.keys() == late.sessions.keys() == set().union(*leases)
