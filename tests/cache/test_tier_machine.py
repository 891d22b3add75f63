"""Two tiers under random copies, evictions and sequences, against a naive cache for each."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from segue.api.prompt import Prompt
from segue.api.types import SessionId
from segue.cache.host.copying import (
    Copying,
    abandon,
    all_pages,
    finish,
    start,
    up_to_a_state,
    what_is_new,
)
from segue.cache.layout import Unit
from segue.cache.memory import Memory
from segue.cache.prefix.cache import PrefixCache
from segue.cache.tensors import copy_units
from segue.cache.unit_pool import UnitState
from tests.cache.naive_cache import Tokens
from tests.cache.test_prefix_machine import PAGE_TOKENS, prompts
from tests.cache.tiered_books import NUM_HOST_PAGES, NUM_HOST_SLOTS, TieredBooks

long_prompts = st.lists(st.integers(0, 1), min_size=4, max_size=13).map(tuple)


class TieredCacheMachine(TieredBooks):
    @initialize(kept=st.lists(long_prompts, min_size=2, max_size=4), data=st.data())
    def keep_some(self, kept: list[Tokens], data: st.DataObject) -> None:
        for tokens in kept:
            self.keep_at_once(tokens, data)
            self.offload(data, is_at_once=True)

    @rule(tokens=long_prompts, data=st.data())
    def keep_at_once(self, tokens: Tokens, data: st.DataObject) -> None:
        num_before = len(self.sequences)
        self.start_after_resident_pages(tokens, data)
        if len(self.sequences) > num_before:
            self.finish_sequence(self.sequences.pop(), SessionId("a"), None)

    @precondition(lambda self: self.naive.prefixes)
    @rule(data=st.data())
    def start_offload(self, data: st.DataObject) -> None:
        self.offload(data, is_at_once=False)

    @precondition(lambda self: self.naive.prefixes)
    @rule(data=st.data())
    def offload_at_once(self, data: st.DataObject) -> None:
        self.offload(data, is_at_once=True)

    def offload(self, data: st.DataObject, *, is_at_once: bool) -> None:
        if not self.naive.prefixes:
            return
        tokens = data.draw(st.sampled_from(sorted(self.naive.prefixes)))
        self.start_copy(self.device, self.host, (*tokens, 0), data, is_at_once)

    @precondition(lambda self: self.on_host.prefixes)
    @rule(data=st.data())
    def start_load(self, data: st.DataObject) -> None:
        self.load(data, is_at_once=False)

    @precondition(lambda self: self.on_host.prefixes)
    @rule(data=st.data())
    def load_at_once(self, data: st.DataObject) -> None:
        self.load(data, is_at_once=True)

    def load(self, data: st.DataObject, *, is_at_once: bool) -> None:
        tokens = data.draw(st.sampled_from(sorted(self.on_host.prefixes)))
        self.start_copy(self.host, self.device, (*tokens, 0), data, is_at_once)

    def start_copy(
        self,
        source: Memory,
        target: Memory,
        tokens: Tokens,
        data: st.DataObject,
        is_at_once: bool,
    ) -> None:
        choose = data.draw(st.sampled_from([all_pages, up_to_a_state, what_is_new]))
        make_room = data.draw(st.sampled_from([PrefixCache.make_room, PrefixCache.make_spare_room]))
        there, here = source.cache.find(Prompt(tokens)), target.cache.find(Prompt(tokens))
        has_slot = target.cache.num_obtainable_slots > 0
        copying = start(source, target, Prompt(tokens), choose=choose, make_room=make_room)
        self.copyings.append(copying)
        self.learn_of_evictions()
        if choose is up_to_a_state and copying.to_pages:
            assert copying.to_slots
        if make_room is PrefixCache.make_room and choose is not up_to_a_state:
            is_all = len(copying.tokens) >= there.num_tokens
            assert is_all or target.cache.num_obtainable_pages == 0
            deepest = there.checkpoint.num_tokens if there.checkpoint else 0
            is_deeper = deepest > (here.checkpoint.num_tokens if here.checkpoint else 0)
            if is_all and has_slot:
                assert (deepest in copying.positions) == is_deeper
        if is_at_once:
            for memory in (source, target):
                self.evict_all_that_is_evictable(memory)
            self.copy_now(copying)
            self.finish_now(copying)

    def evict_all_that_is_evictable(self, memory: Memory) -> None:
        cache = memory.cache
        assert cache.make_room(cache.num_obtainable_pages, cache.num_obtainable_slots)
        self.learn_of_evictions()
        self.what_is_free_is_poisoned()

    def some_copying(self, data: st.DataObject) -> Copying:
        return data.draw(st.sampled_from(self.copyings))

    @precondition(lambda self: self.copyings)
    @rule(data=st.data())
    def copy(self, data: st.DataObject) -> None:
        self.copy_now(self.some_copying(data))

    def copy_now(self, copying: Copying) -> None:
        source, target = (self.tensors[id(m)] for m in (copying.source, copying.target))
        copy_units(source, target, Unit.PAGE, copying.from_pages, copying.to_pages)
        copy_units(source, target, Unit.SLOT, copying.from_slots, copying.to_slots)
        self.copied.add(copying)

    @precondition(lambda self: self.copied)
    @rule(data=st.data())
    def finish_to_copy(self, data: st.DataObject) -> None:
        copied = [copying for copying in self.copyings if copying in self.copied]
        self.finish_now(data.draw(st.sampled_from(copied)))

    def finish_now(self, copying: Copying) -> None:
        tokens = tuple(copying.tokens)
        last = finish(copying)
        self.forget(copying)
        assert tuple(copying.target.cache.tree.prompt(last)) == tokens
        naive = self.on_host if copying.target is self.host else self.naive
        naive.insert(tokens, copying.positions)
        if copying.target is self.device:
            first = len(tokens) // PAGE_TOKENS - len(copying.to_pages)
            for i, page in enumerate(copying.to_pages):
                if self.pages.state_of(page) is UnitState.CACHED:
                    self.in_pages[page] = tokens[: (first + i + 1) * PAGE_TOKENS]
            for end, slot in zip(copying.positions, copying.to_slots, strict=True):
                if self.slots.state_of(slot) is UnitState.CACHED:
                    self.in_slots[slot] = tokens[:end]

    @precondition(lambda self: self.copyings)
    @rule(data=st.data())
    def abandon_a_copy(self, data: st.DataObject) -> None:
        copying = self.some_copying(data)
        abandon(copying)
        self.forget(copying)

    def forget(self, copying: Copying) -> None:
        self.copyings.remove(copying)
        self.copied.discard(copying)

    @rule(num_pages=st.integers(0, NUM_HOST_PAGES), num_slots=st.integers(0, NUM_HOST_SLOTS))
    def be_short_of_host_memory(self, num_pages: int, num_slots: int) -> None:
        could = (
            num_pages <= self.host.cache.num_obtainable_pages
            and num_slots <= self.host.cache.num_obtainable_slots
        )
        assert self.host.cache.make_room(num_pages, num_slots) == could
        self.learn_of_evictions()

    @rule(tokens=prompts)
    def the_host_matches_what_its_naive_cache_finds(self, tokens: Tokens) -> None:
        match = self.host.cache.match(Prompt(tokens))
        resume_at = match.checkpoint.num_tokens if match.checkpoint else None
        assert (match.num_tokens, resume_at) == self.on_host.match(tokens)


class TieredPrefillCacheMachine(TieredCacheMachine):
    kind = "prefill"


TestTieredDecodeCache = TieredCacheMachine.TestCase
TestTieredPrefillCache = TieredPrefillCacheMachine.TestCase
TestTieredDecodeCache.settings = TestTieredPrefillCache.settings = settings(
    max_examples=60, stateful_step_count=30
)
