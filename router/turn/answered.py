"""The part of a turn's answer that its client has: from this run of the turn, and from before."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace

from router.turn import reported
from segue.api.errors import InvalidRequest
from segue.api.turn import TurnEnd, TurnSpec
from segue.api.types import Resume, WorkerId
from segue.engine.answer import AnswerState
from segue.text.tokens.detokenizer import TokenBytes


class Answered:
    """One turn owns it."""

    def __init__(self, resume: Resume | None = None) -> None:
        self.token_ids = array("I", resume.token_ids if resume else ())
        self.num_brought = len(self.token_ids)
        """The first of them, which the client had when it sent the turn."""
        self.is_resumed = resume is not None
        self.resumed = max(resume.resumed, min(self.num_brought, 1)) if resume else 0
        """As in `Usage`."""
        self.workers = (
            WorkerId(resume.prefill_worker if resume else ""),
            WorkerId(resume.decode_worker if resume else ""),
        )
        """The prefill and the decode worker of before, as far as the client knows."""

    @classmethod
    def brought(
        cls, resume: Resume, spec: TurnSpec, *, vocab_size: int, tokenizer: TokenBytes | None
    ) -> Answered:
        """What a client brings back. Raises InvalidRequest if that is no start of an answer to this
        turn."""
        token_ids, most = resume.token_ids, spec.stop.max_tokens
        if token_ids and max(token_ids) >= vocab_size:
            raise InvalidRequest.at(
                "resume.token_ids",
                f"expected the answer's tokens, got the id {max(token_ids)}, but the model's ids "
                f"go from 0 to {vocab_size - 1}: send the tokens as they were received",
            )
        if len(token_ids) > most:
            raise InvalidRequest.at(
                "resume.token_ids",
                f"expected at most {most} tokens (max_tokens, or what a worker here can hold), got "
                f"{len(token_ids)}: send the turn as it was sent before, or as a new one",
            )
        state = _replayed(token_ids, spec, tokenizer)
        if state.num_tokens < len(token_ids):
            raise InvalidRequest.at(
                "resume.token_ids",
                f"expected the start of one answer, got {len(token_ids)} tokens, but the answer "
                f"ends after {state.num_tokens}: send the tokens as they were received",
            )
        return cls(resume)

    @property
    def has_new(self) -> bool:
        """The client got tokens from this run of the turn."""
        return len(self.token_ids) > self.num_brought

    def add(self, token_ids: Iterable[int]) -> None:
        self.token_ids.extend(token_ids)

    def rest_of(self, spec: TurnSpec) -> TurnSpec:
        """What is left to do: the turn from the first token that the client lacks."""
        if not self.token_ids:
            return spec
        # The prompt's log-probabilities came before the first tokens.
        sampling = replace(spec.sampling, prompt_logprobs=None)
        context = spec.context + self.token_ids
        return replace(spec, context=context, sampling=sampling, num_answered=len(self.token_ids))

    def end_of(self, spec: TurnSpec, tokenizer: TokenBytes | None) -> TurnEnd | None:
        """The end, if the client has the whole answer."""
        if not self.token_ids:
            return None
        state = _replayed(self.token_ids, spec, tokenizer)
        if state.finish is None:
            return None
        num_tokens = len(self.token_ids)
        return reported.ended_before(spec, state.finish, state.stop_match, num_tokens, self.resumed)


def _replayed(
    token_ids: Iterable[int], spec: TurnSpec, tokenizer: TokenBytes | None
) -> AnswerState:
    state = AnswerState(stop=spec.stop, tokenizer=tokenizer)
    state.replay(token_ids)
    return state
