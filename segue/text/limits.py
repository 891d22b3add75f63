"""Validates a turn for the model that serves it: ids inside the vocabulary, room for an answer.

`segue.api.types` has already rejected what no model could serve. No torch here: the router checks
before it calls any worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segue.api.errors import ContextOverflow, InvalidRequest
from segue.api.types import (
    MAX_PROMPT_LOGPROBS,
    ChatInput,
    Sampling,
    StopConditions,
    StopRules,
    TextInput,
    TokenInput,
    TurnInput,
)

# Rendering a message costs about as much as rendering and tokenising this many characters.
_CHARACTERS_PER_MESSAGE = 32
# The template may leave part of the input out; trying this much takes about a second.
_ALWAYS_TRIED_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLimits:
    """Rejects oversized input before any work on it, by counting characters."""

    max_bytes: int
    """The configured limit. It is compared with characters, of which there are never more than
    bytes."""
    max_context: int
    longest_token: int
    """In bytes: no token has more characters."""

    def validate(self, turn_input: TurnInput, characters_before: int = 0) -> None:
        """`characters_before` counts the history that the input continues.

        All characters count, even those that a template may leave out. Raises ContextOverflow.
        """
        if isinstance(turn_input, TokenInput):
            return
        num = characters_before + num_characters(turn_input)
        # A short context may have a long history, most of which the template leaves out.
        fitting = max(self.max_context * self.longest_token, _ALWAYS_TRIED_CHARACTERS)
        if num > fitting:
            raise ContextOverflow(
                f"the prompt is too long: {num} characters, but the model's context of "
                f"{self.max_context} tokens of at most {self.longest_token} characters holds no "
                f"more than {fitting}: shorten the messages"
            )
        if num > self.max_bytes:
            raise ContextOverflow(
                f"the prompt is too long: {num} characters, but the router accepts at most "
                f"{self.max_bytes}: shorten the messages, or raise [router] max_prompt_bytes"
            )

    def validate_num_items(self, num_items: int) -> None:
        """Each needs at least a token, and time to be read. Raises ContextOverflow."""
        if num_items > self.max_context:
            raise ContextOverflow(
                f"the prompt is too long: {num_items} messages, parts, tool calls and tools, but "
                f"the model's context is {self.max_context} tokens: leave out the oldest"
            )


def num_characters(turn_input: TurnInput, *, first: int = 0) -> int:
    """The characters to render and tokenise, from message `first` on."""
    match turn_input:
        case ChatInput(messages=messages):
            new = messages[first:]
            options = [*turn_input.tools, turn_input.chat_template_kwargs] if not first else []
            return sum(map(len, options)) + sum(len(text) for one in new for text in one.texts())
        case TextInput(text):
            return len(text)
        case TokenInput():
            return 0


def work_of(turn_input: TurnInput, *, first: int = 0) -> int:
    """The cost of rendering and tokenising, in characters: even an empty message takes time."""
    num = num_characters(turn_input, first=first)
    if isinstance(turn_input, ChatInput):
        num += _CHARACTERS_PER_MESSAGE * (len(turn_input.messages) - first)
    return num


def validate_against_vocab(
    params: Sampling, stop: StopConditions | StopRules, vocab_size: int
) -> None:
    """Raises InvalidRequest for token ids that the model does not have."""
    for token_id in params.logit_bias:
        _require_in_vocab("logit_bias", token_id, vocab_size)
    for token_id in stop.stop_token_ids:
        _require_in_vocab("stop_token_ids", token_id, vocab_size)


def validate_prompt(token_ids: Sequence[int], vocab_size: int, field: str = "prompt") -> None:
    """Raises InvalidRequest for ids outside the vocabulary."""
    # Two passes in C; the position is only searched for when there is an error.
    if min(token_ids) < 0 or max(token_ids) >= vocab_size:
        index = next(i for i, token_id in enumerate(token_ids) if not 0 <= token_id < vocab_size)
        _require_in_vocab(f"{field}[{index}]", token_ids[index], vocab_size)


def validate_prompt_logprobs(num_tokens: int, params: Sampling) -> None:
    """Raises InvalidRequest."""
    if params.prompt_logprobs is None:
        return
    num = num_tokens * (1 + params.prompt_logprobs)
    if num > MAX_PROMPT_LOGPROBS:
        raise InvalidRequest(
            f"a prompt of {num_tokens} tokens with {params.prompt_logprobs} alternatives for each "
            f"has {num} log-probabilities, but at most {MAX_PROMPT_LOGPROBS} are reported: ask for "
            "fewer alternatives, or shorten the prompt"
        )


def validate_length(num_tokens: int, max_context: int) -> None:
    """Raises InvalidRequest if empty, ContextOverflow if there is no room for an answer token."""
    if not num_tokens:
        raise InvalidRequest.at("prompt", "expected at least one token, got none")
    if num_tokens + 1 > max_context:
        raise ContextOverflow(
            f"the prompt is too long: {num_tokens} tokens > {max_context - 1} maximum, since the "
            f"model's context is {max_context} tokens and the answer has at least one: shorten the "
            "prompt"
        )


def _require_in_vocab(field: str, token_id: int, vocab_size: int) -> None:
    if not 0 <= token_id < vocab_size:
        raise InvalidRequest.at(
            field, f"expected ids of the model's tokens, 0 to {vocab_size - 1}, got {token_id}"
        )
