"""Sessions' memory on a decode worker: resident prefixes, and the pages and states of turns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from decode_worker.config import DecodeConfig
from decode_worker.engine.sequence import DecodeSequence
from decode_worker.memory.leases import TieredLeases
from segue.api.checks import require_name, shown
from segue.api.errors import InvalidRequest
from segue.api.prompt import Prompt
from segue.api.turn import TurnResult, TurnSpec
from segue.api.types import PageId, SessionId, SlotId, TurnId
from segue.cache.host.copying import all_pages
from segue.cache.host.tier import HostTier
from segue.cache.memory import Memory
from segue.cache.prefix.cache import Hold
from segue.cache.prefix.node import PageNode
from segue.cache.prefix.states import SessionStates, resumable_states, states_wanted
from segue.cache.unit_pool import UnitState
from segue.process.telemetry import Clock

MAX_LEASE_S = 86_400.0
"""The longest lease or pause."""

_NOTHING = Prompt()


class Residency:
    """The event loop owns it. With `[decode] residency = false` it keeps nothing."""

    def __init__(self, memory: Memory, tier: HostTier, config: DecodeConfig, clock: Clock) -> None:
        self._memory = memory
        self._tier = tier
        self.keeps = config.residency
        self._lease_s = config.lease_s
        self.leases = TieredLeases(memory.cache, tier, clock)
        self._session_states = SessionStates(memory.cache.pins)

    async def load(self, context: Prompt) -> None:
        """Loads back the parts of a turn's context that are on the host: pages, and the deepest
        state. The last token is always computed."""
        if self.keeps:
            await self._tier.load(context[:-1], all_pages)

    def hold(self, context: Prompt) -> Hold:
        """Holds the pages of the context that are here: shared and read-only, until released."""
        cache = self._memory.cache
        return cache.hold_pages(cache.match(context if self.keeps else _NOTHING))

    def hold_checkpoint(self, spec: TurnSpec) -> tuple[Hold, tuple[int, ...]]:
        """Holds the part of the prompt that can be resumed here, with its state. Also returns the
        positions in the rest at which states should be kept.
        """
        cache = self._memory.cache
        match = cache.match(spec.context if self.keeps else _NOTHING)
        hold = cache.hold_checkpoint(match)
        self._session_states.used(hold.checkpoint, spec.session_id)
        if not self.keeps:
            return hold, ()
        return hold, states_wanted(
            spec.branch_points,
            hold.num_tokens,
            len(spec.context),
            page_tokens=cache.tree.page_tokens,
            branched_at=match.num_tokens,
        )

    def take(self, hold: Hold, num_pages: int, owner: TurnId) -> tuple[tuple[PageId, ...], SlotId]:
        """Takes pages after the held ones, and a slot, for a turn whose prompt is computed here.

        Raises Overloaded if there is no room now, InvalidRequest if there never will be; then
        nothing is taken.
        """
        total = self._memory.pages.total
        if len(hold.pages) + num_pages > total:
            raise InvalidRequest(
                f"prompt and answer need {len(hold.pages) + num_pages} pages, "
                f"this decode worker has {total}"
            )
        self.make_room(num_pages)
        pages, (slot,) = self._memory.take(num_pages, 1, owner=owner)
        return pages, slot

    def make_room(self, num_pages: int) -> None:
        """Frees as much as possible of a turn's remaining memory: pages, a slot, and a slot for
        checkpoints, which is optional and not worth waiting for.
        """
        cache = self._memory.cache
        if not cache.make_room(num_pages, 2):
            cache.make_room(num_pages, 1)

    def spare_slots(self, num_drafts: int, owner: TurnId) -> tuple[SlotId, ...]:
        """Slots for the checkpoint of a sequence that will be kept, and for the state after each
        draft, as far as there is room. No session loses its lease for drafts."""
        cache = self._memory.cache
        wanted = num_drafts + (self.keeps or num_drafts > 0)
        for num_slots in range(wanted, 0, -1):
            make_room = cache.make_spare_room if num_slots > 1 else cache.make_room
            if make_room(0, num_slots):
                return self._memory.slots.take(num_slots, UnitState.WORKING, owner=owner)
        return ()

    def slots_for_states(self, positions: Sequence[int], owner: TurnId) -> dict[int, SlotId]:
        """Slots for states that a prompt suffix leaves on the way; only for the first ones if there
        is no room for all. They are optional: no session loses its lease for them."""
        cache = self._memory.cache
        num_slots = len(positions)
        while num_slots and not cache.make_spare_room(0, num_slots):
            num_slots -= 1
        slots = self._memory.slots.take(num_slots, UnitState.WORKING, owner=owner)
        return dict(zip(positions[:num_slots], slots, strict=True))

    def keep(
        self,
        session_id: SessionId,
        sequence: DecodeSequence,
        own_pages: Sequence[PageId],
        hold: Hold,
    ) -> None:
        """Caches a turn's pages and states under its session's lease, and frees the rest. Without a
        session they are cached without a lease.

        Afterwards `hold` extends to the last page that is kept.
        """
        slots = list(sequence.slots)
        left = own_pages
        if self.keeps:
            states = sequence.states_kept
            checkpoints = {at: states[at] for at in states if at > hold.num_tokens}
            for slot in checkpoints.values():
                slots.remove(slot)
            cache = self._memory.cache
            left = cache.insert(
                sequence.cached_tokens, own_pages, hold=hold, checkpoints=checkpoints
            )
            self._session_states.kept(sequence.turn, hold.node, checkpoints)
        self._memory.give_back(left, slots)
        if not self.keeps:
            return
        if session_id:
            self.leases.grant(session_id, hold.node, self._lease_s)
        else:
            self._tier.offload(hold.node)

    def adopt(
        self, session_id: SessionId, node: PageNode, states: Collection[int], lease_s: float
    ) -> None:
        """A session has come from another worker, with `states` up to `node`."""
        self.leases.grant(session_id, node, lease_s)
        self._session_states.adopted(session_id, node, states)

    def renew(
        self, session_id: SessionId, lease_s: float | None, pause_s: float | None = None
    ) -> float:
        """Returns the seconds until the lease ends. With `pause_s` the session is first away for
        that long, and its device memory may be evicted until shortly before it returns.

        Raises NotFound if the session no longer has a lease.
        """
        lease_s = self._lease_s if lease_s is None else lease_s
        _check_seconds("lease_s", lease_s)
        if pause_s is None:
            self.leases.renew(session_id, lease_s)
            return lease_s
        _check_seconds("pause_s", pause_s)
        self.leases.pause(session_id, pause_s, lease_s)
        return pause_s + lease_s

    def extend(self, session_id: SessionId, lease_s: float | None) -> float:
        """Like `renew`, but never shortens a lease."""
        lease_s = self._lease_s if lease_s is None else lease_s
        _check_seconds("lease_s", lease_s)
        return self.renew(session_id, max(lease_s, self.leases.left_s(session_id)))

    def end(self, session_id: SessionId) -> float:
        """Turns the leased memory into ordinary cache. Returns how long the lease would have
        lasted, or 0 if there was none."""
        left_s = self.leases.left_s(session_id)
        self.leases.end(session_id)
        return left_s

    def fork(self, session_id: SessionId, child_id: SessionId) -> None:
        """Gives the child a lease on all that the parent has. Raises NotFound, InvalidRequest."""
        require_name("the child's session_id", child_id)
        self.leases.fork(session_id, child_id)

    def close(self) -> None:
        """Paused sessions are no longer loaded back."""
        self.leases.close()


def _check_seconds(name: str, seconds: float) -> None:
    if not 0 < seconds <= MAX_LEASE_S:
        raise InvalidRequest(
            f"{name} must be above 0 and at most {MAX_LEASE_S:g}, got {shown(seconds)}"
        )


def checkpoint_tokens(hold: Hold) -> int:
    """The longest part of a held prefix that has a state here; 0 if none has."""
    checkpoint = hold.node.nearest_checkpoint()
    return checkpoint.num_tokens if checkpoint else 0


def with_kept(result: TurnResult, spec: TurnSpec, hold: Hold) -> TurnResult:
    """Adds the cached tokens and states. `hold` extends to the last page that `Residency.keep`
    cached."""
    states = hold.node.states()
    return replace(
        result,
        kept_tokens=hold.num_tokens,
        kept_checkpoint_tokens=max(states, default=0),
        kept_states=resumable_states(states, spec.branch_points, len(spec.context)),
    )
