"""The request, and its turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from segue.api.errors import InvalidRequest
from segue.api.types import MAX_LOGPROBS, ChatInput, Message, SamplingParams, StopConditions
from segue.gateway.forms import form_of, json_format
from segue.gateway.http.door import Visit
from segue.gateway.http.fields import honoured, ignored, refused
from segue.gateway.openai.options import CallOptions, effort_kwargs
from segue.gateway.openai.responses.items import Item, chat_messages
from segue.gateway.openai.responses.tools import ResponseTools
from segue.gateway.turns import GenerationRequest
from segue.sdk.chat_json import to_json

_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"


def _as_items(value: object) -> object:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class ResponseRequest(CallOptions):
    input: Annotated[list[dict[str, Any]], BeforeValidator(_as_items)] = honoured(
        "A text, or items: messages of the roles user, assistant, system and developer, with "
        "content as text or a list of text parts; function_call, function_call_output and "
        "reasoning. Images and files, and references to stored items, are refused; other items "
        "are skipped.",
        ...,
    )
    instructions: str | None = honoured("The first system message.")
    tools: list[dict[str, Any]] | None = honoured(
        "Functions, and those in a `namespace`. Other tools, such as web_search, are skipped."
    )
    max_output_tokens: int | None = honoured(
        "Of the answer, reasoning included. Absent: what context and memory allow.", ge=1
    )
    include: list[str] | None = honoured(f"`{_LOGPROBS}` and `{_ENCRYPTED}`. Others are ignored.")
    top_logprobs: int | None = honoured(
        f"Up to {MAX_LOGPROBS}, with `{_LOGPROBS}` in `include`. A text has the log-probabilities "
        "of all tokens since the previous one, reasoning, calls and end tokens included.",
        ge=0,
        le=MAX_LOGPROBS,
    )
    reasoning: dict[str, Any] | None = honoured(
        "`effort`: `none` turns thinking off, any other turns it on; minimal and low, medium, and "
        "high and above are three efforts to templates that know them. `summary` is ignored."
    )
    text: dict[str, Any] | None = honoured(
        "`format`: `text`, `json_object` or `json_schema`, which is enforced whether `strict` or "
        "not. `verbosity` is ignored."
    )
    prompt_cache_key: str | None = honoured("A hint for finding the conversation's session.")
    previous_response_id: str | None = honoured(
        "The input goes on after that response, if a router still has it. Its instructions "
        "and tools do not carry over."
    )
    store: bool | None = honoured(
        "If false, the response cannot be continued by its id. The default is true."
    )
    metadata: dict[str, Any] | None = honoured("Comes back.")
    user: str | None = honoured("Comes back.")
    safety_identifier: str | None = honoured("Comes back.")
    stream_options: Any = ignored("Events are never obfuscated.")
    truncation: Any = ignored("Input that exceeds the context is refused.")
    max_tool_calls: Any = ignored("It counts calls of OpenAI's own tools.")
    client_metadata: Any = ignored("Codex's.")
    context_management: Any = ignored("The context is the input.")
    prompt_cache_options: Any = ignored("")
    prompt_cache_retention: Any = ignored("")
    conversation: Any = refused("use previous_response_id, or send the whole input")
    prompt: Any = refused("no prompts are stored: send instructions and input")
    background: Any = refused("leave it out, and keep the connection", False)

    @property
    def has_logprobs(self) -> bool:
        return _LOGPROBS in (self.include or ())

    @property
    def has_encrypted(self) -> bool:
        return _ENCRYPTED in (self.include or ())

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    def wanted(
        self, visit: Visit, tools: ResponseTools, before: Sequence[Item] = ()
    ) -> GenerationRequest:
        """`before`: the items of earlier responses in the conversation. Raises InvalidRequest."""
        formats = [json_format(self._format, "text.format")]
        form = form_of(formats, self.calls(), has_tools=bool(tools.texts))
        return GenerationRequest(
            inputs=(self._chat(tools, before),),
            sampling=SamplingParams(
                temperature=self.temperature, top_p=self.top_p, logprobs=self._num_logprobs()
            ),
            stop=StopConditions(max_tokens=self.max_output_tokens),
            hint=visit.session_hint(self.prompt_cache_key),
            cache_salt=self.cache_salt or "",
            priority=self.priority or 0,
            form=form,
            tools=tools.texts if form.may_call else (),
            is_single=self.is_single,
        )

    def echoed(self) -> dict[str, Any]:
        """The members of the response that repeat the request."""
        reasoning = self.reasoning or {}
        return {
            "background": False,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": None,
            "metadata": self.metadata or {},
            "parallel_tool_calls": not self.is_single,
            "previous_response_id": self.previous_response_id or None,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {"effort": reasoning.get("effort"), "summary": None},
            "safety_identifier": self.safety_identifier,
            "service_tier": "default",
            "store": self.is_stored,
            "temperature": self.temperature,
            "text": {"format": self._format or {"type": "text"}},
            "tool_choice": self.tool_choice or "auto",
            "tools": self.tools or [],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": self.top_p,
            "truncation": "disabled",
            "user": self.user,
        }

    def _chat(self, tools: ResponseTools, before: Sequence[Item]) -> ChatInput:
        first = [Message(role="system", content=self.instructions)] if self.instructions else []
        kwargs = effort_kwargs((self.reasoning or {}).get("effort"), "reasoning.effort")
        return ChatInput(
            messages=(*first, *chat_messages(self.input, before)),
            tools=tools.texts,
            chat_template_kwargs=to_json(kwargs) if kwargs else "",
        )

    @property
    def _format(self) -> Any:
        return (self.text or {}).get("format")

    def _num_logprobs(self) -> int | None:
        if self.has_logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise InvalidRequest.at(
                "top_logprobs", f"expected {_LOGPROBS} in include with it: add it, or leave it out"
            )
        return None
