"""`POST /v1/messages` and `/v1/messages/count_tokens`: the request, and its turn."""

from __future__ import annotations

from typing import Any

from segue.api.errors import InvalidRequest
from segue.api.types import (
    MAX_STOP_STRINGS,
    ChatInput,
    SamplingParams,
    StopConditions,
    ToolCalls,
)
from segue.gateway.anthropic.blocks import chat_messages, system_message
from segue.gateway.forms import Form, form_of, json_format
from segue.gateway.http.door import Visit
from segue.gateway.http.fields import Body, StopString, TurnBody, honoured, ignored, member, refused
from segue.gateway.openai.options import EFFORTS
from segue.gateway.turns import GenerationRequest
from segue.sdk.chat_json import to_json


class CountRequest(Body):
    messages: list[dict[str, Any]] = honoured(
        "Roles user, assistant and, anywhere, system. Blocks text, tool_use, tool_result, "
        "thinking; redacted_thinking is ignored. Other blocks are refused.",
        ...,
        min_length=1,
    )
    system: Any = honoured(
        "A text or blocks of text. Claude Code's billing block, which changes with each turn, is "
        "left out."
    )
    tools: list[dict[str, Any]] | None = honoured(
        "With `input_schema`. Anthropic's own, such as web_search, are refused."
    )
    tool_choice: dict[str, Any] | None = honoured(
        "`auto` and `none`; `any` and `tool`, with which the answer is calls, each valid by its "
        "schema. With `disable_parallel_tool_use`, at most one call."
    )
    thinking: dict[str, Any] | None = honoured(
        "`enabled` (the budget is ignored), `disabled`, which is the default, or `adaptive`: as "
        "the checkpoint's template has it."
    )
    output_config: dict[str, Any] | None = honoured(
        "`effort`, for templates that know efforts. `format`: `json_schema`."
    )
    context_management: Any = ignored("The context is the messages.")
    cache_control: Any = ignored("Also in blocks and tools: everything is cached.")
    betas: Any = ignored("")
    mcp_servers: Any = refused("tools run at the client: leave it out", [])

    def chat(self) -> ChatInput:
        """Raises InvalidRequest."""
        messages = (*system_message(self.system), *chat_messages(self.messages))
        last = messages[-1] if messages else None
        kwargs = {**self._thinking(), **self._effort()}
        return ChatInput(
            messages=messages,
            tools=tuple(_tool(index, tool) for index, tool in enumerate(self.tools or ())),
            chat_template_kwargs=to_json(kwargs) if kwargs else "",
            # An assistant message at the end is the start of the answer.
            continue_final_message=(
                last is not None and last.role == "assistant" and not last.tool_calls
            ),
        )

    def form(self) -> Form:
        """Raises InvalidRequest."""
        asked = json_format((self.output_config or {}).get("format"), "output_config.format")
        return form_of([asked], self._choice(), has_tools=bool(self.tools))

    @property
    def calls_once(self) -> bool:
        return (self.tool_choice or {}).get("disable_parallel_tool_use") is True

    def _choice(self) -> str | ToolCalls:
        match self.tool_choice or {"type": "auto"}:
            case {"type": "auto" | "none" as kind}:
                return str(kind)
            case {"type": "any"}:
                return ToolCalls(is_single=self.calls_once)
            case {"type": "tool", "name": str(name)}:
                return ToolCalls(name, is_single=self.calls_once)
            case choice:
                raise InvalidRequest.at(
                    "tool_choice",
                    f"expected the type auto, none, any, or tool with a name, got {choice!r:.80}",
                )

    def _thinking(self) -> dict[str, object]:
        kind = (self.thinking or {}).get("type", "disabled")
        if kind not in ("enabled", "disabled", "adaptive"):
            raise InvalidRequest.at(
                "thinking.type", f"expected enabled, disabled or adaptive, got {kind!r:.80}"
            )
        return {} if kind == "adaptive" else {"enable_thinking": kind == "enabled"}

    def _effort(self) -> dict[str, object]:
        config = self.output_config or {}
        effort = config.get("effort")
        if effort is None:
            return {}
        if not isinstance(effort, str) or EFFORTS.get(effort) is None:
            known = ", ".join(name for name, known in EFFORTS.items() if known)
            raise InvalidRequest.at(
                "output_config.effort", f"expected one of {known}, got {effort!r:.80}"
            )
        return {"reasoning_effort": EFFORTS[effort]}


class MessagesRequest(TurnBody, CountRequest):
    max_tokens: int = honoured("Of the answer, thinking included.", ..., ge=1)
    top_k: int | None = honoured("0 keeps every token.")
    stop_sequences: list[StopString] | None = honoured(
        f"Up to {MAX_STOP_STRINGS}.", max_length=MAX_STOP_STRINGS
    )
    metadata: Any = ignored("")
    inference_geo: Any = ignored("")
    speed: Any = ignored("")
    container: Any = refused("code is not run here: leave it out")

    def wanted(self, visit: Visit) -> GenerationRequest:
        """Raises InvalidRequest."""
        chat = self.chat()
        form = self.form()
        return GenerationRequest(
            inputs=(chat,),
            sampling=SamplingParams(
                temperature=self.temperature, top_p=self.top_p, top_k=self.top_k
            ),
            stop=StopConditions(
                max_tokens=self.max_tokens, stop_strings=tuple(self.stop_sequences or ())
            ),
            hint=visit.session_hint(),
            cache_salt=self.cache_salt or "",
            priority=self.priority or 0,
            form=form,
            tools=chat.tools if form.may_call else (),
            is_single=self.calls_once,
        )


def _tool(index: int, tool: dict[str, Any]) -> str:
    """The tool in OpenAI's form, which templates render."""
    where = f"tools[{index}]"
    if tool.get("type", "custom") not in ("custom", None):
        raise InvalidRequest.at(
            f"{where}.type",
            f"expected a tool of the client's own, got {tool['type']!r:.80}: Anthropic's tools are "
            "not served",
        )
    schema = member(tool, "input_schema", dict, where)
    described = {name: tool[name] for name in ("name", "description") if name in tool}
    return to_json({"type": "function", "function": {**described, "parameters": schema}})
