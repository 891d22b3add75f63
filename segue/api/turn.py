"""A running turn and its end: the events for its client, and the messages between workers.

Plain values, like those in `types`.
"""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass

from segue.api.checks import (
    MAX_NAME_CHARS,
    MAX_SESSION_CHARS,
    require,
    require_ascending,
    require_label,
    require_name,
)
from segue.api.prompt import Prompt
from segue.api.types import (
    Epoch,
    Grammar,
    SampledToken,
    Sampling,
    SessionId,
    StopRules,
    TurnId,
    WorkerId,
)
from segue.api.types import PromptLogprobs as PromptLogprobs

MAX_BRANCH_POINTS = 1024


class FinishReason(enum.StrEnum):
    STOP = "stop"
    """An end-of-sequence token, a stop token id or a stop string."""
    LENGTH = "length"
    """`max_tokens` or the model's context."""
    CANCELLED = "cancelled"
    """The client cancelled it with the `Cancel` call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A turn's consumption."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens taken from a prefix cache and not computed."""
    resident_tokens: int = 0
    """Prompt tokens that were already on the decode worker and not shipped."""
    completion_tokens: int = 0
    shipped_bytes: int = 0
    """From prefill to decode."""
    pulled_tokens: int = 0
    """Prompt tokens that prefill pulled from another worker; `cached_tokens` excludes them."""
    pulled_bytes: int = 0
    drafted_tokens: int = 0
    """Tokens drafted by the model's MTP layer."""
    accepted_tokens: int = 0
    """Drafted tokens that the model accepted."""
    rerendered_tokens: int = 0
    """Tokens of the last turn's prompt and answer, from the first one that the template rendered
    differently in this turn. Their memory cannot be reused."""
    reasoning_tokens: int = 0
    """Completion tokens up to the end of the reasoning."""
    resumed: int = 0
    """How often the answer continued elsewhere, because its worker was lost or its client resumed
    it. Prompt and answer count once; the cached, resident, pulled, shipped and drafted amounts are
    those of the last run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """A turn's time by stage. Stages may overlap: transfer runs during prefill. For a resumed turn,
    the times of its last run."""

    queue_s: float = 0.0
    """From the router's receipt to the start of the prefill computation."""
    prefill_s: float = 0.0
    transfer_s: float = 0.0
    """Time during which bytes were moving."""
    exposed_transfer_s: float = 0.0
    """The part that compute did not hide: from the last computed layer to the commit."""
    first_token_s: float = 0.0
    """From the router's receipt until it sent the first token."""
    decode_s: float = 0.0
    """From the first token to the last."""
    router_s: float = 0.0
    """From the router's receipt to the workers' receipt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """One or more tokens of an answer, with the text that they complete."""

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
    """The number of messages that the router stores for the session's next turn to continue: all of
    this turn's, or 0."""

    @property
    def is_whole(self) -> bool:
        """Whether the answer ended itself, or at a closing stop string such as </tool_call>."""
        stopped = self.finish_reason is FinishReason.STOP
        return stopped and (not self.stop_match or self.stop_match.lstrip().startswith("</"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted:
    """The turn is placed, and a worker computes its prompt. Sent again if the turn is retried
    before its first token.
    """

    session_id: SessionId
    turn_id: TurnId
    prompt_tokens: int
    prefill_worker: str
    """The decode worker if it computes the prompt's suffix itself; the same in `TurnEnd`."""
    decode_worker: str
    starts_in_reasoning: bool = False
    """The prompt ends inside reasoning: the template opens it, or the client continues it."""
    tool_call_parser: str = "auto"
    reasoning_parser: str = "auto"
    """The names of the answer's parsers in `segue.answers`."""
    seed: int = 0
    max_tokens: int = 0
    """The longest answer, in tokens. A resumed turn sends this and the seed again."""


TurnEvent = TurnStarted | PromptLogprobs | TokenDelta | TurnEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSpec:
    """One turn as the workers see it: tokens, not messages."""

    turn_id: TurnId
    session_id: SessionId
    context: Prompt
    """All tokens before the next one: the prompt, and the answer so far."""
    sampling: Sampling
    stop: StopRules
    branch_points: tuple[int, ...] = ()
    """Positions in the prompt, ascending, at which the prompts of other conversations, or of this
    one's next turn, may branch off. Checkpoints are useful there."""
    num_answered: int = 0
    """The number of tokens at the end of `context` that are this turn's answer from an earlier
    worker. The turn continues after them and counts them as its own."""
    grammar: Grammar | None = None
    """Restricts the answer's tokens."""

    def __post_init__(self) -> None:
        # The router adds a suffix to the client's turn_id.
        require_name("turn_id", self.turn_id, max_chars=2 * MAX_NAME_CHARS)
        require_label("session_id", self.session_id, max_chars=MAX_SESSION_CHARS)
        require(bool(self.context), "expected a prompt of at least one token, got an empty one")
        require(
            0 <= self.num_answered < min(len(self.context), self.stop.max_tokens),
            f"num_answered must leave a prompt and be below max_tokens ({self.stop.max_tokens}), "
            f"got {self.num_answered} of {len(self.context)} tokens",
        )
        require(
            len(self.branch_points) <= MAX_BRANCH_POINTS,
            f"a turn must have at most {MAX_BRANCH_POINTS} branch points, got "
            f"{len(self.branch_points)}",
        )
        require_ascending("branch points", self.branch_points, low=0, high=self.num_prompt)

    @property
    def scores_prompt(self) -> bool:
        """The turn needs its prompt's log-probabilities, so the whole prompt is computed: cached
        tokens have no logits."""
        return self.sampling.prompt_logprobs is not None

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
        """The largest number of tokens of prompt and answer together."""
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
    """The prefill worker's measurements of a turn."""

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
    """The longest prefix of the prompt whose state the prefill worker retains."""
    kept_states: tuple[int, ...] = ()
    """The prefixes of the prompt whose states it retains and the next turn can use, ascending: that
    turn may branch off before this one's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillOutcome:
    """The result of a prefill besides its memory; sent with the commit."""

    first_token: SampledToken
    report: ShipReport


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """Decode's result for a turn: the last event of its stream."""

    finish_reason: FinishReason
    usage: Usage
    report: ShipReport
    decode_s: float
    stop_match: str = ""
    kept_tokens: int = 0
    """Tokens of prompt and answer whose pages the decode worker retains."""
    kept_checkpoint_tokens: int = 0
    """The longest prefix of them whose state it retains."""
    kept_states: tuple[int, ...] = ()
    """As in `ShipReport`, but for the decode worker, and for prompt and answer."""


@dataclass(frozen=True, slots=True)
class PrefillStarted:
    """The decode worker has room for the turn and computes the part of its prompt that it lacks."""

    computed_tokens: int


@dataclass(frozen=True, slots=True)
class ComputedOnDecode:
    """The decode worker computes the part of the prompt that it lacks, up to `max_tokens`."""

    max_tokens: int
