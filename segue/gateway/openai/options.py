"""Fields that requests of OpenAI's APIs share: sampling, stop conditions, counts, calls, effort."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from segue.api.checks import what_came
from segue.api.errors import InvalidRequest
from segue.api.types import (
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_PROMPT_LOGPROBS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    SamplingParams,
    StopConditions,
    ToolCalls,
)
from segue.gateway.forms import EXTENSIONS, Form, guided, json_format, structured_outputs
from segue.gateway.http.fields import StopString, TurnBody, honoured, ignored, refused

EFFORTS = {
    "none": None,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "xhigh",
    "xhigh": "xhigh",
    "max": "xhigh",
}
"""`reasoning_effort` for Qwen3.8's template. Other templates ignore it."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class CallOptions(TurnBody):
    """Fields of chat completions and responses about tool calls."""

    tool_choice: Any = honoured(
        "`auto`, the default; `none`, with which the tools stay in the prompt, so that its cached "
        "prefix stays, and calls count as text; `required` or a named function: the answer is "
        "calls, each valid by its schema. `allowed_tools` is refused."
    )
    parallel_tool_calls: bool | None = honoured("If false, an answer ends after its first call.")

    @property
    def is_single(self) -> bool:
        return self.parallel_tool_calls is False

    def calls(self) -> str | ToolCalls:
        """auto, none, or the forced calls. Raises InvalidRequest."""
        match self.tool_choice:
            case None | "auto":
                return "auto"
            case "none":
                return "none"
            case "required":
                return ToolCalls(is_single=self.is_single)
            case {"type": "function", "function": {"name": str(name)}}:
                return ToolCalls(name, is_single=self.is_single)
            case {"type": "function", "name": str(name)}:
                return ToolCalls(name, is_single=self.is_single)
            case _:
                raise InvalidRequest.at(
                    "tool_choice",
                    'expected "auto", "none", "required" or a named function, got '
                    f"{what_came(self.tool_choice)}",
                )


class Options(TurnBody):
    stream_options: dict[str, Any] | None = honoured(
        "`include_usage`: a last event with the usage. Other members are ignored."
    )
    n: int | None = honoured(
        "The number of answers, each a turn with its own seed. The first one computes the prompt.",
        ge=1,
    )
    top_k: int | None = honoured("0 and -1 keep every token.", ge=-1)
    min_p: float | None = honoured("")
    repetition_penalty: float | None = honoured("Over prompt and answer.")
    presence_penalty: float | None = honoured("")
    frequency_penalty: float | None = honoured("")
    logit_bias: dict[str, float] | None = honoured(
        f"From up to {MAX_LOGIT_BIAS} token ids to -100 to 100.", max_length=MAX_LOGIT_BIAS
    )
    seed: int | None = honoured("The same seed and request give the same tokens.")
    stop: Annotated[list[StopString] | None, BeforeValidator(_as_list)] = honoured(
        f"A text, or up to {MAX_STOP_STRINGS}.", max_length=MAX_STOP_STRINGS
    )
    stop_token_ids: list[int] | None = honoured(
        f"Up to {MAX_STOP_TOKEN_IDS}, added to the checkpoint's end tokens.",
        max_length=MAX_STOP_TOKEN_IDS,
    )
    ignore_eos: bool | None = honoured("Ignores the checkpoint's end tokens.")
    min_tokens: int | None = honoured(
        "Before it, stop tokens are not drawn, and stop texts do not end the answer.", ge=0
    )
    return_token_ids: bool | None = honoured(
        "`prompt_token_ids`, and `token_ids` of each choice, as in vLLM."
    )
    prompt_logprobs: int | None = honoured(
        f"vLLM's: the number of alternatives, up to {MAX_LOGPROBS}, for each token of the prompt. "
        "Not with `stream`. The whole prompt is computed, whatever is cached of it; its tokens, "
        f"times one and the alternatives, are at most {MAX_PROMPT_LOGPROBS}.",
        ge=0,
        le=MAX_LOGPROBS,
    )
    user: Any = ignored("")
    metadata: Any = ignored("")
    store: Any = ignored("Nothing is stored.")
    safety_identifier: Any = ignored("")
    prompt_cache_retention: Any = ignored("")
    prompt_cache_key: str | None = honoured("A hint for finding the conversation's session.")
    skip_special_tokens: Any = refused("special tokens have no text: leave it out", True)
    include_stop_str_in_output: Any = refused("stop strings are not shown: leave it out", False)
    response_format: Any = honoured(
        "`text`, `json_object` or `json_schema`, which is enforced whether `strict` or not."
    )
    structured_outputs: Any = honoured(f"As in vLLM: one of {EXTENSIONS}.")
    guided_json: Any = honoured("A JSON schema, or its text. As in older vLLM, like the next ones.")
    guided_regex: Any = honoured("The whole answer matches it.")
    guided_choice: Any = honoured("A list of texts.")
    guided_grammar: Any = honoured("EBNF in the form of llama.cpp (GBNF).")
    best_of: Any = refused("expected no more than 1: use `n`", 1)
    use_beam_search: Any = refused("beam search is not served: leave it out", False)
    allowed_token_ids: Any = refused("not served: use `logit_bias`", [])
    bad_words: Any = refused("not served: use `logit_bias`", [])
    truncate_prompt_tokens: Any = refused("prompts are not cut: shorten it", -1)

    @property
    def has_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))

    def num_choices(self, num_prompts: int, max_choices: int, max_turns: int) -> int:
        """For each prompt. `max_turns`: the tenant's, 0 for no limit. Raises InvalidRequest."""
        num = self.n or 1
        for most, setting in (
            (max_choices, "[gateway] max_choices"),
            (max_turns, "the tenant's max_turns"),
        ):
            if most and num * num_prompts > most:
                raise InvalidRequest.at(
                    "n",
                    f"expected at most {most} answers, got {num * num_prompts}: send several "
                    f"requests, or raise {setting}",
                )
        return num

    def sampling(self, num_logprobs: int | None) -> SamplingParams:
        """Raises InvalidRequest."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=0 if self.top_k == -1 else self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=_token_ids(self.logit_bias or {}),
            # OpenAI's may be negative.
            seed=None if self.seed is None else self.seed % 2**63,
            logprobs=num_logprobs,
            prompt_logprobs=self.num_prompt_logprobs(),
        )

    def num_prompt_logprobs(self) -> int | None:
        """Raises InvalidRequest."""
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequest.at(
                "prompt_logprobs", "expected no stream with it: leave out one of the two"
            )
        return self.prompt_logprobs

    def formats(self) -> list[Form | None]:
        """Raises InvalidRequest."""
        return [
            json_format(self.response_format, "response_format", inside="json_schema"),
            structured_outputs(self.structured_outputs),
            guided("json", self.guided_json),
            guided("regex", self.guided_regex),
            guided("choice", self.guided_choice),
            guided("grammar", self.guided_grammar),
        ]

    def stop_conditions(self, max_tokens: int | None) -> StopConditions:
        """Raises InvalidRequest."""
        if max_tokens is not None and (self.min_tokens or 0) > max_tokens:
            raise InvalidRequest.at(
                "min_tokens", f"expected at most max_tokens ({max_tokens}), got {self.min_tokens}"
            )
        return StopConditions(
            max_tokens=max_tokens,
            stop_strings=tuple(self.stop or ()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            min_tokens=self.min_tokens or 0,
        )


def _token_ids(logit_bias: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token_id): bias for token_id, bias in logit_bias.items()}
    except ValueError:
        raise InvalidRequest.at(
            "logit_bias", f"expected token ids as names, got {list(logit_bias)[:8]}"
        ) from None


def effort_kwargs(effort: object, field: str) -> dict[str, object]:
    """The template's variables for an effort; none for None. Raises InvalidRequest."""
    if effort is None:
        return {}
    if not isinstance(effort, str) or effort not in EFFORTS:
        raise InvalidRequest.at(field, f"expected one of {', '.join(EFFORTS)}, got {effort!r:.80}")
    known = EFFORTS[effort]
    if known is None:
        return {"enable_thinking": False}
    return {"enable_thinking": True, "reasoning_effort": known}
