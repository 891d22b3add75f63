"""Continues an assistant message that the client started: the prompt ends inside it.

A mark is appended to the field that stays open, the template runs, and the prompt is cut at the
mark. `transformers` does the same for `continue_final_message`, but our mark cannot occur in a
client's text.
"""

from __future__ import annotations

from typing import cast

from segue.api.errors import InvalidRequest
from segue.text.conversation import Conversation, Json, JsonObject
from segue.text.template.shield import END_MARK, ControlMarks

_REASONING = ("reasoning_content", "thinking")
# A template that trims removes the space; then the prompt is trimmed as well.
_END = END_MARK + " "


def open_last_message(messages: list[JsonObject], field: str, source: str) -> list[JsonObject]:
    """Appends the mark to `field` of the last message. Raises InvalidRequest if it has none."""
    last = dict(messages[-1])
    fields = _REASONING if field in _REASONING else (field,)
    if last.get(field) is None or not any(name in source for name in fields):
        what = f"the chat template does not read {field}" if field in last else "it has none"
        raise InvalidRequest(
            f"expected a last message with {field} to be continued, but {what}: send the start "
            "of the answer there, or leave continue_final_message out"
        )
    for name in fields:
        last[name] = _open(last[name])
    return [*messages[:-1], last]


def cut_at_end(text: str, conversation: Conversation, marks: ControlMarks) -> str:
    """The prompt up to the mark. Raises InvalidRequest if the template left the message out."""
    at = text.rfind(END_MARK)
    start = _text(conversation.messages[-1][conversation.continued_field]).strip()
    if at < 0 or start not in marks.expand(text):
        raise InvalidRequest(
            "the last message cannot be continued: the chat template writes it differently, or "
            f"leaves {conversation.continued_field} out of it"
        )
    # Some templates write a field twice.
    kept = text[:at].replace(_END, "").replace(END_MARK, "")
    return kept if text.startswith(_END, at) else kept.rstrip()


def _open(value: Json) -> Json:
    if isinstance(value, list):
        part = cast("JsonObject", value[-1])
        return [*value[:-1], {**part, "text": cast("str", part["text"]) + _END}]
    return cast("str", value) + _END


def _text(value: Json) -> str:
    if isinstance(value, list):
        return cast("str", cast("JsonObject", value[-1])["text"])
    return cast("str", value)
