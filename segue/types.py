"""The vocabulary that every part shares: ids, what a client asks for, how tokens are drawn.

Plain values, no torch, no gRPC. A value that exists is valid: `__post_init__` refuses the rest.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NewType

from segue.checks import require, require_label, require_type
from segue.messages import ChatInput as ChatInput
from segue.messages import Continuation as Continuation
from segue.messages import Message as Message
from segue.messages import ToolCall as ToolCall
from segue.messages import require_text
from segue.sampling import MAX_LOGPROBS as MAX_LOGPROBS
from segue.sampling import MAX_STOP_STRINGS as MAX_STOP_STRINGS
from segue.sampling import Sampling as Sampling
from segue.sampling import SamplingParams as SamplingParams
from segue.sampling import StopConditions as StopConditions
from segue.sampling import StopRules as StopRules

TurnId = NewType("TurnId", str)
SessionId = NewType("SessionId", str)
WorkerId = NewType("WorkerId", str)
PageId = NewType("PageId", int)
SlotId = NewType("SlotId", int)
Epoch = NewType("Epoch", int)
"""A worker's life. Two lives of one worker never share it; a later life has a greater one."""


class Role(enum.StrEnum):
    """What a worker process does."""

    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """Log-probability of one token under the distribution before temperature and filters."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """One drawn token, with its log-probability and the best alternatives where asked for."""

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()


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
class TurnRequest:
    """What a client asks for."""

    session_id: SessionId
    """Empty for a turn that has no next one."""
    turn_id: TurnId
    input: TurnInput
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: StopConditions = field(default_factory=StopConditions)

    def __post_init__(self) -> None:
        require_type(
            "a turn's input",
            self.input,
            (ChatInput, TextInput, TokenInput),
            "a ChatInput, a TextInput or a TokenInput",
        )
        require_type("sampling", self.sampling, SamplingParams, "SamplingParams")
        require_type("stop", self.stop, StopConditions, "StopConditions")
        require_label("session_id", self.session_id)
        require_label("turn_id", self.turn_id)
        continues = isinstance(self.input, ChatInput) and self.input.continues is not None
        require(
            bool(self.session_id) or not continues,
            "a turn that continues a history needs the session_id under which it was kept",
        )
