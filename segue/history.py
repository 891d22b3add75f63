"""A conversation's beginning, named by a digest, so that a turn need send only what follows it.

Client and router compute the same: `D(n) = SHA-256(D(n-1) + message n)`, where `D(0)` is the
SHA-256 of the tools and the template's options. So one digest stands for all that a template
renders up to a message, and equal digests mean equal histories.

As bytes, a text is its length in UTF-8 (8 bytes, big-endian) and its UTF-8; a list is its length (8
bytes, big-endian) and its members, in order. `D(0)` is of the list of tools, of `enable_thinking`
as the text "true", "false" or "unset", and of the text `chat_template_kwargs` as it was sent. A
message is its role, content, list of content_parts, list of tool calls (each: id, name, arguments),
tool_call_id, name, and reasoning as a list of one text, or of none where it is absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from segue.types import ChatInput, Continuation, Message

_LENGTH_BYTES = 8
_THINKING = {None: "unset", True: "true", False: "false"}


def digests(chat: ChatInput) -> tuple[bytes, ...]:
    """D(1) to D(n) of a chat with all its n messages."""
    options = (_THINKING[chat.enable_thinking], chat.chat_template_kwargs)
    digest = hashlib.sha256(_length(chat.tools) + _texts(chat.tools) + _texts(options)).digest()
    chain = []
    for message in chat.messages:
        digest = hashlib.sha256(digest + _message(message)).digest()
        chain.append(digest)
    return tuple(chain)


def continuation(chat: ChatInput, num_kept: int) -> ChatInput:
    """The same chat, without its first `num_kept` messages, which the router is to add."""
    kept = Continuation(num_messages=num_kept, digest=digests(chat)[num_kept - 1])
    return ChatInput(
        messages=chat.messages[num_kept:],
        continue_final_message=chat.continue_final_message,
        continues=kept,
    )


def _message(message: Message) -> bytes:
    calls = ((call.call_id, call.name, call.arguments) for call in message.tool_calls)
    reasoning = () if message.reasoning is None else (message.reasoning,)
    return b"".join(
        (
            _texts((message.role, message.content)),
            _length(message.content_parts),
            _texts(message.content_parts),
            _length(message.tool_calls),
            *map(_texts, calls),
            _texts((message.tool_call_id, message.name)),
            _length(reasoning),
            _texts(reasoning),
        )
    )


def _texts(texts: Iterable[str]) -> bytes:
    encoded = [text.encode() for text in texts]
    return b"".join(_length(text) + text for text in encoded)


def _length(value: bytes | tuple[object, ...]) -> bytes:
    return len(value).to_bytes(_LENGTH_BYTES, "big")
