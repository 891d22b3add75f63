"""Prompts' memory on a prefill worker: a shared prefix, units of their own, and the cached result.
Also checks a turn, its ticket and its holder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kv_transfer.ticket import Ticket
from prefill_worker.config import PrefillConfig
from prefill_worker.pull import Rates
from segue.api.checks import require
from segue.api.errors import InvalidRequest, Overloaded
from segue.api.prompt import Prompt
from segue.api.turn import PrefixHolder, TurnSpec
from segue.api.types import PageId, SlotId
from segue.cache.host.copying import NOTHING, CopyRequest, up_to_a_state
from segue.cache.host.tier import HostTier
from segue.cache.layout import CacheLayout
from segue.cache.memory import Memory
from segue.cache.prefix.cache import Hold, Match
from segue.cache.prefix.states import SessionStates, resumable_states, states_wanted
from segue.cache.unit_pool import UntilKept
from segue.model.config import ModelConfig
from segue.worker.validation import check_turn


@dataclass(frozen=True, slots=True)
class PromptUnits:
    """The units of one prompt while it is computed."""

    hold: Hold
    """The cached prefix; computing continues after it."""
    own_pages: Sequence[PageId]
    slot: SlotId
    """Takes the state after the prompt."""
    checkpoints: Mapping[int, SlotId]
    """Slots for states at positions on the way: position to slot."""

    @property
    def pages(self) -> Sequence[PageId]:
        """The pages of the whole prompt, in order."""
        return (*self.hold.pages, *self.own_pages)


class PromptMemory:
    """Takes and frees the memory of prompts. The event loop owns it."""

    def __init__(
        self,
        memory: Memory,
        tier: HostTier,
        rates: Rates,
        layout: CacheLayout,
        config: PrefillConfig,
        max_running: int,
    ) -> None:
        self._memory = memory
        self._tier = tier
        self._rates = rates
        self._layout = layout
        self._config = config
        self._max_running = max_running
        self._session_states = SessionStates(memory.cache.pins)
        self.num_running = 0

    async def load(self, turn: TurnSpec) -> None:
        """Loads the longest prefix that has a state back from the host, if that is faster."""
        if self.resumes(turn):
            await self._tier.load(turn.context[:-1], self._up_to_a_state_that_pays)

    def take(self, turn: TurnSpec) -> PromptUnits:
        """Holds the cached prefix and takes units for the rest.

        Raises Overloaded if there is no room now, InvalidRequest if there never will be; then
        nothing is taken.
        """
        if self.num_running >= self._max_running:
            raise Overloaded(f"{self._max_running} prompts are being computed here; retry later")
        num_pages = self._layout.num_pages_for(len(turn.context))
        if num_pages > self._memory.pages.total:
            raise InvalidRequest(
                f"a prompt of {len(turn.context)} tokens needs {num_pages} pages, "
                f"this prefill worker has {self._memory.pages.total}"
            )
        cache = self._memory.cache
        with UntilKept() as taken:
            match = cache.match(turn.context if self.resumes(turn) else Prompt())
            hold = cache.hold_checkpoint(match)
            taken.callback(cache.release, hold)
            self._session_states.used(hold.checkpoint, turn.session_id)
            units = self._take_behind(hold, turn, num_pages, branched_at=match.num_tokens)
            taken.keep()
        self.num_running += 1
        return units

    def keep(self, turn: TurnSpec, units: PromptUnits) -> None:
        """Caches a computed prompt's full pages and states, and frees the rest."""
        checkpoints = dict(units.checkpoints)
        own_slots = [units.slot]
        left = units.own_pages
        if self._config.prefix_cache:
            if len(turn.context) % self._layout.page_tokens == 0:
                # The state after the prompt is at a page boundary, so it is a checkpoint too.
                checkpoints[len(turn.context)] = own_slots.pop()
            try:
                left = self._memory.cache.insert(
                    turn.context, units.own_pages, hold=units.hold, checkpoints=checkpoints
                )
            except BaseException:
                # The cache owns the inserted units; the unit pools know which ones the turn still
                # owns.
                self._memory.reclaim(turn.turn_id)
                self._free(units.hold, (), ())
                raise
            self._tier.offload(units.hold.node)
            self._session_states.kept(turn, units.hold.node, checkpoints)
        self._free(units.hold, left, own_slots)

    def kept_states(self, turn: TurnSpec, units: PromptUnits) -> tuple[int, ...]:
        """Positions of the states that the next turn may resume from after `keep`, ascending."""
        if not self._config.prefix_cache:
            return ()
        kept = {*units.hold.node.states(), *units.checkpoints}
        if len(turn.context) % self._layout.page_tokens == 0:
            kept.add(len(turn.context))
        return resumable_states(kept, turn.branch_points, len(turn.context))

    def give_back(self, units: PromptUnits) -> None:
        """Frees the units of a prompt that was not completed."""
        self._free(units.hold, units.own_pages, [units.slot, *units.checkpoints.values()])

    def resumes(self, turn: TurnSpec) -> bool:
        """Whether the turn may continue from a cached prefix."""
        return self._config.prefix_cache and not turn.scores_prompt

    def _up_to_a_state_that_pays(self, there: Match, here: Match) -> CopyRequest:
        wanted = up_to_a_state(there, here)
        resume = here.checkpoint.num_tokens if here.checkpoint else 0
        num_pages = max(wanted.num_tokens - here.num_tokens, 0) // self._layout.page_tokens
        saved_s = (wanted.num_tokens - resume) * self._rates.compute.per_unit
        return wanted if self._tier.load_s(num_pages, 1) < saved_s else NOTHING

    def _take_behind(
        self, hold: Hold, turn: TurnSpec, num_pages: int, *, branched_at: int
    ) -> PromptUnits:
        cache = self._memory.cache
        num_pages -= len(hold.pages)
        positions: Sequence[int] = ()
        if self._config.prefix_cache:
            positions = states_wanted(
                turn.branch_points,
                hold.num_tokens,
                len(turn.context),
                page_tokens=self._layout.page_tokens,
                branched_at=branched_at,
                stride=self._config.checkpoint_stride,
            )
        # Even without room for states on the way, the turn needs a slot for its final state.
        positions = positions[: max(cache.num_obtainable_slots - 1, 0)]
        cache.make_room(num_pages, 1 + len(positions))
        pages, (slot, *kept) = self._memory.take(num_pages, 1 + len(positions), owner=turn.turn_id)
        return PromptUnits(hold, pages, slot, dict(zip(positions, kept, strict=True)))

    def _free(self, hold: Hold, pages: Sequence[PageId], slots: Sequence[SlotId]) -> None:
        self._memory.give_back(pages, slots)
        self._memory.cache.release(hold)
        self.num_running -= 1


def check(
    turn: TurnSpec,
    ticket: Ticket,
    holder: PrefixHolder | None,
    *,
    model: ModelConfig,
    page_tokens: int,
) -> None:
    """Raises InvalidRequest."""
    check_turn(turn, model)
    require(
        ticket.turn_id == turn.turn_id,
        f"turn {turn.turn_id} came with a ticket of turn {ticket.turn_id}",
    )
    num_held = holder.checkpoint_tokens if holder else 0
    require(
        num_held % page_tokens == 0,
        f"the holder has {num_held} tokens, which is not a page boundary: a page has {page_tokens}",
    )
