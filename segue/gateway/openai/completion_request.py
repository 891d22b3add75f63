"""`POST /v1/completions`: the request, and its turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segue.api.checks import what_came
from segue.api.errors import InvalidRequest
from segue.api.types import MAX_LOGPROBS, TextInput, TokenInput
from segue.gateway.forms import form_of
from segue.gateway.http.door import Visit
from segue.gateway.http.fields import honoured, ignored, refused
from segue.gateway.openai.options import Options
from segue.gateway.turns import GenerationRequest

_EXPECTED = "expected a text, token ids, or a list of texts or of lists of token ids"
_DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


class CompletionRequest(Options):
    prompt: Any = honoured(
        "A text, token ids, or a list of either. Control tokens in a text are read as such.", ...
    )
    max_tokens: int | None = honoured(
        f"Absent: {_DEFAULT_MAX_TOKENS}, as in OpenAI's API. 0 with `echo`: the prompt alone.", ge=0
    )
    echo: bool | None = honoured(
        "The prompt comes before the answer, with its `logprobs`, of which the first is null."
    )
    logprobs: int | None = honoured(
        f"The number of alternatives, up to {MAX_LOGPROBS}. With `echo`, as for `prompt_logprobs`, "
        "the whole prompt is computed.",
        ge=0,
        le=MAX_LOGPROBS,
    )
    add_special_tokens: Any = ignored("Nothing is added.")
    suffix: Any = refused("the model does not fill gaps: leave it out", "")

    def prompts(self) -> list[TextInput | TokenInput]:
        """Raises InvalidRequest."""
        prompt = self.prompt
        if isinstance(prompt, str) or _is_ids(prompt):
            return [_input(prompt, "prompt")]
        if not isinstance(prompt, list) or not prompt:
            raise InvalidRequest.at("prompt", f"{_EXPECTED}, got {what_came(prompt)}")
        return [_input(one, f"prompt[{index}]") for index, one in enumerate(prompt)]

    def wanted(
        self,
        prompts: Sequence[TextInput | TokenInput],
        visit: Visit,
        max_choices: int,
        max_turns: int = 0,
    ) -> GenerationRequest:
        """Raises InvalidRequest."""
        if self.is_prompt_alone and not self.echo:
            raise InvalidRequest.at(
                "max_tokens",
                "expected at least 1, or echo with it for the prompt alone, got 0",
            )
        # An answer has at least one token; CompletionAnswer drops it.
        max_tokens = 1 if self.is_prompt_alone else self.max_tokens or _DEFAULT_MAX_TOKENS
        num = self.num_choices(len(prompts), max_choices, max_turns)
        return GenerationRequest(
            inputs=tuple(prompt for prompt in prompts for _ in range(num)),
            sampling=self.sampling(self.logprobs),
            stop=self.stop_conditions(max_tokens),
            hint=visit.session_hint(self.prompt_cache_key),
            cache_salt=self.cache_salt or "",
            priority=self.priority or 0,
            form=form_of(self.formats(), "none", has_tools=False),
            is_chat=False,
        )

    @property
    def is_prompt_alone(self) -> bool:
        return self.max_tokens == 0

    def num_prompt_logprobs(self) -> int | None:
        """Raises InvalidRequest."""
        asked = super().num_prompt_logprobs(), self.logprobs if self.echo else None
        return max((num for num in asked if num is not None), default=None)


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _input(prompt: Any, where: str) -> TextInput | TokenInput:
    if isinstance(prompt, str):
        return TextInput(prompt)
    if _is_ids(prompt):
        if bad := [token_id for token_id in prompt if not 0 <= token_id < 2**32]:
            raise InvalidRequest.at(where, f"expected token ids, got {bad[0]}")
        return TokenInput(tuple(prompt))
    raise InvalidRequest.at(where, f"{_EXPECTED}, got {what_came(prompt)}")
