"""One turn's answer as it grows: its tokens, their text, and the reason why it ended.

    token ─ end token? ─┬ no ─ detokenise ─ stop string? ─ limit? ─▶ delta
                        └ yes: counted, its text hidden ──────────▶ last delta

Token ids are authoritative: each is delivered at once, exactly once. Text is held back while a
character is incomplete or a stop string may be forming. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from segue.api.errors import InvalidRequest
from segue.api.turn import FinishReason, TokenDelta
from segue.api.types import SampledToken, StopRules
from segue.text.tokens.detokenizer import Detokenizer, StopStringMatcher, TokenBytes


class AnswerState:
    """Takes sampled tokens, one or several at a time, until `finish` is set.

    The result depends only on the arguments and the tokens. To continue an answer on another
    worker, create a new object and `resume` it with the existing tokens.
    """

    def __init__(self, *, stop: StopRules, tokenizer: TokenBytes | None) -> None:
        """Without a tokenizer, deltas have no text and stop strings raise InvalidRequest."""
        if stop.stop_strings and tokenizer is None:
            raise InvalidRequest(
                "stop strings need text, and this model is served without a tokenizer: "
                "use stop_token_ids"
            )
        self.finish: FinishReason | None = None
        self.stop_match = ""
        self.num_tokens = 0
        self._max_tokens = stop.max_tokens
        self.end_ids = frozenset(stop.stop_token_ids)
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer)
        self._matcher = StopStringMatcher(stop.stop_strings)
        self._min_tokens = stop.min_tokens

    def resume(self, token_ids: Iterable[int]) -> None:
        """Counts existing tokens, whose text has already been delivered.

        Raises InvalidRequest if the answer ends at one of them.
        """
        self.replay(token_ids)
        if self.finish is not None:
            raise InvalidRequest(
                f"the answer to continue has already ended, after {self.num_tokens} tokens"
            )

    def replay(self, token_ids: Iterable[int]) -> None:
        """As `resume`, but the answer may end."""
        for token_id in token_ids:
            self._take(token_id)
            if self.finish is not None:
                return

    def push(self, tokens: Sequence[SampledToken]) -> TokenDelta:
        """Adds the next tokens. Tokens after the end are not part of the answer.

        `len(delta.token_ids)` is the number taken. Must not be called once `finish` is set.
        """
        assert self.finish is None
        taken, text = 0, ""
        for token in tokens:
            taken += 1
            text += self._take(token.token_id)
            if self.finish is not None:
                break
        return TokenDelta(
            token_ids=tuple(token.token_id for token in tokens[:taken]),
            text=text,
            logprobs=tuple(token for token in tokens[:taken] if token.logprob is not None),
        )

    def _take(self, token_id: int) -> str:
        self.num_tokens += 1
        if token_id in self.end_ids:
            return self._end(FinishReason.STOP)
        text = ""
        if self._detokenizer is not None:
            text = self._show(self._detokenizer.push(token_id))
        if self.finish is None and self.num_tokens >= self._max_tokens:
            text += self._end(FinishReason.LENGTH)
        return text

    def _show(self, text: str) -> str:
        """The part of `text` that may be shown. A stop string in it ends the answer, once it has
        `min_tokens`."""
        if self.num_tokens < self._min_tokens:
            return text
        safe, match = self._matcher.push(text)
        if match is not None:
            self.finish = FinishReason.STOP
            self.stop_match = match
        return safe

    def _end(self, reason: FinishReason) -> str:
        text = "" if self._detokenizer is None else self._show(self._detokenizer.flush())
        # Flushing an incomplete character yields text too, which may complete a stop string.
        if self.finish is None:
            self.finish = reason
        return text + self._matcher.flush()
