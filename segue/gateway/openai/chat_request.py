"""`POST /v1/chat/completions`: the request, and its turns."""

from __future__ import annotations

from typing import Any

from segue.api.errors import InvalidRequest
from segue.api.types import MAX_LOGPROBS, ChatInput
from segue.gateway.forms import form_of
from segue.gateway.http.door import Visit
from segue.gateway.http.fields import honoured, ignored, refused
from segue.gateway.openai.options import CallOptions, Options, effort_kwargs
from segue.gateway.turns import GenerationRequest
from segue.sdk.chat_json import read_message, read_tools, to_json


class ChatRequest(Options, CallOptions):
    messages: list[dict[str, Any]] = honoured(
        "Roles system, developer, user, assistant and tool; content as text or a list of text "
        "parts; `tool_calls`, `tool_call_id`, `name`, and `reasoning` or `reasoning_content`. "
        "Images and audio are refused.",
        ...,
        min_length=1,
    )
    max_completion_tokens: int | None = honoured("The same as `max_tokens`, and wins.", ge=1)
    max_tokens: int | None = honoured("Absent: what context and memory allow.", ge=1)
    tools: list[dict[str, Any]] | None = honoured("Functions only.")
    logprobs: bool | None = honoured("Of all tokens, reasoning and end tokens included.")
    top_logprobs: int | None = honoured(f"Up to {MAX_LOGPROBS}.", ge=0, le=MAX_LOGPROBS)
    reasoning_effort: str | None = honoured(
        "`none` turns thinking off, any other turns it on; minimal and low, medium, and high and "
        "above are three efforts to templates that know them. `chat_template_kwargs` win."
    )
    chat_template_kwargs: dict[str, Any] | None = honoured(
        "Variables of the chat template, such as `enable_thinking`."
    )
    include_reasoning: bool | None = honoured("If false, the reasoning is not sent.")
    continue_final_message: bool | str | None = honoured(
        "The answer continues the last message: true, or the name of the field."
    )
    add_generation_prompt: bool | None = honoured(
        "If false, the prompt ends after the last message."
    )
    modalities: Any = refused("only text is served: leave it out", ["text"])
    audio: Any = refused("only text is served: leave it out")
    functions: Any = refused("use `tools`", [])
    function_call: Any = refused("use `tool_choice`", "none", "auto")
    web_search_options: Any = refused("there is no web search: leave it out")
    chat_template: Any = refused("the checkpoint's template is used: leave it out")
    documents: Any = refused("put documents into the messages", [])
    prediction: Any = ignored("The model drafts by itself.")
    verbosity: Any = ignored("")

    def wanted(self, visit: Visit, max_choices: int, max_turns: int = 0) -> GenerationRequest:
        """Raises InvalidRequest."""
        max_tokens = self.max_completion_tokens or self.max_tokens
        chat = self.chat()
        form = form_of(self.formats(), self.calls(), has_tools=bool(chat.tools))
        return GenerationRequest(
            inputs=(chat,) * self.num_choices(1, max_choices, max_turns),
            sampling=self.sampling(self._num_logprobs()),
            stop=self.stop_conditions(max_tokens),
            hint=visit.session_hint(self.prompt_cache_key),
            cache_salt=self.cache_salt or "",
            priority=self.priority or 0,
            form=form,
            tools=chat.tools if form.may_call else (),
            is_single=self.is_single,
        )

    def chat(self) -> ChatInput:
        """Raises InvalidRequest."""
        continued = self.continue_final_message or False
        if continued and self.add_generation_prompt:
            raise InvalidRequest.at(
                "add_generation_prompt",
                "expected no start of an answer with continue_final_message: leave one of them out",
            )
        kwargs = {
            **effort_kwargs(self.reasoning_effort, "reasoning_effort"),
            **(self.chat_template_kwargs or {}),
        }
        if continued in (True, "content") and self.messages[-1].get("content") in (None, "", []):
            raise InvalidRequest.at(
                f"messages[{len(self.messages) - 1}].content",
                "expected content to continue, got none: send the start of the answer there, or "
                "leave out continue_final_message",
            )
        return ChatInput(
            messages=tuple(
                read_message(one, f"messages[{index}]") for index, one in enumerate(self.messages)
            ),
            tools=read_tools(self.tools or ()),
            chat_template_kwargs=to_json(kwargs) if kwargs else "",
            continue_final_message=continued,
            add_generation_prompt=self.add_generation_prompt is not False,
        )

    def _num_logprobs(self) -> int | None:
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise InvalidRequest.at(
                "top_logprobs", "expected logprobs to be true with it: set both"
            )
        return None
