"""The part of a turn's answer that its client has, from this run of the turn and from before."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace

from router.sessions.prompt import PromptBuilder
from segue.api.errors import InvalidRequest
from segue.api.turn import FinishReason, TurnEnd, TurnSpec, Usage
from segue.api.types import Resume, WorkerId
from segue.engine.answer import AnswerState
from segue.text.tokens.detokenizer import TokenBytes


class AnsweredTokens:
    """One turn owns it."""

    def __init__(self, resume: Resume | None = None) -> None:
        self.token_ids = array("I", resume.token_ids if resume else ())
        self.num_brought = len(self.token_ids)
        """The number of leading tokens that the client had when it sent the turn."""
        self.is_resumed = resume is not None
        self.resumed = max(resume.resumed, min(self.num_brought, 1)) if resume else 0
        """As in `Usage`."""
        self.workers = (
            WorkerId(resume.prefill_worker if resume else ""),
            WorkerId(resume.decode_worker if resume else ""),
        )
        """The prefill and decode worker of the earlier run, as far as the client knows."""

    @classmethod
    def of(cls, resume: Resume | None, spec: TurnSpec, prompts: PromptBuilder) -> AnsweredTokens:
        """`resume`: what the client of a resumed turn brings back. Raises InvalidRequest if that
        cannot be the start of this turn's answer."""
        if resume is None:
            return cls()
        token_ids, most = resume.token_ids, spec.stop.max_tokens
        vocab_size = prompts.config.vocab_size
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
        state = _replayed(token_ids, spec, prompts.tokenizer)
        if state.num_tokens < len(token_ids):
            raise InvalidRequest.at(
                "resume.token_ids",
                f"expected the start of one answer, got {len(token_ids)} tokens, but the answer "
                f"ends after {state.num_tokens}: send the tokens as they were received",
            )
        return cls(resume)

    @property
    def has_new(self) -> bool:
        """Whether the client got tokens from this run of the turn."""
        return len(self.token_ids) > self.num_brought

    def add(self, token_ids: Iterable[int]) -> None:
        self.token_ids.extend(token_ids)

    def rest_of(self, spec: TurnSpec) -> TurnSpec:
        """The rest of the turn, from the first token that the client lacks."""
        if not self.token_ids:
            return spec
        # The client has the prompt's log-probabilities: they precede the first tokens.
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
        return self.end(spec, state.finish, state.stop_match)

    def end(self, spec: TurnSpec, reason: FinishReason, stop_match: str = "") -> TurnEnd:
        """An end that no worker reported: the turn was cancelled, or its worker was lost after the
        last token."""
        usage = Usage(
            prompt_tokens=spec.num_prompt,
            completion_tokens=len(self.token_ids),
            resumed=self.resumed,
        )
        return TurnEnd(finish_reason=reason, usage=usage, stop_match=stop_match)


def _replayed(
    token_ids: Iterable[int], spec: TurnSpec, tokenizer: TokenBytes | None
) -> AnswerState:
    state = AnswerState(stop=spec.stop, tokenizer=tokenizer)
    state.replay(token_ids)
    return state
