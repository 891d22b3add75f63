"""Two tiers with real tensors, and a naive cache for each.

A unit contains a number computed from all tokens up to its end. Free units are poisoned. Every unit
of a hold or a tree must contain its number.
"""

from __future__ import annotations

from hypothesis.stateful import invariant

from segue.api.types import PageId, SlotId
from segue.cache.host.copying import Copying
from segue.cache.layout import Unit
from segue.cache.memory import Memory
from segue.cache.prefix.audit import check_invariants
from segue.cache.prefix.cache import PrefixCache
from segue.cache.prefix.node import PageNode
from segue.cache.tensors import CacheTensors
from segue.cache.unit_pool import UnitPool, UnitState, page_pool, slot_pool
from tests.cache.naive_cache import NaiveCache, Tokens
from tests.cache.test_prefix_machine import (
    LAYOUT,
    NUM_PAGES,
    NUM_SLOTS,
    PAGE_TOKENS,
    WORTHS,
    PrefixCacheMachine,
    prefixes_of,
)

POISON = -1.0
NUM_HOST_PAGES = 10
NUM_HOST_SLOTS = 3


def number_of(tokens: Tokens) -> float:
    """Never equal to another prefix's number, nor to the poison."""
    return float(sum((token + 1) * 3**i for i, token in enumerate(tokens)))


def tokens_of(tree, node: PageNode) -> Tokens:  # type: ignore[no-untyped-def]
    return tuple(tree.prompt(node))


class TieredBooks(PrefixCacheMachine):
    """Both tiers, their naive caches, and the invariants after every step."""

    kind = "decode"

    def __init__(self) -> None:
        super().__init__()
        self.host_pages = page_pool(NUM_HOST_PAGES)
        self.host_slots = slot_pool(NUM_HOST_SLOTS)
        self.device = Memory(pages=self.pages, slots=self.slots, cache=self.cache)
        self.host = Memory(
            pages=self.host_pages,
            slots=self.host_slots,
            cache=PrefixCache(
                self.host_pages,
                self.host_slots,
                page_tokens=PAGE_TOKENS,
                worth=WORTHS[self.kind],
                clock=lambda: self.now,
            ),
        )
        self.on_host = NaiveCache(PAGE_TOKENS)
        self.tensors = {
            id(self.device): CacheTensors.allocate(
                LAYOUT, num_pages=NUM_PAGES, num_slots=NUM_SLOTS, device="cpu"
            ),
            id(self.host): CacheTensors.allocate(
                LAYOUT, num_pages=NUM_HOST_PAGES, num_slots=NUM_HOST_SLOTS, device="cpu"
            ),
        }
        self.copyings: list[Copying] = []
        self.copied: set[Copying] = set()

    def write(self, page: PageId, tokens: Tokens) -> None:
        super().write(page, tokens)
        self.unit(self.device, Unit.PAGE, page).fill_(number_of(tokens))

    def write_state(self, slot: SlotId, tokens: Tokens) -> None:
        super().write_state(slot, tokens)
        self.unit(self.device, Unit.SLOT, slot).fill_(number_of(tokens))

    def unit(self, memory: Memory, unit: Unit, index: int):  # type: ignore[no-untyped-def]
        (field,) = LAYOUT.of_unit(unit)
        return self.tensors[id(memory)].of(field.group, field.layer)[index]

    def held(self) -> tuple[set[Tokens], set[Tokens]]:
        prefixes, states = super().held()
        more, more_states = self.held_for_copies(self.device)
        return prefixes | more, states | more_states

    def held_for_copies(self, memory: Memory) -> tuple[set[Tokens], set[Tokens]]:
        holds = [h for c in self.copyings if c.source is memory for h in c.source_holds]
        holds += [c.target_hold for c in self.copyings if c.target is memory]
        tree = memory.cache.tree
        states = {tokens_of(tree, h.checkpoint.node) for h in holds if h.checkpoint}
        return prefixes_of(tokens_of(tree, h.node) for h in holds), states

    def learn_of_evictions(self) -> None:
        super().learn_of_evictions()
        held, held_states = self.held_for_copies(self.host)
        prefixes, states = self.in_host_tree()
        assert held <= prefixes <= self.on_host.prefixes
        assert held_states <= states <= self.on_host.checkpoints
        self.on_host.prefixes, self.on_host.checkpoints = prefixes, states

    def in_host_tree(self) -> tuple[set[Tokens], set[Tokens]]:
        tree = self.host.cache.tree
        nodes = list(tree.nodes())
        states = {tokens_of(tree, node) for node in nodes if node.checkpoint}
        return {tokens_of(tree, node) for node in nodes}, states

    def num_working(self) -> int:
        loading = (len(c.to_pages) for c in self.copyings if c.target is self.device)
        return super().num_working() + sum(loading)

    @invariant()
    def the_hosts_books_are_right(self) -> None:
        check_invariants(self.host.cache, self.host_pages, self.host_slots)
        assert self.in_host_tree() == (self.on_host.prefixes, self.on_host.checkpoints)
        arriving = [copying for copying in self.copyings if copying.target is self.host]
        assert self.host_pages.counts().working == sum(len(c.to_pages) for c in arriving)
        assert self.host_slots.counts().working == sum(len(c.to_slots) for c in arriving)

    @invariant()
    def twins_are_where_both_tiers_have_a_prefix(self) -> None:
        for node in self.cache.tree.nodes():
            if node.has_twin:
                assert tokens_of(self.cache.tree, node) in self.on_host.prefixes

    @invariant()
    def whatever_is_kept_holds_what_was_written(self) -> None:
        for memory in (self.device, self.host):
            tree = memory.cache.tree
            for node in tree.nodes():
                number = number_of(tokens_of(tree, node))
                assert (self.unit(memory, Unit.PAGE, node.page) == number).all()
                if node.checkpoint:
                    assert (self.unit(memory, Unit.SLOT, node.checkpoint.slot) == number).all()

    @invariant()
    def what_is_free_is_poisoned(self) -> None:
        for memory in (self.device, self.host):
            self.poison(memory, Unit.PAGE, memory.pages)
            self.poison(memory, Unit.SLOT, memory.slots)

    def poison(
        self, memory: Memory, unit: Unit, units: UnitPool[PageId] | UnitPool[SlotId]
    ) -> None:
        for index in range(units.total):
            if units.state_of(index) is UnitState.FREE:  # type: ignore[arg-type]  # either kind
                self.unit(memory, unit, index).fill_(POISON)
