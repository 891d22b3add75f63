"""A small cache with its unit pools, and sequences in one line each."""

from __future__ import annotations

from segue.api.prompt import Prompt
from segue.api.types import PageId, SessionId, SlotId
from segue.cache.layout import CacheField, CacheLayout, Unit
from segue.cache.prefix.audit import check_invariants
from segue.cache.prefix.cache import Hold, PrefixCache
from segue.cache.prefix.eviction_cost import EvictionCost, cost_to_decode, cost_to_prefill
from segue.cache.unit_pool import UnitState, page_pool, slot_pool
from tests.cache.naive_cache import Tokens

PAGE_TOKENS = 4

LAYOUT = CacheLayout(
    model_id="tiny",
    page_tokens=PAGE_TOKENS,
    fields=(
        CacheField(group="kv", layer=0, unit=Unit.PAGE, dtype="float32", shape=(16,)),
        CacheField(group="recurrent", layer=1, unit=Unit.SLOT, dtype="float32", shape=(64,)),
    ),
)
TO_PREFILL = cost_to_prefill(LAYOUT, float)
TO_DECODE = cost_to_decode(LAYOUT, float, link_bytes_per_s=1e9)


class World:
    def __init__(self, *, num_pages: int = 16, num_slots: int = 8, worth: EvictionCost = TO_DECODE):
        self.now = 0.0
        self.pages = page_pool(num_pages)
        self.slots = slot_pool(num_slots)
        self.cache = PrefixCache(
            self.pages,
            self.slots,
            page_tokens=PAGE_TOKENS,
            worth=worth,
            clock=lambda: self.now,
        )

    def run(self, tokens: Tokens, *checkpoints: int) -> Hold:
        """Runs a sequence from its match to its insert; it still holds the inserted prefix."""
        hold = self.cache.hold_pages(self.cache.match(Prompt(tokens)))
        self.insert(hold, tokens, *checkpoints)
        return hold

    def keep(self, tokens: Tokens, *checkpoints: int) -> None:
        """Runs a sequence from its match to its end."""
        self.cache.release(self.run(tokens, *checkpoints))

    def insert(self, hold: Hold, tokens: Tokens, *checkpoints: int) -> tuple[PageId, ...]:
        """Inserts with pages and slots of its own; the rest is given back."""
        num_pages = LAYOUT.num_pages_for(len(tokens)) - len(hold.pages)
        pages = self.pages.take(num_pages, UnitState.WORKING)
        left = self.cache.insert(
            Prompt(tokens),
            pages,
            hold=hold,
            checkpoints=dict(zip(checkpoints, self.take_slots(len(checkpoints)), strict=True)),
        )
        self.pages.give_back(left, UnitState.WORKING)
        return pages

    def take_slots(self, num_slots: int) -> tuple[SlotId, ...]:
        return self.slots.take(num_slots, UnitState.WORKING)

    def lease(self, session: str, tokens: Tokens, *checkpoints: int, until: float = 10.0) -> None:
        """A turn that ends with a lease."""
        hold = self.run(tokens, *checkpoints)
        self.cache.leases.grant(SessionId(session), hold.node, until)
        self.cache.release(hold)

    def free_one_page(self) -> None:
        assert self.cache.make_room(self.pages.counts().free + 1, 0)

    def free_one_slot(self) -> None:
        assert self.cache.make_room(0, self.slots.counts().free + 1)

    def resident(self, tokens: Tokens) -> int:
        """How many of `tokens` are cached, for a prompt with one more token."""
        return self.cache.find(Prompt(tokens)).num_tokens

    def resume_at(self, tokens: Tokens) -> int | None:
        checkpoint = self.cache.find(Prompt(tokens)).checkpoint
        return checkpoint.num_tokens if checkpoint else None

    def leased(self) -> list[str]:
        return [lease.session_id for lease in self.cache.leases.all()]

    def check(self) -> None:
        check_invariants(self.cache, self.pages, self.slots)


def prompt(session: int, num_tokens: int) -> Tokens:
    """Prompts of different sessions share nothing; those of one session share all that they can."""
    return tuple(1000 * session + i for i in range(1, num_tokens + 1))
