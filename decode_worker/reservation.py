"""What a turn gets of the memory before it may begin: all it needs to its end, or nothing."""

from __future__ import annotations

from collections.abc import Callable

from decode_worker.residency import Residency
from decode_worker.sequence import DecodeSequence
from decode_worker.turn import Sequences, Turn
from kv_transfer.reader import HandoffReader
from kv_transfer.ticket import CommittedHandoff, PeerIdentity, Ticket
from segue.cache.layout import CacheLayout
from segue.cache.prefix_cache import Hold
from segue.errors import NotResident, SegueError
from segue.turn import ShipReport, TurnSpec
from segue.types import SampledToken


class Reservations:
    """The event loop owns it. A turn that is given back holds its prefix until it is released."""

    def __init__(
        self,
        residency: Residency,
        reader: HandoffReader,
        sequences: Sequences,
        layout: CacheLayout,
        *,
        worker: str,
        num_drafts: Callable[[], int],
    ) -> None:
        """`worker`: how errors name this one. `num_drafts`: for how many a sequence that begins
        now should have slots."""
        self._residency = residency
        self._reader = reader
        self._sequences = sequences
        self._layout = layout
        self._worker = worker
        self._num_drafts = num_drafts

    def for_handoff(
        self, spec: TurnSpec, writer: PeerIdentity, lifetime_s: float
    ) -> tuple[Turn, Ticket]:
        """What is here of the prompt is held, the rest reserved for the writer.

        Raises Overloaded, InvalidRequest or Unavailable, and then neither is.
        """
        self._sequences.check(spec)
        hold = self._residency.hold(spec.prompt)
        try:
            self._residency.make_room(self._num_own_pages(spec, hold))
            ticket = self._reader.reserve(
                spec.turn_id,
                num_prompt_tokens=len(spec.prompt),
                extra_tokens=spec.stop.max_tokens,
                writer=writer,
                lifetime_s=lifetime_s,
                resident_tokens=hold.num_tokens,
            )
        except SegueError:
            self._residency.release(hold)
            raise
        return Turn(spec=spec, hold=hold), ticket

    def to_compute(self, spec: TurnSpec, max_computed_tokens: int) -> tuple[Turn, DecodeSequence]:
        """As for a handoff, but from a checkpoint, and everything is this worker's own at once.

        Raises NotResident when more tokens than that have no state here.
        """
        self._sequences.check(spec)
        hold = self._residency.hold_checkpoint(spec.prompt)
        try:
            num_missing = len(spec.prompt) - hold.num_tokens
            if num_missing > max_computed_tokens:
                raise NotResident(
                    f"{num_missing} tokens of turn {spec.turn_id} have no state on {self._worker}, "
                    f"at most {max_computed_tokens} may be computed here; reserve instead"
                )
            pages, slot = self._residency.take(hold, self._num_own_pages(spec, hold))
        except SegueError:
            self._residency.release(hold)
            raise
        turn = Turn(spec=spec, hold=hold)
        spare_slots = self._residency.spare_slots(self._num_drafts())
        return turn, self._sequences.resumed(turn, pages, slot, spare_slots)

    def arrived(
        self,
        turn: Turn,
        committed: CommittedHandoff,
        first_token: SampledToken,
        report: ShipReport,
    ) -> DecodeSequence:
        """The handoff is complete. Slots for drafts and a checkpoint are taken only now."""
        spare_slots = self._residency.spare_slots(self._num_drafts())
        return self._sequences.arrived(turn, committed, first_token, report, spare_slots)

    def _num_own_pages(self, spec: TurnSpec, hold: Hold) -> int:
        """For the rest of the prompt, and an answer as long as it may become."""
        num_tokens = len(spec.prompt) + spec.stop.max_tokens
        return self._layout.num_pages_for(num_tokens) - len(hold.pages)
