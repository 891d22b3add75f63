"""The hybrid prefix cache of one worker: pages and checkpoints that outlive their sequences.

    match ─▶ hold_pages / hold_checkpoint ─▶ (the sequence reads) ─▶ insert ─▶ release
                                                                        └─▶ leases.grant

Units in the tree are CACHED in the unit pools, are never written, and are evicted only by
`make_room` and `make_spare_room`. Units that a sequence writes are WORKING, and its own until
`insert`. One thread owns all of this, and a match is valid only until that thread does something
else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from segue.api.prompt import Prompt
from segue.api.types import PageId, SlotId
from segue.cache.prefix.eviction_cost import EvictionCost
from segue.cache.prefix.leases import Leases
from segue.cache.prefix.node import Checkpoint, PageNode
from segue.cache.prefix.pins import Pins
from segue.cache.prefix.tree import PrefixTree
from segue.cache.unit_pool import UnitPool, UnitState


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Match:
    """The cached part of a prompt. A `match` never includes the page of the prompt's last token.

    That token must be computed for its logits. Computing it writes its page, so the page cannot be
    one that others read.
    """

    node: PageNode
    """The last matched node; the root when nothing matched."""
    pages: tuple[PageId, ...]
    checkpoint: Checkpoint | None
    """The deepest one on the path: its `slot` has the state after its `num_tokens`."""

    @property
    def num_tokens(self) -> int:
        return self.node.num_tokens


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Hold:
    """A prefix that a sequence reads. It is not evicted until `release`. Only the cache changes a
    hold."""

    node: PageNode
    pages: tuple[PageId, ...]
    checkpoint: Checkpoint | None

    @property
    def num_tokens(self) -> int:
        return self.node.num_tokens


class PrefixCache:
    """Shares both unit pools with the code that takes working and reserved units."""

    def __init__(
        self,
        pages: UnitPool[PageId],
        slots: UnitPool[SlotId],
        *,
        page_tokens: int,
        worth: EvictionCost,
        clock: Callable[[], float],
    ) -> None:
        self.tree = PrefixTree(page_tokens)
        self.pins = Pins(worth)
        self.leases = Leases(self.pins, worth.prefix, clock)
        self.num_evicted_pages = 0
        self.num_evicted_slots = 0
        self.num_moved_pages = 0
        """Evicted pages that are still in the other tier."""
        self.num_moved_slots = 0
        self._pages = pages
        self._slots = slots
        self._holds: set[Hold] = set()

    @property
    def holds(self) -> frozenset[Hold]:
        return frozenset(self._holds)

    @property
    def num_obtainable_pages(self) -> int:
        """Most pages that `make_room` can free."""
        counts = self._pages.counts()
        return counts.free + counts.cached - self.pins.num_held_nodes

    @property
    def num_obtainable_slots(self) -> int:
        counts = self._slots.counts()
        return counts.free + counts.cached - self.pins.num_held_checkpoints

    def match(self, prompt: Prompt) -> Match:
        """The cached part of `prompt` when computing it. Changes nothing, and does not count as a
        use."""
        return self.find(prompt, len(prompt) - 1)

    def find(self, prompt: Prompt, num_tokens: int | None = None) -> Match:
        """Like `match`, but for the first `num_tokens` tokens (by default all), including the last
        token's page."""
        num_tokens = len(prompt) if num_tokens is None else num_tokens
        page_tokens = self.tree.page_tokens
        keys = prompt.page_keys(page_tokens, max(num_tokens, 0) // page_tokens)
        nodes = self.tree.walk(self.tree.root, keys)
        last = nodes[-1] if nodes else self.tree.root
        return Match(
            node=last,
            pages=tuple([node.page for node in nodes]),
            checkpoint=last.nearest_checkpoint(),
        )

    def hold_pages(self, match: Match) -> Hold:
        """Holds all matched pages, but no checkpoint: the sequence gets its state from
        elsewhere."""
        return self._hold(match.node, match.pages, None)

    def hold_checkpoint(self, match: Match) -> Hold:
        """Holds the checkpoint and the pages before it, for a sequence that resumes here.

        Without a matched checkpoint it holds nothing, and the sequence starts at token 0.
        """
        checkpoint = match.checkpoint
        if checkpoint is None:
            return self._hold(self.tree.root, (), None)
        assert checkpoint.node.checkpoint is checkpoint, "hold a match at once: this one is stale"
        num_pages = checkpoint.num_tokens // self.tree.page_tokens
        return self._hold(checkpoint.node, match.pages[:num_pages], checkpoint)

    def hold_state(self, checkpoint: Checkpoint) -> Hold:
        """Holds the state, but no pages, for a copy of the state."""
        return self._hold(checkpoint.node, (), checkpoint)

    def release(self, hold: Hold) -> None:
        """Ends the hold. The caller's own pages and slots stay the caller's."""
        self._holds.remove(hold)
        self.pins.unhold(hold.node)
        if hold.checkpoint is not None:
            self.pins.unhold_checkpoint(hold.checkpoint)

    def insert(
        self,
        tokens: Prompt,
        pages: Sequence[PageId],
        *,
        hold: Hold,
        checkpoints: Mapping[int, SlotId],
    ) -> tuple[PageId, ...]:
        """Takes a sequence's full pages and checkpoints. Returns the pages left to the caller.

        `tokens` are all tokens whose K and V are written, including those of `hold`; `pages` are
        the caller's WORKING pages for the tokens after the hold. Full pages become nodes, or are
        freed if an equal node exists; a partial last page, and pages after it, stay WORKING.
        `checkpoints` maps token counts at page ends to WORKING slots: each is taken, or freed if
        the node already has one. Afterwards the hold reaches to the last full page: lease it,
        resume from it or release it.
        """
        keys = self._new_keys(tokens, hold)
        self._check_insert(hold, keys, pages, checkpoints)
        known = self.tree.walk(hold.node, keys)
        adopted = pages[len(known) : len(keys)]
        self._pages.move(adopted, UnitState.WORKING, UnitState.CACHED)
        self._pages.give_back(pages[: len(known)], UnitState.WORKING)
        last = known[-1] if known else hold.node
        path = known + self.tree.grow(last, keys[len(known) :], adopted)
        if adopted:
            # No longer a leaf.
            self.pins.settle(last)
        if path:
            self._extend(hold, path)
        # Ascending: a checkpoint's worth depends on its distance from the one above.
        for num_tokens in sorted(checkpoints):
            self._adopt(hold.node.at(num_tokens), checkpoints[num_tokens])
        return tuple(pages[len(keys) :])

    def make_room(self, num_pages: int, num_slots: int) -> bool:
        """Evicts until this many pages and slots are free. Returns False, and evicts nothing, if
        too many units are held or not in the cache.

        Evicts units without a lease first, by worth and recency; then revokes leases one by one.
        """
        if num_pages > self.num_obtainable_pages or num_slots > self.num_obtainable_slots:
            return False
        self.leases.expire_due()
        self._evict(num_pages, num_slots, self.leases.revoke_for_page, self.leases.revoke_for_slot)
        assert self._has_room(num_pages, num_slots), "units without a hold or a lease are evictable"
        return True

    def make_spare_room(self, num_pages: int, num_slots: int) -> bool:
        """Like `make_room`, but revokes no lease, and evicts what it can. Returns whether this many
        pages and slots are free.
        """
        self.leases.expire_due()
        self._evict(num_pages, num_slots, lambda: False, lambda: False)
        return self._has_room(num_pages, num_slots)

    def _has_room(self, num_pages: int, num_slots: int) -> bool:
        return self._pages.fits(num_pages) and self._slots.fits(num_slots)

    def _hold(
        self, node: PageNode, pages: tuple[PageId, ...], checkpoint: Checkpoint | None
    ) -> Hold:
        is_here = node.parent is not None or node is self.tree.root
        assert is_here, "hold a match at once: this one is stale"
        hold = Hold(node=node, pages=pages, checkpoint=checkpoint)
        self._holds.add(hold)
        self.pins.hold(node)
        if checkpoint is not None:
            self.pins.hold_checkpoint(checkpoint)
        return hold

    def _new_keys(self, tokens: Prompt, hold: Hold) -> list[bytes]:
        """The keys of the full pages after the hold."""
        assert hold in self._holds, "insert needs a hold that was not released"
        behind = tokens[hold.num_tokens :]
        return behind.page_keys(self.tree.page_tokens, len(behind) // self.tree.page_tokens)

    def _check_insert(
        self,
        hold: Hold,
        keys: Sequence[bytes],
        pages: Sequence[PageId],
        checkpoints: Mapping[int, SlotId],
    ) -> None:
        page_tokens = self.tree.page_tokens
        assert len(pages) >= len(keys), f"{len(keys)} full pages of tokens, {len(pages)} pages"
        end = hold.num_tokens + page_tokens * len(keys)
        stray = [at for at in checkpoints if not (0 < at <= end and at % page_tokens == 0)]
        assert not stray, f"no full page ends at {sorted(stray)} tokens"

    def _extend(self, hold: Hold, path: Sequence[PageNode]) -> None:
        # Holds the new end first: that also holds the old end, so neither is ever evictable.
        before = hold.node
        self.pins.hold(path[-1])
        hold.node = path[-1]
        hold.pages += tuple([node.page for node in path])
        self.pins.unhold(before)

    def _adopt(self, node: PageNode, slot: SlotId) -> None:
        if node.checkpoint is None:
            self._slots.move([slot], UnitState.WORKING, UnitState.CACHED)
            node.checkpoint = Checkpoint(node, slot)
            self.tree.changed(node)
        else:
            self._slots.give_back([slot], UnitState.WORKING)
            node.checkpoint.is_superseded = False
        self.pins.touch_checkpoint(node.checkpoint)

    def _evict(
        self,
        num_pages: int,
        num_slots: int,
        revoke_for_page: Callable[[], bool],
        revoke_for_slot: Callable[[], bool],
    ) -> None:
        """Evicts until this many are free, or until nothing is evictable or revocable."""
        pages: list[PageId] = []
        slots: list[SlotId] = []
        missing_pages = num_pages - self._pages.counts().free
        while len(pages) < missing_pages:
            if node := self.pins.leaves.pop():
                self._evict_leaf(node, pages, slots)
            elif not revoke_for_page():
                break
        missing_slots = num_slots - self._slots.counts().free
        while len(slots) < missing_slots:
            if checkpoint := self.pins.checkpoints.pop():
                self._evict_checkpoint(checkpoint, slots)
                # Without the checkpoint, its page may be worth nothing.
                self.pins.settle(checkpoint.node)
            elif not revoke_for_slot():
                break
        self._pages.give_back(pages, UnitState.CACHED)
        self._slots.give_back(slots, UnitState.CACHED)
        self.num_evicted_pages += len(pages)
        self.num_evicted_slots += len(slots)

    def _evict_leaf(self, node: PageNode, pages: list[PageId], slots: list[SlotId]) -> None:
        if node.checkpoint is not None:
            self._evict_checkpoint(node.checkpoint, slots)
        self.num_moved_pages += node.has_twin
        pages.append(node.page)
        parent = self.tree.cut(node)
        parent.last_use = max(parent.last_use, node.last_use)
        self.pins.settle(parent)

    def _evict_checkpoint(self, checkpoint: Checkpoint, slots: list[SlotId]) -> None:
        self.num_moved_slots += checkpoint.has_twin
        slots.append(checkpoint.slot)
        checkpoint.node.checkpoint = None
        self.tree.changed(checkpoint.node)
        self.pins.settle_checkpoint(checkpoint)
