"""A turn under way and at its end: what its client hears, what workers tell each other of it.

Plain values, as those of `types`.
"""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass

from segue.checks import (
    MAX_NAME_CHARS,
    require,
    require_ascending,
    require_label,
    require_name,
)
from segue.prompt import Prompt
from segue.types import (
    Epoch,
    SampledToken,
    Sampling,
    SessionId,
    StopRules,
    TurnId,
    WorkerId,
)

MAX_BRANCH_POINTS = 1024


class FinishReason(enum.StrEnum):
    STOP = "stop"
    """An end-of-sequence token, a stop token id or a stop string."""
    LENGTH = "length"
    """`max_tokens` or the model's context."""
    CANCELLED = "cancelled"
    """The caller asked for it, on another call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a turn consumed."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, taken from a prefix cache and not computed."""
    resident_tokens: int = 0
    """Of the prompt, already on the decode worker and not shipped."""
    completion_tokens: int = 0
    shipped_bytes: int = 0
    """From prefill to decode."""
    pulled_tokens: int = 0
    """Of the prompt, brought to prefill from a worker that held them; none of them are cached."""
    pulled_bytes: int = 0
    drafted_tokens: int = 0
    """Guessed ahead by the model's MTP layer."""
    accepted_tokens: int = 0
    """Of these, the model's own tokens."""
    rerendered_tokens: int = 0
    """Of the last turn's prompt and answer, what the template rendered differently this time: the
    tokens from the first difference on, of which no memory can be used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where a turn's time went. Parts may overlap: transfer runs under prefill."""

    queue_s: float = 0.0
    """From the router's receipt until prefill began to compute."""
    prefill_s: float = 0.0
    transfer_s: float = 0.0
    """Time in which bytes were moving."""
    exposed_transfer_s: float = 0.0
    """The part of it that prefill did not hide: from the last computed layer to the commit."""
    first_token_s: float = 0.0
    """From the router's receipt to its sending of the first token."""
    decode_s: float = 0.0
    """From the first token to the last."""
    router_s: float = 0.0
    """From the router's receipt to the workers' receipt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """One or more tokens of an answer, with the text that became certain with them."""

    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[SampledToken, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnd:
    """The last event of a turn."""

    finish_reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()
    prefill_worker: str = ""
    decode_worker: str = ""
    stop_match: str = ""
    """The stop string that ended the answer, if one did."""
    kept_messages: int = 0
    """The router keeps so many messages, which are all that this turn was given; a next turn of
    the session may continue them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """The turn is placed and its prompt is being computed. Comes again if it had to be moved."""

    session_id: SessionId
    turn_id: TurnId
    prompt_tokens: int
    prefill_worker: str
    """The decode worker where it computes the prompt's end itself; so in `TurnEnd`."""
    decode_worker: str


TurnEvent = TurnStarted | TokenDelta | TurnEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSpec:
    """One turn as the workers see it: tokens, not messages."""

    turn_id: TurnId
    session_id: SessionId
    context: Prompt
    """All tokens that the next one follows: the prompt, and what exists of its answer."""
    sampling: Sampling
    stop: StopRules
    branch_points: tuple[int, ...] = ()
    """Positions in the prompt, ascending, at which others may part from it: other conversations,
    and this one's next turn. States are worth keeping before them."""
    num_answered: int = 0
    """The last tokens of `context` are this answer's, from an earlier worker: the turn continues
    after them, and counts them as its own."""

    def __post_init__(self) -> None:
        # The router adds something to the name that the client gave.
        require_name("turn_id", self.turn_id, max_chars=2 * MAX_NAME_CHARS)
        require_label("session_id", self.session_id)
        require(bool(self.context), "expected a prompt of at least one token, got an empty one")
        require(
            0 <= self.num_answered < min(len(self.context), self.stop.max_tokens),
            f"num_answered must leave a prompt and be below max_tokens ({self.stop.max_tokens}), "
            f"got {self.num_answered} of {len(self.context)} tokens",
        )
        require(
            len(self.branch_points) <= MAX_BRANCH_POINTS,
            f"at most {MAX_BRANCH_POINTS} branch points, got {len(self.branch_points)}",
        )
        require_ascending("branch points", self.branch_points, low=0, high=self.num_prompt)

    @property
    def num_prompt(self) -> int:
        return len(self.context) - self.num_answered

    @property
    def prompt_ids(self) -> array[int]:
        return self.context.tokens[: self.num_prompt]

    @property
    def answered_ids(self) -> array[int]:
        return self.context.tokens[self.num_prompt :]

    @property
    def max_context(self) -> int:
        """The most tokens that prompt and answer can have together."""
        return self.num_prompt + self.stop.max_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixHolder:
    """A worker that can ship a prefix of a prompt: its pages, and the state after it."""

    worker_id: WorkerId
    epoch: Epoch
    address: str
    checkpoint_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipReport:
    """What prefill did for a turn, measured by the prefill worker."""

    shipped_bytes: int = 0
    cached_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    transfer_s: float = 0.0
    exposed_transfer_s: float = 0.0
    computed_tokens: int = 0
    pulled_tokens: int = 0
    pulled_bytes: int = 0
    pull_s: float = 0.0
    kept_tokens: int = 0
    """The longest prefix of the prompt of which a state stays on the prefill worker."""
    kept_states: tuple[int, ...] = ()
    """The prefixes of the prompt whose states stay there and are of use to a next turn, ascending:
    it may part from this one before the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillOutcome:
    """What a prefill worker made of a prompt, apart from its memory: sent with the commit."""

    first_token: SampledToken
    report: ShipReport


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """How decode ended a turn: the last event of its stream."""

    finish_reason: FinishReason
    usage: Usage
    report: ShipReport
    decode_s: float
    stop_match: str = ""
    kept_tokens: int = 0
    """Pages of so many tokens of prompt and answer stay on the decode worker."""
    kept_checkpoint_tokens: int = 0
    """The deepest state among them."""
    kept_states: tuple[int, ...] = ()
    """As in `ShipReport`, on the decode worker, and with the answer."""
