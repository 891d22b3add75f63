"""Names the start of a conversation by a digest, so that a turn sends only later messages.

Client and router compute the same `D(n) = SHA-256(D(n-1) + message n)`, where `D(0)` is the SHA-256
of the tools and the template's options. A digest covers everything that a template renders up to a
message, and equal digests mean equal histories. The bytes are specified at the field
`Continuation.digest` in `proto/segue/v1/session.proto`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from segue.api.types import ChatInput, Continuation, Message

_LENGTH_BYTES = 8
_THINKING = {None: "unset", True: "true", False: "false"}


def digests(chat: ChatInput, known: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """D(1) to D(n) of a chat with all its n messages. `known` holds the first digests, if any."""
    digest = known[-1] if known else _options_digest(chat)
    chain = list(known)
    for message in chat.messages[len(chain) :]:
        digest = hashlib.sha256(digest + _message(message)).digest()
        chain.append(digest)
    return tuple(chain)


def _options_digest(chat: ChatInput) -> bytes:
    options = (_THINKING[chat.enable_thinking], chat.chat_template_kwargs)
    return hashlib.sha256(_length(chat.tools) + _texts(chat.tools) + _texts(options)).digest()


def continuation(chat: ChatInput, num_kept: int, chain: Sequence[bytes] = ()) -> ChatInput:
    """The same chat without its first `num_kept` messages, which the router will add.

    `chain` holds its digests, if they are known.
    """
    digest = chain[num_kept - 1] if len(chain) >= num_kept else digests(chat)[num_kept - 1]
    return ChatInput(
        messages=chat.messages[num_kept:],
        continue_final_message=chat.continue_final_message,
        add_generation_prompt=chat.add_generation_prompt,
        continues=Continuation(num_messages=num_kept, digest=digest),
    )


class DigestChain:
    """The digests of a growing conversation. Hashes only new messages.

    Compares the messages with those of the last call, so any of them may have changed.
    """

    def __init__(self) -> None:
        self._chat = ChatInput(messages=())
        self._digests: tuple[bytes, ...] = ()

    def of(self, chat: ChatInput) -> tuple[bytes, ...]:
        num_same = num_common(self._chat, chat)
        self._digests = digests(chat, self._digests[:num_same])
        self._chat = chat
        return self._digests


def num_common(one: ChatInput, other: ChatInput) -> int:
    """The number of leading messages that two chats share; 0 if tools or options differ."""
    if _options(one) != _options(other):
        return 0
    first, second = one.messages, other.messages
    num = min(len(first), len(second))
    # Fast if they are the same objects, as in a session that continues.
    if first[:num] == second[:num]:
        return num
    return next(index for index in range(num) if first[index] != second[index])


def _options(chat: ChatInput) -> tuple[object, ...]:
    return chat.tools, chat.enable_thinking, chat.chat_template_kwargs


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
