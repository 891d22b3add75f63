"""The vocabulary that every part shares: ids, what a client asks for, how tokens are drawn.

Plain values, no torch, no gRPC. A value that exists is valid: `__post_init__` refuses the rest.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

from segue.checks import require, require_label, require_number

TurnId = NewType("TurnId", str)
SessionId = NewType("SessionId", str)
WorkerId = NewType("WorkerId", str)
PageId = NewType("PageId", int)
SlotId = NewType("SlotId", int)
Epoch = NewType("Epoch", int)
"""A worker's life. Two lives of one worker never share it; a later life has a greater one."""

MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 1024
"""Every delta of an answer is held against each of them."""
MAX_LOGPROBS = 20


class Role(enum.StrEnum):
    """What a worker process does."""

    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn. `temperature == 0` is greedy.

    Order of application: logit bias, penalties, temperature, top-k, top-p, min-p, Gumbel-max.
    """

    temperature: float = 0.0
    top_k: int = 0
    """0 keeps every token."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and answer; divides positive logits, multiplies negative ones."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """Presence and frequency count the answer only."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    logprobs: int | None = None
    """How many alternatives to report beside the chosen token; None reports nothing."""

    def __post_init__(self) -> None:
        require_number("temperature", self.temperature, 0.0, 100.0)
        require(self.top_k >= 0, f"top_k must be >= 0 (0 keeps every token), got {self.top_k}")
        require_number("top_p", self.top_p, 0.0, 1.0)
        require(self.top_p > 0.0, "top_p must be above 0, got 0")
        require_number("min_p", self.min_p, 0.0, 1.0)
        require_number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        require_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        require_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        for token_id, bias in self.logit_bias.items():
            require(token_id >= 0, f"logit_bias token ids must be >= 0, got {token_id}")
            require_number(f"logit_bias[{token_id}]", bias, -100.0, 100.0)
        require(0 <= self.seed < 2**63, f"seed must be in [0, 2**63), got {self.seed}")
        if self.logprobs is not None:
            require(
                0 <= self.logprobs <= MAX_LOGPROBS,
                f"logprobs must be between 0 and {MAX_LOGPROBS}, got {self.logprobs}",
            )

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopConditions:
    """When an answer ends."""

    max_tokens: int = 256
    stop_strings: tuple[str, ...] = ()
    """The answer ends before the first of these; the string itself is not shown."""
    stop_token_ids: tuple[int, ...] = ()
    """In addition to the checkpoint's end-of-sequence ids. The token counts, its text is hidden."""
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        require(self.max_tokens >= 1, f"max_tokens must be >= 1, got {self.max_tokens}")
        require(
            len(self.stop_strings) <= MAX_STOP_STRINGS,
            f"at most {MAX_STOP_STRINGS} stop strings, got {len(self.stop_strings)}",
        )
        require(all(self.stop_strings), "a stop string must not be empty")
        longest = max(map(len, self.stop_strings), default=0)
        require(
            longest <= MAX_STOP_STRING_CHARS,
            f"a stop string must have at most {MAX_STOP_STRING_CHARS} characters, has {longest}",
        )
        require(all(t >= 0 for t in self.stop_token_ids), "stop_token_ids must be >= 0")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that an assistant message made. `arguments` is a JSON object, as text."""

    name: str
    arguments: str
    call_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message. Roles: system, user, assistant, tool."""

    role: str
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """The beginning of a conversation, which the router is asked to add: it kept it."""

    num_messages: int
    digest: bytes
    """Of tools, template options and these messages (`segue/history.py`)."""

    def __post_init__(self) -> None:
        require(
            self.num_messages >= 1,
            f"a turn continues a history of at least one message, got {self.num_messages}: "
            "without one, send all messages",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatInput:
    """Messages for the checkpoint's chat template. `tools` are JSON objects, as text."""

    messages: tuple[Message, ...]
    tools: tuple[str, ...] = ()
    enable_thinking: bool = False
    continues: Continuation | None = None
    """If set, `messages` are what follows this history; tools and options are the history's."""

    def __post_init__(self) -> None:
        require(
            self.continues is None or not (self.tools or self.enable_thinking),
            "a turn that continues a history takes tools and enable_thinking from it: leave them "
            "out, or send the whole history to change them",
        )


@dataclass(frozen=True, slots=True)
class TextInput:
    text: str


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
    sampling: SamplingParams = SamplingParams()
    stop: StopConditions = StopConditions()

    def __post_init__(self) -> None:
        require_label("session_id", self.session_id)
        require_label("turn_id", self.turn_id)
        continues = isinstance(self.input, ChatInput) and self.input.continues is not None
        require(
            bool(self.session_id) or not continues,
            "a turn that continues a history needs the session_id under which it was kept",
        )
