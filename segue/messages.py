"""What a chat is made of: messages, calls of tools, and the options of the template.

Values validate themselves. Every text is valid Unicode: what follows relies on it, from gRPC to the
marks that stand for control tokens (`segue/text/shield.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from segue.checks import require_type, what_came
from segue.errors import InvalidRequest

CONTINUED_FIELDS = {
    "content": "content",
    "reasoning": "reasoning_content",
    "reasoning_content": "reasoning_content",
    "thinking": "reasoning_content",
}
"""What a client may name as the field to continue, and what templates call it."""


THINK_START, THINK_END = "<think>", "</think>"


def split_reasoning(text: str) -> tuple[str, str]:
    """What was thought and what was said, in an answer that began with a thought. Without an end
    of it, all was thought."""
    thought, _, said = text.partition(THINK_END)
    return thought.strip("\n").removeprefix(THINK_START).strip("\n"), said.lstrip("\n")


def require_text(name: str, value: object) -> None:
    """Raises InvalidRequest unless `value` is text that UTF-8 can express."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a text, got {what_came(value)}")
    # Almost all text is ASCII, which Python knows without looking.
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
    """A call that an assistant message made.

    `arguments` is a JSON object, as text; empty text and `null` are the empty object.
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
    """In place of `content`, the texts of a content that is a list; templates may treat it
    differently."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    reasoning: str | None = None
    """What the assistant thought. Empty means that it did not think; None, that it is not known,
    and then some templates look for it in `content`."""

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
                "a message has content or content_parts, got both: send one of them"
            )

    def texts(self) -> Iterator[str]:
        """All that a client wrote in it: what it costs to render."""
        yield from (self.role, self.content, self.tool_call_id, self.name, self.reasoning or "")
        yield from self.content_parts
        for call in self.tool_calls:
            yield from (call.call_id, call.name, call.arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """The beginning of a conversation, which the router is asked to add: it kept it."""

    num_messages: int
    digest: bytes
    """Of tools, template options and these messages (`segue/history.py`)."""

    def __post_init__(self) -> None:
        if self.num_messages < 1:
            raise InvalidRequest(
                f"a turn continues a history of at least one message, got {self.num_messages}: "
                "without one, send all messages"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatInput:
    """Messages for the checkpoint's chat template. `tools` are JSON objects, as text."""

    messages: tuple[Message, ...]
    tools: tuple[str, ...] = ()
    enable_thinking: bool | None = None
    """None leaves it to the template."""
    chat_template_kwargs: str = ""
    """A JSON object, as text: further variables of the template, such as `preserve_thinking`,
    `reasoning_effort` and `add_vision_id` of Qwen's. Empty is the empty object."""
    continue_final_message: bool | str = False
    """The answer goes on from the end of the last message, which stays open. A text names the
    field that is open, `content` (as True does) or `reasoning`."""
    continues: Continuation | None = None
    """If set, `messages` are what follows this history; tools and options are the history's."""

    def __post_init__(self) -> None:
        _require_many("messages", self.messages, Message, "Messages")
        _require_many("tools", self.tools, str, "JSON texts")
        require_type(
            "enable_thinking", self.enable_thinking, (bool, type(None)), "True, False or None"
        )
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
                "chat_template_kwargs from it: leave them out, or send the whole history to "
                "change them"
            )

    @property
    def continued_field(self) -> str:
        """Of the last message, as templates call it; empty when the last message is whole."""
        named = self.continue_final_message
        return CONTINUED_FIELDS["content" if named is True else named] if named else ""

    def texts(self) -> Iterator[str]:
        """All that a client wrote in it."""
        yield from self.tools
        yield self.chat_template_kwargs
        for message in self.messages:
            yield from message.texts()
