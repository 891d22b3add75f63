"""Copies a prefix between the two tiers: chooses what to copy, makes room, and inserts the copy.

    start ─▶ (bytes are copied) ─▶ finish     held in the source, WORKING, then CACHED in the target
                    └────────────▶ abandon    free again

"There" is the source tier and "here" is the target. The target treats a copy like a sequence, which
holds the prefix it finds, writes its own units and inserts them. So both tiers may change during a
copy: the source's units are held, the written units have no other owner, and copies of pages that
have appeared in the target since are freed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from segue.api.prompt import Prompt
from segue.api.types import PageId, SlotId
from segue.cache.memory import Memory
from segue.cache.prefix.cache import Hold, Match, PrefixCache
from segue.cache.prefix.node import Checkpoint, PageNode
from segue.cache.unit_pool import UntilKept


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """The parts of a prefix to copy: pages up to `num_tokens`, and states."""

    num_tokens: int
    checkpoints: tuple[Checkpoint, ...]
    """The source's checkpoints, ascending."""
    only_with_state: bool = False
    """Pages are useless without a state."""


NOTHING = CopyRequest(num_tokens=0, checkpoints=())

Choose = Callable[[Match, Match], CopyRequest]
"""Chooses what to copy, given the matches there and here."""

_numbers = itertools.count(1)

MakeRoom = Callable[[PrefixCache, int, int], bool]


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Copying:
    """A copy in progress. Another thread may touch only the units' bytes."""

    source: Memory
    target: Memory
    tokens: Prompt
    """Up to the end of the last page that will be here."""
    source_holds: tuple[Hold, ...]
    """The first one holds the whole prefix that was found there."""
    target_hold: Hold
    from_pages: tuple[PageId, ...]
    to_pages: tuple[PageId, ...]
    """WORKING, one for each of `from_pages`."""
    from_slots: tuple[SlotId, ...]
    to_slots: tuple[SlotId, ...]
    positions: tuple[int, ...]
    """Number of tokens before each slot's state."""
    owner: str
    """The owner of the target's units, in its pools."""

    @property
    def num_units(self) -> int:
        return len(self.to_pages) + len(self.to_slots)


def start(
    source: Memory,
    target: Memory,
    prefix: Prompt,
    *,
    choose: Choose,
    make_room: MakeRoom = PrefixCache.make_room,
) -> Copying:
    """Holds and takes the units to copy: as many as there is room for, possibly none."""
    there, here = source.cache.find(prefix), target.cache.find(prefix)
    wanted = choose(there, here)
    first, page_tokens = len(here.pages), target.cache.tree.page_tokens
    owner = f"copy {next(_numbers)}"
    with UntilKept() as taken:

        def hold(cache: PrefixCache, held: Hold) -> Hold:
            taken.callback(cache.release, held)
            return held

        target_hold = hold(target.cache, target.cache.hold_pages(here))
        num_pages, checkpoints = _room_for(wanted, here, target, make_room)
        source_holds = (
            hold(source.cache, source.cache.hold_pages(there)),
            *(hold(source.cache, source.cache.hold_state(c)) for c in checkpoints),
        )
        to_pages, to_slots = target.take(num_pages, len(checkpoints), owner=owner)
        taken.keep()
    return Copying(
        source=source,
        target=target,
        tokens=prefix[: here.num_tokens + num_pages * page_tokens],
        source_holds=source_holds,
        target_hold=target_hold,
        from_pages=there.pages[first : first + num_pages],
        to_pages=to_pages,
        from_slots=tuple([checkpoint.slot for checkpoint in checkpoints]),
        to_slots=to_slots,
        positions=tuple([checkpoint.num_tokens for checkpoint in checkpoints]),
        owner=owner,
    )


def _room_for(
    wanted: CopyRequest, here: Match, target: Memory, make_room: MakeRoom
) -> tuple[int, list[Checkpoint]]:
    """The number of pages, and the states, that there is room for now."""
    first, page_tokens = len(here.pages), target.cache.tree.page_tokens
    num_pages = min(
        max(wanted.num_tokens // page_tokens - first, 0), target.cache.num_obtainable_pages
    )
    num_slots = min(len(wanted.checkpoints), target.cache.num_obtainable_slots)
    if num_pages or num_slots:
        make_room(target.cache, num_pages, num_slots)
    num_pages = min(num_pages, target.pages.counts().free)
    num_slots = min(num_slots, target.slots.counts().free)
    end = here.num_tokens + num_pages * page_tokens
    checkpoints = [c for c in wanted.checkpoints if c.num_tokens <= end]
    # The deepest states are worth most.
    checkpoints = checkpoints[max(len(checkpoints) - num_slots, 0) :]
    if wanted.only_with_state and not checkpoints:
        num_pages = 0
    return num_pages, checkpoints


def finish(copying: Copying) -> PageNode:
    """The bytes have arrived: gives the units to the cache. Returns the prefix's last node here."""
    left = copying.target.cache.insert(
        copying.tokens,
        copying.to_pages,
        hold=copying.target_hold,
        checkpoints=dict(zip(copying.positions, copying.to_slots, strict=True)),
    )
    assert not left, "a copy ends at a page's end"
    last = copying.target_hold.node
    _make_twins(last, copying.source_holds[0].node)
    _let_go(copying)
    return last


def abandon(copying: Copying) -> None:
    """The copy has stopped: frees the units here."""
    copying.target.reclaim(copying.owner)
    _let_go(copying)


def all_pages(there: Match, here: Match) -> CopyRequest:
    """For a worker that can use a page without a state. Adds the deepest state if it is deeper than
    those here.
    """
    return CopyRequest(num_tokens=there.num_tokens, checkpoints=_deeper(there, here))


def up_to_a_state(there: Match, here: Match) -> CopyRequest:
    """For a worker that computes: the deepest state, and the pages before it."""
    deeper = _deeper(there, here)
    num_tokens = deeper[-1].num_tokens if deeper else 0
    return CopyRequest(num_tokens=num_tokens, checkpoints=deeper, only_with_state=True)


def what_is_new(there: Match, here: Match) -> CopyRequest:
    """All pages, and the states on pages that are not here yet; the deepest state in any case.

    Other missing states have been evicted here for something better.
    """
    on_the_way = [node.checkpoint for node in there.node.upwards() if node.checkpoint]
    new = [checkpoint for checkpoint in on_the_way if checkpoint.num_tokens > here.num_tokens]
    wanted = {checkpoint.num_tokens: checkpoint for checkpoint in (*new, *_deeper(there, here))}
    return CopyRequest(
        num_tokens=there.num_tokens, checkpoints=tuple([wanted[at] for at in sorted(wanted)])
    )


def _deeper(there: Match, here: Match) -> tuple[Checkpoint, ...]:
    """The deepest state there, unless one here is as deep."""
    if there.checkpoint is None:
        return ()
    is_here = here.checkpoint and here.checkpoint.num_tokens >= there.checkpoint.num_tokens
    return () if is_here else (there.checkpoint,)


def _let_go(copying: Copying) -> None:
    for hold in copying.source_holds:
        copying.source.cache.release(hold)
    copying.target.cache.release(copying.target_hold)


def _make_twins(here: PageNode, there: PageNode) -> None:
    """Links the nodes that both prefixes have."""
    num_tokens = min(here.num_tokens, there.num_tokens)
    here, there = here.at(num_tokens), there.at(num_tokens)
    for one, other in zip(here.upwards(), there.upwards(), strict=True):
        if one.twin is other and other.twin is one:
            # The nodes above are twins too: a node keeps its parent while it is in the tree.
            return
        one.twin, other.twin = other, one
