"""A turn that is on a decode worker: what of it the event loop knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from decode_worker.engine.sequence import DecodeSequence
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


@dataclass(frozen=True, slots=True)
class WrittenByPrefill:
    """The prompt of a turn comes from a prefill worker."""

    writer: PeerIdentity


PromptSource = WrittenByPrefill | ComputedOnDecode


@dataclass(frozen=True, slots=True)
class Reserved:
    """There is room for the turn, and its prompt may be written."""

    ticket: Ticket
    checkpoint_tokens: int
    """The longest prefix of the prompt that has a state here."""


TurnNews = Reserved | PrefillStarted | TokenDelta | TurnResult | SegueError
Tell = Callable[[TurnNews], None]
"""Takes what happens to one turn, in order. Nothing follows a result or an error."""


@dataclass(slots=True, kw_only=True)
class DecodeTurn:
    spec: TurnSpec
    tell: Tell
    hold: Hold
    """The prefix that was here already: shared, read only."""
    reservation: Reservation | None = None
    """Of a prompt that a prefill worker writes."""
    own_pages: Sequence[PageId] | None = None
    """Once the engine has the turn, the pages behind the hold; until then they are reserved."""
    sequence: DecodeSequence | None = None
    """Where the rest of the prompt is computed here."""
    work: Interruptible = field(default_factory=Interruptible)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nothing of the turn is here any more."""

    @property
    def pages(self) -> Sequence[PageId]:
        return (*self.hold.pages, *(self.own_pages or ()))


class Sequences:
    """Makes what the engine runs."""

    def __init__(self, model: ModelConfig, tokenizer: Tokenizer | None, *, device: str) -> None:
        """`device`: where logits are."""
        self._model = model
        self._device = device
        self._tokenizer = tokenizer

    def check(self, spec: TurnSpec) -> None:
        """Raises InvalidRequest for a turn that the model cannot run or answer."""
        check_turn(spec, self._model)
        self._answer(spec)

    def arrived(
        self,
        turn: DecodeTurn,
        pages: Sequence[PageId],
        slot: SlotId,
        outcome: PrefillOutcome,
        spare_slots: Sequence[SlotId],
    ) -> DecodeSequence:
        """A prefill worker computed the whole prompt."""
        turn.own_pages = pages
        return DecodeSequence(
            turn=turn.spec,
            pages=turn.pages,
            resident_tokens=turn.hold.num_tokens,
            ring=SlotRing(
                slots=(slot, *spare_slots),
                state=slot,
                num_tokens=len(turn.spec.context),
            ),
            answer=self._answer(turn.spec),
            sampler=self._sampler(turn.spec),
            report=outcome.report,
            first_token=outcome.first_token,
            answer_ids=list(turn.spec.answered_ids),
        )

    def resumed(
        self,
        turn: DecodeTurn,
        own_pages: Sequence[PageId],
        slot: SlotId,
        spare_slots: Sequence[SlotId],
        prompt_states: Mapping[int, SlotId],
    ) -> DecodeSequence:
        """The rest of the prompt is computed here, from the held checkpoint."""
        turn.own_pages = own_pages
        checkpoint = turn.hold.checkpoint
        return DecodeSequence(
            turn=turn.spec,
            pages=turn.pages,
            resident_tokens=turn.hold.num_tokens,
            ring=SlotRing(slots=(slot, *spare_slots), state=slot, num_tokens=turn.hold.num_tokens),
            answer=self._answer(turn.spec),
            sampler=self._sampler(turn.spec),
            report=ShipReport(),
            resume_slot=checkpoint.slot if checkpoint else None,
            prompt_states=prompt_states,
            answer_ids=list(turn.spec.answered_ids),
        )

    def _answer(self, spec: TurnSpec) -> AnswerState:
        answer = AnswerState(stop=spec.stop, tokenizer=self._tokenizer)
        answer.resume(spec.answered_ids)
        return answer

    def _sampler(self, spec: TurnSpec) -> SequenceSampler:
        return SequenceSampler(
            spec.sampling,
            vocab_size=self._model.vocab_size,
            prompt_ids=spec.prompt_ids,
            answer_ids=spec.answered_ids,
            device=self._device,
        )
