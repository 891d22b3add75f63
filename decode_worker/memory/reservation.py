"""Takes a turn's memory before it starts: all of it until its end, or none."""

from __future__ import annotations

from collections.abc import Callable

from decode_worker.engine.sequence import DecodeSequence
from decode_worker.memory.residency import Residency
from decode_worker.turn import DecodeTurn, Emit, Sequences
from kv_transfer.reading.reader import HandoffReader
from kv_transfer.ticket import Arrival, PeerIdentity
from segue.api.errors import NotResident, TransferFailed
from segue.api.turn import TurnSpec
from segue.cache.memory import Memory
from segue.cache.prefix.cache import Hold
from segue.cache.unit_pool import UntilKept


class Reservations:
    """The event loop owns it. A returned turn holds its prefix until the hold is released."""

    def __init__(
        self,
        memory: Memory,
        residency: Residency,
        reader: HandoffReader,
        sequences: Sequences,
        *,
        worker: str,
        num_drafts: Callable[[], int],
    ) -> None:
        """`worker`: this worker's name in errors. `num_drafts`: how many drafts a sequence that
        starts now needs slots for."""
        self._memory = memory
        self._residency = residency
        self._reader = reader
        self._sequences = sequences
        self._worker = worker
        self._num_drafts = num_drafts

    def for_handoff(
        self, spec: TurnSpec, emit: Emit, writer: PeerIdentity, lifetime_s: float
    ) -> DecodeTurn:
        """Holds the part of the prompt that is here, and reserves memory for the rest.

        Raises Overloaded, InvalidRequest or Unavailable, and then holds and reserves nothing.
        """
        self._sequences.check(spec)
        with UntilKept() as taken:
            hold = self._residency.hold(spec.context)
            taken.callback(self._memory.cache.release, hold)
            self._residency.make_room(self._num_own_pages(spec, hold))
            reservation = self._reader.reserve(
                spec.turn_id,
                num_prompt_tokens=len(spec.context),
                extra_tokens=spec.stop.max_tokens - spec.num_answered,
                writer=writer,
                lifetime_s=lifetime_s,
                resident_tokens=hold.num_tokens,
            )
            taken.keep()
        return DecodeTurn(spec=spec, emit=emit, hold=hold, reservation=reservation)

    def to_compute(self, spec: TurnSpec, emit: Emit, max_computed_tokens: int) -> DecodeTurn:
        """Like `for_handoff`, but resumes from a checkpoint, and takes working units at once.

        Raises NotResident if more than `max_computed_tokens` tokens have no state here, or if the
        prompt's log-probabilities are wanted, which only prefill workers compute.
        """
        self._sequences.check(spec)
        if spec.scores_prompt:
            raise NotResident(
                f"turn {spec.turn_id} wants log-probabilities of its prompt, which {self._worker} "
                "does not compute: use a prefill worker"
            )
        with UntilKept() as taken:
            hold, positions = self._residency.hold_checkpoint(spec)
            taken.callback(self._memory.cache.release, hold)
            num_missing = len(spec.context) - hold.num_tokens
            if num_missing > max_computed_tokens:
                raise NotResident(
                    f"{num_missing} tokens of turn {spec.turn_id} have no state on {self._worker}, "
                    f"at most {max_computed_tokens} may be computed here: use a prefill worker"
                )
            owner = spec.turn_id
            pages, slot = self._residency.take(hold, self._num_own_pages(spec, hold), owner)
            taken.callback(self._memory.give_back, pages, [slot])
            turn = DecodeTurn(spec=spec, emit=emit, hold=hold)
            spare_slots = self._residency.spare_slots(self._num_drafts(), owner)
            taken.callback(self._memory.give_back, (), spare_slots)
            prompt_states = self._residency.slots_for_states(positions, owner)
            taken.callback(self._memory.give_back, (), list(prompt_states.values()))
            turn.sequence = self._sequences.make(
                turn, pages, (slot, *spare_slots), prompt_states=prompt_states
            )
            taken.keep()
        return turn

    def arrived(self, turn: DecodeTurn, arrival: Arrival) -> DecodeSequence:
        """The handoff is complete. Slots for drafts and a checkpoint are taken only now.

        If it raises, what arrived is freed.
        """
        with UntilKept() as taken:
            taken.callback(self._memory.give_back, arrival.pages, [arrival.slot])
            if arrival.outcome is None:
                raise TransferFailed(
                    f"turn {turn.spec.turn_id}: expected a first token with the commit, got none"
                )
            spare_slots = self._residency.spare_slots(self._num_drafts(), turn.spec.turn_id)
            taken.callback(self._memory.give_back, (), spare_slots)
            sequence = self._sequences.make(
                turn, arrival.pages, (arrival.slot, *spare_slots), outcome=arrival.outcome
            )
            taken.keep()
        return sequence

    def _num_own_pages(self, spec: TurnSpec, hold: Hold) -> int:
        """Pages for the rest of the prompt and the longest possible answer."""
        layout = self._reader.memory_map.layout
        return layout.num_pages_for(spec.max_context) - len(hold.pages)
