"""Sampling parameters and stop conditions, as clients send them and as workers receive them.

A client may leave fields unset (`SamplingParams`, `StopConditions`). The router fills them in, from
the checkpoint first, so that workers get every value (`Sampling`, `StopRules`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from segue.api.checks import (
    require,
    require_count,
    require_few,
    require_number,
    require_type,
    require_whole,
)
from segue.api.errors import InvalidRequest
from segue.api.messages import require_text

MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 1024
"""Every delta of an answer is compared with each stop string."""
MAX_STOP_TOKEN_IDS = 1024
"""A client's; the router adds the checkpoint's."""
MAX_LOGIT_BIAS = 4096
MAX_LOGPROBS = 20
MAX_PROMPT_LOGPROBS = 1 << 18
"""Most log-probabilities of one prompt: for each token, its own and those of the alternatives."""
# Limits of the wire's types.
_MAX_INT = 2**31 - 1
_MAX_TOKEN_ID = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """A client's sampling parameters. A field that is None is unset: it gets its value from the
    checkpoint's `generation_config.json`, or else the neutral value of `Sampling`.
    """

    temperature: float | None = None
    """0 is greedy."""
    top_k: int | None = None
    """0 keeps every token."""
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    """Without a seed, the router draws one for each turn."""
    logprobs: int | None = None
    """The number of alternatives to report besides the chosen token; None reports nothing."""
    prompt_logprobs: int | None = None
    """The same for each token of the prompt, which is then computed as a whole."""

    def __post_init__(self) -> None:
        _check_sampling(self)

    def resolved(self, defaults: SamplingParams | None = None) -> Sampling:
        """These values, then those of `defaults`, then the neutral ones."""
        given: dict[str, Any] = {}
        for params in (defaults, self):
            if params is not None:
                stated = ((name, getattr(params, name)) for name in _NAMES)
                given.update((name, value) for name, value in stated if value not in (None, {}))
        return Sampling(**given)


_NAMES = tuple(f.name for f in fields(SamplingParams))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample the next token of a turn: `SamplingParams` with every field set.

    Order of application: logit bias, penalties, temperature, top-k, top-p, min-p, Gumbel-max.
    """

    temperature: float = 0.0
    top_k: int = 0
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
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        _check_sampling(self)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0


_BOUNDS = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}


def _check_sampling(params: SamplingParams | Sampling) -> None:
    for name, (low, high) in _BOUNDS.items():
        value = getattr(params, name)
        if value is not None:
            require_number(name, value, low, high)
    require(params.top_p is None or params.top_p > 0.0, "top_p must be above 0, got 0")
    _require_integer("top_k (0 keeps every token)", params.top_k, high=_MAX_INT)
    _require_integer("seed", params.seed, high=2**63 - 1)
    for name in ("logprobs", "prompt_logprobs"):
        _require_integer(name, getattr(params, name), high=MAX_LOGPROBS)
    require_type("logit_bias", params.logit_bias, Mapping, "a dictionary from token ids to numbers")
    require_few("logit_bias", params.logit_bias, MAX_LOGIT_BIAS)
    for token_id, bias in params.logit_bias.items():
        _require_integer("a token id of logit_bias", token_id, high=_MAX_TOKEN_ID)
        require_number(f"logit_bias[{token_id}]", bias, -100.0, 100.0)


def _require_integer(name: str, value: int | None, *, low: int = 0, high: int) -> None:
    """None passes."""
    if value is not None:
        require_whole(name, value)
        require_count(name, value, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopConditions:
    """A client's stop conditions."""

    max_tokens: int | None = None
    """None: as long as the model's context, and the memory for one answer, allow."""
    stop_strings: tuple[str, ...] = ()
    """The answer ends before the first of these; the stop string itself is not shown."""
    stop_token_ids: tuple[int, ...] = ()
    """Added to the checkpoint's end tokens. The token counts, but its text is hidden."""
    ignore_eos: bool = False
    min_tokens: int = 0
    """Before this many tokens, stop tokens are not drawn, and stop strings are ordinary text."""

    def __post_init__(self) -> None:
        _check_stop(self)
        require_few("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKEN_IDS)
        require_type("ignore_eos", self.ignore_eos, bool, "True or False")


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """When to end the answer of a turn: `StopConditions` with every field set."""

    max_tokens: int
    """Already limited to the context and to what a decode worker can hold."""
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    """All stop tokens, including the checkpoint's end tokens."""
    min_tokens: int = 0
    """At most `max_tokens`."""

    def __post_init__(self) -> None:
        _check_stop(self)


def _check_stop(stop: StopConditions | StopRules) -> None:
    _require_integer("max_tokens", stop.max_tokens, low=1, high=_MAX_INT)
    _require_integer("min_tokens", stop.min_tokens, high=_MAX_INT)
    require(
        stop.max_tokens is None or stop.min_tokens <= stop.max_tokens,
        f"min_tokens must be at most max_tokens ({stop.max_tokens}), got {stop.min_tokens}",
    )
    for name, example in (("stop_strings", '("\\n",)'), ("stop_token_ids", "(5,)")):
        values = getattr(stop, name)
        require_type(name, values, (list, tuple), f"a tuple or list such as {example}")
    require_few("stop_strings", stop.stop_strings, MAX_STOP_STRINGS)
    for index, token_id in enumerate(stop.stop_token_ids):
        _require_integer(f"stop_token_ids[{index}]", token_id, high=_MAX_TOKEN_ID)
    for index, text in enumerate(stop.stop_strings):
        name = f"stop_strings[{index}]"
        require_text(name, text)
        if not 1 <= len(text) <= MAX_STOP_STRING_CHARS:
            raise InvalidRequest.at(
                name, f"expected 1 to {MAX_STOP_STRING_CHARS} characters, got {len(text)}"
            )
