"""The types that all parts share: ids, requests, sampled tokens.

Plain values, without torch or gRPC. Every value is valid: `__post_init__` refuses invalid ones.
"""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass, field
from typing import NewType, get_args

from segue.api.checks import (
    MAX_SESSION_CHARS,
    require,
    require_count,
    require_label,
    require_type,
    require_whole,
)
from segue.api.messages import ChatInput as ChatInput
from segue.api.messages import Continuation as Continuation
from segue.api.messages import Message as Message
from segue.api.messages import ToolCall as ToolCall
from segue.api.messages import require_text
from segue.api.output import Choice as Choice
from segue.api.output import Ebnf as Ebnf
from segue.api.output import Grammar as Grammar
from segue.api.output import JsonObject as JsonObject
from segue.api.output import JsonSchema as JsonSchema
from segue.api.output import OutputFormat as OutputFormat
from segue.api.output import Regex as Regex
from segue.api.output import ToolCalls as ToolCalls
from segue.api.sampling import MAX_LOGIT_BIAS as MAX_LOGIT_BIAS
from segue.api.sampling import MAX_LOGPROBS as MAX_LOGPROBS
from segue.api.sampling import MAX_PROMPT_LOGPROBS as MAX_PROMPT_LOGPROBS
from segue.api.sampling import MAX_STOP_STRING_CHARS as MAX_STOP_STRING_CHARS
from segue.api.sampling import MAX_STOP_STRINGS as MAX_STOP_STRINGS
from segue.api.sampling import MAX_STOP_TOKEN_IDS as MAX_STOP_TOKEN_IDS
from segue.api.sampling import Sampling as Sampling
from segue.api.sampling import SamplingParams as SamplingParams
from segue.api.sampling import StopConditions as StopConditions
from segue.api.sampling import StopRules as StopRules

MAX_PRIORITY = 1_000_000
"""Priorities are between -MAX_PRIORITY and MAX_PRIORITY."""

TurnId = NewType("TurnId", str)
SessionId = NewType("SessionId", str)
WorkerId = NewType("WorkerId", str)
PageId = NewType("PageId", int)
SlotId = NewType("SlotId", int)
Epoch = NewType("Epoch", int)
"""Identifies one life of a worker process. Each later life of a worker has a greater epoch."""


class Role(enum.StrEnum):
    """The role of a worker process."""

    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token's log-probability in the distribution before temperature and filters."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """One sampled token, with its log-probability and the best alternatives if requested."""

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLogprobs:
    """The log-probabilities of a prompt's n tokens. Sent once, before the first TokenDelta.

    Arrays, because there may be 250,000 numbers, which pass through the router.
    """

    token_ids: array[int]
    """The whole prompt."""
    logprobs: array[float]
    """Of each token but the first, given those before it: n - 1."""
    ranks: array[int]
    """1 if no token was likelier: n - 1."""
    num_top: int
    top_ids: array[int]
    """The likeliest tokens in place of each but the first, best first: (n - 1) * num_top."""
    top_logprobs: array[float]

    def __post_init__(self) -> None:
        num = max(len(self.token_ids) - 1, 0)
        for name, expected in (
            ("logprobs", num),
            ("ranks", num),
            ("top_ids", num * self.num_top),
            ("top_logprobs", num * self.num_top),
        ):
            require(
                len(getattr(self, name)) == expected,
                f"a prompt of {len(self.token_ids)} tokens with {self.num_top} alternatives must "
                f"have {expected} {name}, got {len(getattr(self, name))}",
            )

    def tokens(self, num_top: int | None = None) -> list[SampledToken]:
        """The prompt's tokens in the form of an answer's, with at most `num_top` alternatives. The
        first has no log-probability."""
        shown = self.num_top if num_top is None else min(num_top, self.num_top)
        tokens = [SampledToken(token_id=token_id) for token_id in self.token_ids[:1]]
        for index, logprob in enumerate(self.logprobs):
            first = index * self.num_top
            best = zip(
                self.top_ids[first : first + shown],
                self.top_logprobs[first : first + shown],
                strict=True,
            )
            tokens.append(
                SampledToken(
                    token_id=self.token_ids[index + 1],
                    logprob=logprob,
                    top_logprobs=tuple(TokenLogprob(token_id=t, logprob=p) for t, p in best),
                )
            )
        return tokens


@dataclass(frozen=True, slots=True)
class Detokenized:
    """The text of token ids."""

    text: str
    """Without special tokens."""
    tokens: tuple[bytes, ...]
    """The bytes of each token's text, which may be part of a character; a special token's name."""


@dataclass(frozen=True, slots=True)
class TextInput:
    text: str

    def __post_init__(self) -> None:
        require_text("the prompt", self.text)


@dataclass(frozen=True, slots=True)
class TokenInput:
    token_ids: tuple[int, ...]


TurnInput = ChatInput | TextInput | TokenInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """The client's state of a turn after the stream of its answer broke."""

    token_ids: tuple[int, ...] = ()
    """The answer's tokens that it has received."""
    resumed: int = 0
    """How often the answer was resumed, this time included."""
    prefill_worker: str = ""
    """The turn's last workers, which may still hold most of it."""
    decode_worker: str = ""

    def __post_init__(self) -> None:
        require_count("resume.resumed", self.resumed)
        require_label("resume.prefill_worker", self.prefill_worker)
        require_label("resume.decode_worker", self.decode_worker)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """A client's request for one turn."""

    session_id: SessionId
    """If empty, the session is not retained."""
    turn_id: TurnId
    input: TurnInput
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: StopConditions = field(default_factory=StopConditions)
    session_hint: str | None = None
    """If set, replaces `session_id`: the router finds the session that the chat continues, or
    starts one. The text is the client's own name for the conversation, or empty."""
    cache_salt: str = ""
    """Cached prefixes are shared only among turns with the same salt."""
    priority: int = 0
    """Waiting turns with lower values start first."""
    salt: bytes = b""
    """The salt of the prompt's pages, which the router derives from the tenant and `cache_salt`."""
    output: OutputFormat | None = None
    """The required form of the answer; None allows any."""
    resume: Resume | None = None
    """If set, the turn was sent before, and continues after the client's last token."""

    def __post_init__(self) -> None:
        require_type(
            "a turn's input",
            self.input,
            (ChatInput, TextInput, TokenInput),
            "a ChatInput, a TextInput or a TokenInput",
        )
        require_type("sampling", self.sampling, SamplingParams, "SamplingParams")
        require_type("stop", self.stop, StopConditions, "StopConditions")
        if self.output is not None:
            require_type(
                "output", self.output, get_args(OutputFormat), "a format such as JsonObject()"
            )
            require_type("or_tool_calls", self.output.or_tool_calls, bool, "True or False")
        require_label("session_id", self.session_id, max_chars=MAX_SESSION_CHARS)
        require_label("turn_id", self.turn_id)
        require_label("cache_salt", self.cache_salt)
        require_whole("priority", self.priority)
        require_count("priority", self.priority, low=-MAX_PRIORITY, high=MAX_PRIORITY)
        if self.session_hint is not None:
            require_label("session_hint", self.session_hint)
            require(
                not self.session_id or self.resume is not None,
                "a turn names its session (session_id) or lets the router find it (session_hint), "
                "not both",
            )
        continues = isinstance(self.input, ChatInput) and self.input.continues is not None
        require(
            bool(self.session_id) or not continues,
            "a turn that continues a history needs the session_id of that history",
        )
