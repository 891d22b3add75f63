"""Each session's messages up to its last turn, so that a client sends only new ones.

The client's copy is authoritative: if messages are missing or differ here, the turn is refused and
the client sends all of them. A turn's messages are added when it ends, without its answer: the
client sends that with the next turn, as it parsed it. So a failed turn changes nothing.

Only a turn's new messages cost time: the digests and sizes of earlier ones are stored, and so is
the record that their prompt was made from (`segue/text/session_prompt.py`).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from segue.api.errors import UnknownHistory
from segue.api.history import digests, num_common
from segue.api.prompt import PageDigests, PrefixName, Prompt
from segue.api.types import ChatInput, TurnRequest
from segue.text.session_prompt import PromptRecord

# Memory of a message besides its texts: the object, its digest, its entry in a `PromptRecord`.
_MESSAGE_BYTES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One session's last turn: all its messages, and all its tokens."""

    chat: ChatInput
    digests: tuple[bytes, ...]
    """After each message."""
    tokens: Prompt
    """The turn's prompt and answer."""
    byte_ends: array[int] = field(default_factory=lambda: array("Q"))
    """The bytes of all texts up to the end of each message."""
    character_ends: array[int] = field(default_factory=lambda: array("Q"))
    """The characters of all texts up to the end of each message."""
    memory: PromptRecord | None = None
    """The record that the next turn's prompt can be made from, besides the tokens."""

    def is_continued_by(self, chat: ChatInput, chain: tuple[bytes, ...]) -> bool:
        """Whether `chat` starts with exactly this history, followed by an answer. `chain` holds the
        digests of `chat`."""
        num = len(self.digests)
        return (
            0 < num < len(chain)
            and chain[num - 1] == self.digests[-1]
            and chat.messages[num].role == "assistant"
        )

    def size_bytes(self) -> int:
        texts = self.byte_ends[-1] if self.byte_ends else 0
        echoes = self.memory.echoed if self.memory else ()
        echoed = sum(sys.getsizeof(echo.text) + sys.getsizeof(echo.ids) for echo in echoes)
        messages = _MESSAGE_BYTES * len(self.digests)
        return texts + echoed + messages + sys.getsizeof(self.tokens.tokens)


_NOTHING = History(chat=ChatInput(messages=()), digests=(), tokens=Prompt())


@dataclass(frozen=True, slots=True)
class Completed:
    """A request with all its messages, and the known history that it starts with."""

    request: TurnRequest
    known: History | None = None
    """The session's last turn."""
    num_same: int = 0
    """Leading messages that are the same as in the last turn."""
    keeps_answer: bool = False
    """The client may format the answer differently when it sends it back. If the meaning is the
    same, the next prompt has the generated tokens."""


def characters_before(request: TurnRequest, known: History | None) -> int:
    """The characters of the messages that `complete` will add."""
    chat = request.input
    if known is None or not isinstance(chat, ChatInput) or chat.continues is None:
        return 0
    num = min(chat.continues.num_messages, len(known.character_ends))
    return known.character_ends[num - 1] if num else 0


def complete(request: TurnRequest, known: History | None) -> Completed:
    """Raises UnknownHistory."""
    chat = request.input
    if not isinstance(chat, ChatInput):
        return Completed(request)
    if chat.continues is None:
        return Completed(request, known, num_common(known.chat, chat) if known else 0)
    wanted = chat.continues
    num = wanted.num_messages
    if known is None or num > len(known.digests) or known.digests[num - 1] != wanted.digest:
        num_kept = len(known.digests) if known else 0
        raise UnknownHistory(
            f"expected a turn that continues the session's kept history ({num_kept} messages), "
            f"got one that continues {num} messages with digest "
            f"{wanted.digest.hex()[:16]}: send the whole history"
        )
    whole = replace(
        known.chat,
        messages=known.chat.messages[:num] + chat.messages,
        continue_final_message=chat.continue_final_message,
        add_generation_prompt=chat.add_generation_prompt,
    )
    return Completed(replace(request, input=whole), known, num)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTokens:
    """A turn's prompt, compared with the session's last turn. Together with its answer, it becomes
    the last turn for the next one."""

    tokens: Prompt
    digests: PageDigests
    num_equal: int = 0
    """Leading tokens that equal those of the session's last turn."""
    num_shared: int | None = None
    """Leading tokens that equal those of the history that the prompt belongs to; None without
    one."""

    @classmethod
    def of(
        cls,
        context: Prompt,
        last: TurnTokens | None,
        page_tokens: int,
        *,
        known: History | None = None,
        num_kept: int = 0,
    ) -> TurnTokens:
        """`num_kept` leading tokens were copied from `known`."""
        pages = PageDigests(page_tokens)
        num_equal, num_shared = 0, None
        if known is not None:
            num_shared = known.tokens.num_common(context, start=num_kept)
        if last is not None and last.digests.page_tokens == page_tokens:
            # Usually the history has the last turn's tokens; then nothing is compared twice.
            is_same = known is not None and known.tokens is last.tokens
            start = num_shared if is_same and num_shared else 0
            num_equal = last.tokens.num_common(context, start=start)
            pages = last.digests.up_to(num_equal)
        return cls(tokens=context, digests=pages, num_equal=num_equal, num_shared=num_shared)

    def __len__(self) -> int:
        return len(self.tokens)

    def name(self, num_tokens: int, *, num_reported: int = 0) -> PrefixName | None:
        """Names the prefix that a worker has if it keeps `num_tokens` of the session's last turn,
        or reports to keep `num_reported` tokens of this prompt, whichever is longer."""
        num_tokens = max(min(num_tokens, self.num_equal), num_reported)
        num_pages = num_tokens // self.digests.page_tokens
        return self.digests.name(self.tokens, num_pages) if num_pages else None

    def with_answer(self, answer: Iterable[int]) -> TurnTokens:
        return replace(self, tokens=self.tokens + answer)


def history_after(
    completed: Completed, tokens: Prompt, memory: PromptRecord | None
) -> History | None:
    """The session's history once the turn has ended; None if its input was not a chat."""
    chat = completed.request.input
    if not isinstance(chat, ChatInput):
        return None
    previous, num_same = completed.known or _NOTHING, completed.num_same
    if memory is not None and completed.keeps_answer:
        memory = memory.with_answer(tokens.tokens)
    return History(
        chat=chat,
        digests=digests(chat, previous.digests[:num_same]),
        tokens=tokens,
        byte_ends=_ends(chat, sys.getsizeof, previous.byte_ends[:num_same]),
        character_ends=_ends(chat, len, previous.character_ends[:num_same]),
        memory=memory,
    )


def num_rerendered(completed: Completed, history: History, num_shared: int | None) -> int:
    """Tokens of the last turn that the template rendered differently in this one's prompt."""
    previous = completed.known
    if previous is None or not previous.is_continued_by(history.chat, history.digests):
        return 0
    return len(previous.tokens) - (num_shared or 0)


def _ends(chat: ChatInput, size: Callable[[str], int], known: array[int]) -> array[int]:
    """The sizes of all texts up to the end of each message; `known` holds the first ones."""
    options = (*chat.tools, chat.chat_template_kwargs)
    ends = known[:]
    end = ends[-1] if ends else sum(map(size, options))
    for message in chat.messages[len(ends) :]:
        end += sum(map(size, message.texts()))
        ends.append(end)
    return ends
