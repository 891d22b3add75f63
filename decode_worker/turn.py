"""Turns on a decode worker: their events, their memory, and the sequences that answer them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from decode_worker.engine.sequence import DecodeSequence
from decode_worker.traces import TurnTimes
from kv_transfer.reading.reservations import Reservation
from kv_transfer.ticket import PeerIdentity, Ticket
from segue.api.errors import SegueError
from segue.api.turn import (
    ComputedOnDecode,
    PrefillOutcome,
    PrefillStarted,
    ShipReport,
    TokenDelta,
    TurnResult,
    TurnSpec,
)
from segue.api.types import PageId, SlotId
from segue.cache.prefix.cache import Hold
from segue.engine.answer import AnswerState
from segue.engine.sampler import SequenceSampler
from segue.engine.speculation.acceptance import SlotRing
from segue.model.config import ModelConfig
from segue.process.cancellation import Interruptible
from segue.text.tokens.tokenizer import Tokenizer
from segue.worker.validation import check_turn

PromptSource = PeerIdentity | ComputedOnDecode
"""The prefill worker that writes the prompt here, or how much of it may be computed here."""


@dataclass(frozen=True, slots=True)
class MemoryReserved:
    """There is room for the turn, and its prompt may be written."""

    ticket: Ticket
    checkpoint_tokens: int
    """The longest prefix of the prompt that has a state here."""


TurnNews = MemoryReserved | PrefillStarted | TokenDelta | TurnResult | SegueError
Emit = Callable[[TurnNews], None]
"""Takes the events of one turn, in order. Nothing follows a result or an error."""


@dataclass(slots=True, kw_only=True)
class DecodeTurn:
    spec: TurnSpec
    emit: Emit
    hold: Hold
    """The prefix that was already here: shared and read-only."""
    reservation: Reservation | None = None
    """Set if a prefill worker writes the prompt."""
    own_pages: Sequence[PageId] | None = None
    """The pages after the held ones, once they are working units."""
    sequence: DecodeSequence | None = None
    """Set if the rest of the prompt is computed here."""
    times: TurnTimes = field(default_factory=lambda: TurnTimes(0.0))
    work: Interruptible = field(default_factory=Interruptible)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the turn has left this worker."""

    @property
    def pages(self) -> Sequence[PageId]:
        return (*self.hold.pages, *(self.own_pages or ()))

    def interrupt(self, error: SegueError) -> None:
        self.work.interrupt(error)


class Sequences:
    """Makes the sequences that the engine runs."""

    def __init__(self, model: ModelConfig, tokenizer: Tokenizer | None, *, device: str) -> None:
        """`device`: the device of the logits."""
        self._model = model
        self._device = device
        self._tokenizer = tokenizer

    def check(self, spec: TurnSpec) -> None:
        """Raises InvalidRequest for a turn that the model cannot run or answer."""
        check_turn(spec, self._model)
        self._answer(spec)

    def make(
        self,
        turn: DecodeTurn,
        own_pages: Sequence[PageId],
        slots: Sequence[SlotId],
        *,
        outcome: PrefillOutcome | None = None,
        prompt_states: Mapping[int, SlotId] | None = None,
    ) -> DecodeSequence:
        """With an `outcome`, a prefill worker has computed the whole prompt, and its state is in
        the first slot. Without one, the rest of it is computed here, from the held checkpoint.
        """
        turn.own_pages = own_pages
        spec, hold = turn.spec, turn.hold
        num_cached = len(spec.context) if outcome else hold.num_tokens
        return DecodeSequence(
            turn=spec,
            pages=turn.pages,
            resident_tokens=hold.num_tokens,
            ring=SlotRing(slots=tuple(slots), state=slots[0], num_tokens=num_cached),
            answer=self._answer(spec),
            sampler=SequenceSampler(
                spec.sampling,
                vocab_size=self._model.vocab_size,
                prompt_ids=spec.prompt_ids,
                answer_ids=spec.answered_ids,
                device=self._device,
            ),
            report=outcome.report if outcome else ShipReport(),
            first_token=outcome.first_token if outcome else None,
            resume_slot=hold.checkpoint.slot if hold.checkpoint else None,
            prompt_states=prompt_states or {},
            answer_ids=list(spec.answered_ids),
        )

    def _answer(self, spec: TurnSpec) -> AnswerState:
        answer = AnswerState(stop=spec.stop, tokenizer=self._tokenizer)
        answer.resume(spec.answered_ids)
        return answer
