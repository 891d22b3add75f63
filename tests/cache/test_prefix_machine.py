"""Random sequences against the naive cache. The contents of units are simulated token by token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from segue.api.prompt import Prompt
from segue.api.types import PageId, SessionId, SlotId
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.cache.prefix.audit import check_invariants
from segue.cache.prefix.cache import Hold, PrefixCache
from segue.cache.prefix.eviction_cost import cost_to_decode, cost_to_prefill
from segue.cache.unit_pool import UnitState, page_pool, slot_pool
from tests.cache.naive_cache import NaiveCache, Tokens

PAGE_TOKENS = 2
NUM_PAGES = 14
NUM_SLOTS = 7

# Two symbols and short prompts, so that most prompts share a prefix.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=11).map(tuple)
sessions = st.sampled_from([SessionId(name) for name in "abc"])
LAYOUT = CacheLayout(
    model_id="tiny",
    page_tokens=PAGE_TOKENS,
    fields=(
        CacheField(group="kv", layer=0, unit=Unit.PAGE, dtype="float32", shape=(8,)),
        CacheField(group="recurrent", layer=1, unit=Unit.SLOT, dtype="float32", shape=(64,)),
    ),
)
WORTHS = {
    "prefill": cost_to_prefill(LAYOUT, float),
    "decode": cost_to_decode(LAYOUT, float, link_bytes_per_s=1e9),
}


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt that is written into private pages, with states at some page ends."""

    tokens: Tokens
    hold: Hold
    pages: tuple[PageId, ...]
    checkpoints: dict[int, SlotId]


class PrefixCacheMachine(RuleBasedStateMachine):
    kind = "prefill"

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pages = page_pool(NUM_PAGES)
        self.slots = slot_pool(NUM_SLOTS)
        self.cache = PrefixCache(
            self.pages,
            self.slots,
            page_tokens=PAGE_TOKENS,
            worth=WORTHS[self.kind],
            clock=lambda: self.now,
        )
        self.naive = NaiveCache(PAGE_TOKENS)
        self.leases: dict[SessionId, tuple[Tokens, float]] = {}
        self.sequences: list[Sequence] = []
        self.in_pages: dict[PageId, Tokens] = {}
        """All tokens up to the page's last: the inputs of its K and V."""
        self.in_slots: dict[SlotId, Tokens] = {}

    @rule(tokens=prompts, data=st.data())
    def start_at_a_checkpoint(self, tokens: Tokens, data: st.DataObject) -> None:
        match = self.cache.match(Prompt(tokens))
        hold = self.cache.hold_checkpoint(match)
        if hold.checkpoint is not None:
            assert self.in_slots[hold.checkpoint.slot] == tokens[: hold.checkpoint.num_tokens]
            assert hold.num_tokens == hold.checkpoint.num_tokens
        self.start(tokens, hold, data)

    @rule(tokens=prompts, data=st.data())
    def start_after_resident_pages(self, tokens: Tokens, data: st.DataObject) -> None:
        match = self.cache.match(Prompt(tokens))
        hold = self.cache.hold_pages(match)
        assert hold.num_tokens == match.num_tokens
        self.start(tokens, hold, data)

    def start(self, tokens: Tokens, hold: Hold, data: st.DataObject) -> None:
        assert hold.num_tokens < len(tokens)
        num_pages = LAYOUT.num_pages_for(len(tokens)) - len(hold.pages)
        ends = range(hold.num_tokens + PAGE_TOKENS, len(tokens) + 1, PAGE_TOKENS)
        saved = data.draw(st.sets(st.sampled_from(ends), max_size=2)) if ends else set()
        sequence = Sequence(tokens, hold, (), {})
        self.sequences.append(sequence)
        if not self.make_room(num_pages, len(saved)):
            self.sequences.remove(sequence)
            self.cache.release(hold)
            return
        pages = self.pages.take(num_pages, UnitState.WORKING)
        slots = self.slots.take(len(saved), UnitState.WORKING)
        for i, page in enumerate(pages):
            self.write(page, tokens[: hold.num_tokens + (i + 1) * PAGE_TOKENS])
        sequence.pages = pages
        sequence.checkpoints = dict(zip(sorted(saved), slots, strict=True))
        for end, slot in sequence.checkpoints.items():
            self.write_state(slot, tokens[:end])

    def write(self, page: PageId, tokens: Tokens) -> None:
        assert self.pages.state_of(page) is UnitState.WORKING
        self.in_pages[page] = tokens

    def write_state(self, slot: SlotId, tokens: Tokens) -> None:
        assert self.slots.state_of(slot) is UnitState.WORKING
        self.in_slots[slot] = tokens

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), session=sessions, lifetime_s=st.none() | st.integers(1, 5))
    def finish(self, data: st.DataObject, session: SessionId, lifetime_s: int | None) -> None:
        self.finish_sequence(self.take_sequence(data), session, lifetime_s)

    def finish_sequence(
        self, sequence: Sequence, session: SessionId, lifetime_s: int | None
    ) -> None:
        hold = sequence.hold
        kept = self.cache.insert(
            Prompt(sequence.tokens), sequence.pages, hold=hold, checkpoints=sequence.checkpoints
        )
        self.naive.insert(sequence.tokens, sequence.checkpoints)
        num_full = len(sequence.tokens) // PAGE_TOKENS
        assert len(hold.pages) == num_full
        assert kept == sequence.pages[len(sequence.pages) - (len(sequence.tokens) % PAGE_TOKENS) :]
        self.pages.give_back(kept, UnitState.WORKING)
        if lifetime_s is not None:
            self.cache.leases.grant(session, hold.node, self.now + lifetime_s)
            self.leases[session] = sequence.tokens[: hold.num_tokens], self.now + lifetime_s
        self.cache.release(hold)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        sequence = self.take_sequence(data)
        self.pages.give_back(sequence.pages, UnitState.WORKING)
        self.slots.give_back(list(sequence.checkpoints.values()), UnitState.WORKING)
        self.cache.release(sequence.hold)

    def take_sequence(self, data: st.DataObject) -> Sequence:
        return self.sequences.pop(data.draw(st.integers(0, len(self.sequences) - 1)))

    @rule(parent=sessions, child=sessions)
    def fork(self, parent: SessionId, child: SessionId) -> None:
        if parent in self.leases:
            self.cache.leases.fork(parent, child)
            self.leases[child] = self.leases[parent]

    @rule(session=sessions, lifetime_s=st.integers(1, 5))
    def renew(self, session: SessionId, lifetime_s: int) -> None:
        if session in self.leases:
            self.cache.leases.renew(session, self.now + lifetime_s)
            self.leases[session] = self.leases[session][0], self.now + lifetime_s

    @rule(session=sessions)
    def end_lease(self, session: SessionId) -> None:
        was_there = self.leases.pop(session, None) is not None
        assert self.cache.leases.end(session) == was_there

    @rule(seconds=st.integers(1, 4))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.leases = {s: lease for s, lease in self.leases.items() if lease[1] > self.now}

    @rule(num_pages=st.integers(0, NUM_PAGES), num_slots=st.integers(0, NUM_SLOTS))
    def be_short_of_memory(self, num_pages: int, num_slots: int) -> None:
        self.make_room(num_pages, num_slots)

    def make_room(self, num_pages: int, num_slots: int) -> bool:
        held, held_checkpoints = self.held()
        could = num_pages <= self.pages.counts().free + len(
            self.naive.prefixes - held
        ) and num_slots <= self.slots.counts().free + len(self.naive.checkpoints - held_checkpoints)

        has_room = self.cache.make_room(num_pages, num_slots)

        assert has_room == could
        if has_room:
            assert self.pages.fits(num_pages)
            assert self.slots.fits(num_slots)
        else:
            assert self.in_tree() == (self.naive.prefixes, self.naive.checkpoints)
        self.learn_of_evictions()
        return has_room

    @rule(num_pages=st.integers(0, NUM_PAGES), num_slots=st.integers(0, NUM_SLOTS))
    def have_something_to_spare(self, num_pages: int, num_slots: int) -> None:
        has_room = self.cache.make_spare_room(num_pages, num_slots)

        assert has_room == (self.pages.fits(num_pages) and self.slots.fits(num_slots))
        self.learn_of_evictions()
        leased = prefixes_of(tokens for tokens, _ in self.leases.values())
        if not self.pages.fits(num_pages):
            assert self.naive.prefixes <= leased | self.held()[0]

    def learn_of_evictions(self) -> None:
        held, held_checkpoints = self.held()
        prefixes, checkpoints = self.in_tree()
        assert held <= prefixes <= self.naive.prefixes
        assert held_checkpoints <= checkpoints <= self.naive.checkpoints
        self.naive.prefixes, self.naive.checkpoints = prefixes, checkpoints
        self.learn_of_revoked_leases()

    def learn_of_revoked_leases(self) -> None:
        """Revoking a lease means that nothing ordinary was left; until then leased paths are
        whole.
        """
        left = {lease.session_id for lease in self.cache.leases.all()}
        revoked = [tokens for s, (tokens, _) in self.leases.items() if s not in left]
        self.leases = {s: lease for s, lease in self.leases.items() if s in left}
        leased = prefixes_of(tokens for tokens, _ in self.leases.values())
        assert leased <= self.naive.prefixes
        if revoked:
            ordinary = self.naive.prefixes - leased - self.held()[0]
            assert ordinary <= prefixes_of(revoked)

    def held(self) -> tuple[set[Tokens], set[Tokens]]:
        ends = [sequence.tokens[: sequence.hold.num_tokens] for sequence in self.sequences]
        states = {
            sequence.tokens[: sequence.hold.checkpoint.num_tokens]
            for sequence in self.sequences
            if sequence.hold.checkpoint
        }
        return prefixes_of(ends), states

    def in_tree(self) -> tuple[set[Tokens], set[Tokens]]:
        nodes = list(self.cache.tree.nodes())
        prefixes = {self.in_pages[node.page] for node in nodes}
        states = {self.in_slots[node.checkpoint.slot] for node in nodes if node.checkpoint}
        return prefixes, states

    @rule(tokens=prompts)
    def match_is_what_the_naive_cache_finds(self, tokens: Tokens) -> None:
        match = self.cache.match(Prompt(tokens))

        resume_at = match.checkpoint.num_tokens if match.checkpoint else None
        assert (match.num_tokens, resume_at) == self.naive.match(tokens)
        self.check_content(tokens, match.pages)

    @invariant()
    def the_books_are_right(self) -> None:
        check_invariants(self.cache, self.pages, self.slots)
        assert self.in_tree() == (self.naive.prefixes, self.naive.checkpoints)
        for sequence in self.sequences:
            self.check_content(sequence.tokens, sequence.hold.pages)
            self.check_content(sequence.tokens, sequence.hold.pages + sequence.pages)
        assert self.pages.counts().working == self.num_working()
        assert {lease.session_id for lease in self.cache.leases.all()} == set(self.leases)

    def num_working(self) -> int:
        return sum(len(sequence.pages) for sequence in self.sequences)

    def check_content(self, tokens: Tokens, pages: tuple[PageId, ...]) -> None:
        for i, page in enumerate(pages):
            assert self.in_pages[page] == tokens[: (i + 1) * PAGE_TOKENS]


def prefixes_of(paths: Iterable[Tokens]) -> set[Tokens]:
    return {path[:end] for path in paths for end in range(PAGE_TOKENS, len(path) + 1, PAGE_TOKENS)}


class DecodeCacheMachine(PrefixCacheMachine):
    kind = "decode"


TestPrefillCache = PrefixCacheMachine.TestCase
TestDecodeCache = DecodeCacheMachine.TestCase
TestPrefillCache.settings = TestDecodeCache.settings = settings(
    max_examples=35, stateful_step_count=30
)
