"""The parts of a chat: messages, tool calls, and the template's options.

Values validate themselves. Every text is valid Unicode: later code relies on that, from gRPC to the
marks that stand for control tokens (`segue/text/template/shield.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from segue.api.checks import require_type, what_came
from segue.api.errors import InvalidRequest

CONTINUED_FIELDS = {
    "content": "content",
    "reasoning": "reasoning_content",
    "reasoning_content": "reasoning_content",
    "thinking": "reasoning_content",
}
"""The names that a client may use for the field to continue, and the templates' name for each."""


THINK_START, THINK_END = "<think>", "</think>"


def require_text(name: str, value: object) -> None:
    """Raises InvalidRequest unless `value` is text that UTF-8 can express."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a text, got {what_came(value)}")
    # Almost all text is ASCII, which Python knows without a scan.
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{name} must be valid Unicode, got half of a surrogate pair "
            f"(\\u{ord(value[error.start]):04x}) at character {error.start}: send whole characters"
        ) from None


def _require_many(name: str, values: object, kind: type, expected: str) -> None:
    """Raises InvalidRequest unless `values` are a list or tuple of that kind."""
    if not isinstance(values, list | tuple):
        raise InvalidRequest(f"{name} must be a tuple of {expected}, got {what_came(values)}")
    for index, value in enumerate(values):
        if not isinstance(value, kind):
            raise InvalidRequest(
                f"{name} must be a tuple of {expected}, got at index {index} {what_came(value)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool call of an assistant message.

    `arguments` is the text of a JSON object; empty text and `null` mean the empty object.
    """

    name: str
    arguments: str
    call_id: str = ""

    def __post_init__(self) -> None:
        for field in ("name", "arguments", "call_id"):
            require_text(f"{field} of a tool call", getattr(self, field))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message. Roles: system, developer, user, assistant, tool."""

    role: str
    content: str = ""
    content_parts: tuple[str, ...] = ()
    """The texts of a content that is a list, in place of `content`; templates may treat it
    differently."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    reasoning: str | None = None
    """The assistant's reasoning. Empty means that there was none. None means that it is unknown;
    then some templates look for it in `content`."""

    def __post_init__(self) -> None:
        for field in ("role", "content", "tool_call_id", "name"):
            require_text(f"{field} of a message", getattr(self, field))
        _require_many("content_parts of a message", self.content_parts, str, "texts")
        _require_many("tool_calls of a message", self.tool_calls, ToolCall, "ToolCalls")
        for part in self.content_parts:
            require_text("a part of a message's content", part)
        if self.reasoning is not None:
            require_text("reasoning of a message", self.reasoning)
        if self.content and self.content_parts:
            raise InvalidRequest(
                "a message must have content or content_parts, got both: send one of them"
            )

    def texts(self) -> Iterator[str]:
        """All texts of the message, whose length determines the cost of rendering it."""
        yield from (self.role, self.content, self.tool_call_id, self.name, self.reasoning or "")
        yield from self.content_parts
        for call in self.tool_calls:
            yield from (call.call_id, call.name, call.arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """The start of a conversation, which the router stores and adds to the turn."""

    num_messages: int
    digest: bytes
    """The digest of tools, template options and these messages (`segue/api/history.py`)."""

    def __post_init__(self) -> None:
        if self.num_messages < 1:
            raise InvalidRequest(
                f"num_messages of a continued history must be at least 1, got {self.num_messages}: "
                "without a history, send all messages"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatInput:
    """Messages for the checkpoint's chat template. Each of `tools` is the text of a JSON object."""

    messages: tuple[Message, ...]
    tools: tuple[str, ...] = ()
    enable_thinking: bool | None = None
    """None uses the template's default."""
    chat_template_kwargs: str = ""
    """The text of a JSON object: further variables of the template, such as Qwen's
    `preserve_thinking`, `reasoning_effort` and `add_vision_id`. Empty means the empty object."""
    continue_final_message: bool | str = False
    """The answer continues the last message, which stays open. A text names the open field:
    `content` (like True) or `reasoning`."""
    add_generation_prompt: bool = True
    """False ends the prompt after the last message, without the template's start of an answer."""
    continues: Continuation | None = None
    """If set, `messages` follow this history, and tools and options are the history's."""

    def __post_init__(self) -> None:
        _require_many("messages", self.messages, Message, "Messages")
        _require_many("tools", self.tools, str, "JSON texts")
        require_type(
            "enable_thinking", self.enable_thinking, (bool, type(None)), "True, False or None"
        )
        require_type("add_generation_prompt", self.add_generation_prompt, bool, "True or False")
        for tool in self.tools:
            require_text("a tool", tool)
        require_text("chat_template_kwargs", self.chat_template_kwargs)
        named = self.continue_final_message
        # 1 equals True.
        if not isinstance(named, bool | str) or named not in (False, True, "", *CONTINUED_FIELDS):
            raise InvalidRequest(
                "continue_final_message must be true, false or the name of a field "
                f"({', '.join(CONTINUED_FIELDS)}), got {named!r:.80}"
            )
        has_options = self.enable_thinking is not None or self.chat_template_kwargs
        if self.continues is not None and (self.tools or has_options):
            raise InvalidRequest(
                "a turn that continues a history takes tools, enable_thinking and "
                "chat_template_kwargs from it: omit them, or send the whole history to change them"
            )

    @property
    def continued_field(self) -> str:
        """The last message's open field, by the templates' name; empty if the message is
        complete."""
        named = self.continue_final_message
        return CONTINUED_FIELDS["content" if named is True else named] if named else ""

    def texts(self) -> Iterator[str]:
        """All texts that the client sent."""
        yield from self.tools
        yield self.chat_template_kwargs
        for message in self.messages:
            yield from message.texts()
