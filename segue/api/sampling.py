"""Sampling parameters and stop conditions, as clients send them and as workers receive them.

A client may leave fields unset (`SamplingParams`, `StopConditions`). The router fills them in, from
the checkpoint first, so that workers get every value (`Sampling`, `StopRules`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from segue.api.checks import require, require_number, require_type, require_whole
from segue.api.messages import require_text

MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 1024
"""Every delta of an answer is compared with each stop string."""
MAX_LOGPROBS = 20
MAX_PROMPT_LOGPROBS = 1 << 18
"""Most log-probabilities of one prompt: its tokens, times one and the alternatives of each."""
# What the wire holds.
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
    """The same for each token of the prompt, all of which is then computed."""

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
    for name in ("top_k", "seed", "logprobs", "prompt_logprobs"):
        if getattr(params, name) is not None:
            require_whole(name, getattr(params, name))
    require(params.top_p is None or params.top_p > 0.0, "top_p must be above 0, got 0")
    require(
        params.top_k is None or params.top_k >= 0,
        f"top_k must be >= 0 (0 keeps every token), got {params.top_k}",
    )
    require(
        params.top_k is None or params.top_k <= _MAX_INT,
        f"top_k must be at most {_MAX_INT}, got {params.top_k}",
    )
    require_type("logit_bias", params.logit_bias, Mapping, "a dictionary from token ids to numbers")
    for token_id, bias in params.logit_bias.items():
        require_whole("a token id of logit_bias", token_id)
        require(token_id >= 0, f"logit_bias token ids must be >= 0, got {token_id}")
        require(
            token_id <= _MAX_TOKEN_ID,
            f"logit_bias token ids must be at most {_MAX_TOKEN_ID}, got {token_id}",
        )
        require_number(f"logit_bias[{token_id}]", bias, -100.0, 100.0)
    require(
        params.seed is None or 0 <= params.seed < 2**63,
        f"seed must be in [0, 2**63), got {params.seed}",
    )
    for name in ("logprobs", "prompt_logprobs"):
        number = getattr(params, name)
        require(
            number is None or 0 <= number <= MAX_LOGPROBS,
            f"{name} must be between 0 and {MAX_LOGPROBS}, got {number}",
        )


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
    if stop.max_tokens is not None:
        require_whole("max_tokens", stop.max_tokens)
        require(stop.max_tokens >= 1, f"max_tokens must be >= 1, got {stop.max_tokens}")
        require(
            stop.max_tokens <= _MAX_INT,
            f"max_tokens must be at most {_MAX_INT}, got {stop.max_tokens}",
        )
    require_whole("min_tokens", stop.min_tokens)
    require(stop.min_tokens >= 0, f"min_tokens must be >= 0, got {stop.min_tokens}")
    require(
        stop.min_tokens <= (_MAX_INT if stop.max_tokens is None else stop.max_tokens),
        f"min_tokens must be at most max_tokens ({stop.max_tokens}), got {stop.min_tokens}",
    )
    for name, example in (("stop_strings", '("\\n",)'), ("stop_token_ids", "(5,)")):
        values = getattr(stop, name)
        require_type(name, values, (list, tuple), f"a tuple or list such as {example}")
    for token_id in stop.stop_token_ids:
        require_whole("a token id of stop_token_ids", token_id)
    require(
        len(stop.stop_strings) <= MAX_STOP_STRINGS,
        f"stop_strings must have at most {MAX_STOP_STRINGS} items, got {len(stop.stop_strings)}",
    )
    for text in stop.stop_strings:
        require_text("a stop string", text)
        require(
            len(text) <= MAX_STOP_STRING_CHARS,
            f"a stop string must have at most {MAX_STOP_STRING_CHARS} characters, has {len(text)}",
        )
    require(all(stop.stop_strings), "a stop string must not be empty")
    require(
        all(0 <= t <= _MAX_TOKEN_ID for t in stop.stop_token_ids),
        f"stop_token_ids must be >= 0 and at most {_MAX_TOKEN_ID}",
    )
