"""What was said in each session up to its last turn, so that a client need send only what is new.

The client's copy is the truth: what is missing or different here is refused, and the client sends
all. A turn is added when it has ended, without its answer: that comes back with the next turn, as
the client understood it. So a turn that failed half-way has changed nothing.

A turn costs what is new in it: digests and sizes of what was said before are kept, and so is what
its prompt was made from (`segue/text/session_prompt.py`).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from segue.errors import UnknownHistory
from segue.history import digests, num_common
from segue.prompt import PageDigests, PrefixName, Prompt
from segue.text.session_prompt import PromptMemory
from segue.types import ChatInput, TurnRequest

# Of a message, beside its texts: itself, its digest, and its place in a `PromptMemory`.
_MESSAGE_BYTES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One session's last turn: all messages that it was given, and all tokens that came of them."""

    chat: ChatInput
    digests: tuple[bytes, ...]
    """After each message."""
    tokens: Prompt
    """The turn's prompt and answer."""
    byte_ends: array[int] = field(default_factory=lambda: array("Q"))
    """After each message: the bytes of all texts so far."""
    character_ends: array[int] = field(default_factory=lambda: array("Q"))
    """After each message: the characters of all texts so far."""
    memory: PromptMemory | None = None
    """What the next turn's prompt can be made from, beside the tokens."""

    def is_continued_by(self, chat: ChatInput, chain: tuple[bytes, ...]) -> bool:
        """Whether an answer to this very history comes next in `chat`, whose digests are given."""
        num = len(self.digests)
        return (
            0 < num < len(chain)
            and chain[num - 1] == self.digests[-1]
            and chat.messages[num].role == "assistant"
        )

    def size_bytes(self) -> int:
        texts = self.byte_ends[-1] if self.byte_ends else 0
        return texts + _MESSAGE_BYTES * len(self.digests) + sys.getsizeof(self.tokens.tokens)


_NOTHING = History(chat=ChatInput(messages=()), digests=(), tokens=Prompt())


@dataclass(frozen=True, slots=True)
class Completed:
    """A request with all its messages, and what is known of the first of them."""

    request: TurnRequest
    known: History | None = None
    """The session's last turn."""
    num_same: int = 0
    """So many messages are those of the last turn."""


def characters_before(request: TurnRequest, known: History | None) -> int:
    """Of the messages that `complete` will add."""
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
            f"expected a turn that continues what is kept of session {request.session_id} "
            f"({num_kept} messages), got one that continues {num} messages with digest "
            f"{wanted.digest.hex()[:16]}: send the whole history"
        )
    whole = replace(
        known.chat,
        messages=known.chat.messages[:num] + chat.messages,
        continue_final_message=chat.continue_final_message,
    )
    return Completed(replace(request, input=whole), known, num)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTokens:
    """A turn's prompt, compared with the session's last turn; with its answer it is the last turn
    of the next one."""

    tokens: Prompt
    digests: PageDigests
    num_equal: int = 0
    """Leading tokens that equal those of the session's last turn."""
    num_shared: int | None = None
    """The same for the history that the prompt belongs to; None without one."""

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
        """`num_kept` leading tokens were copied from those of `known`."""
        pages = PageDigests(page_tokens)
        num_equal, num_shared = 0, None
        if known is not None:
            num_shared = known.tokens.num_common(context, start=num_kept)
        if last is not None and last.digests.page_tokens == page_tokens:
            # As a rule the history's tokens are those of the last turn: nothing is compared twice.
            is_same = known is not None and known.tokens is last.tokens
            start = num_shared if is_same and num_shared else 0
            num_equal = last.tokens.num_common(context, start=start)
            pages = last.digests.up_to(num_equal)
        return cls(tokens=context, digests=pages, num_equal=num_equal, num_shared=num_shared)

    def __len__(self) -> int:
        return len(self.tokens)

    def name(self, num_tokens: int) -> PrefixName | None:
        """Names what a worker has that keeps so many tokens of the session's last turn."""
        num_pages = min(num_tokens, self.num_equal) // self.digests.page_tokens
        return self.digests.name(self.tokens, num_pages) if num_pages else None

    def with_answer(self, answer: Iterable[int]) -> TurnTokens:
        return replace(self, tokens=self.tokens + answer)


def history_after(
    completed: Completed, tokens: Prompt, memory: PromptMemory | None
) -> History | None:
    """The session's history once the turn has ended; None if its input was no chat."""
    chat = completed.request.input
    if not isinstance(chat, ChatInput):
        return None
    previous, num_same = completed.known or _NOTHING, completed.num_same
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
    """The sizes of all texts up to the end of each message; of the first ones they are known."""
    options = (*chat.tools, chat.chat_template_kwargs)
    ends = known[:]
    end = ends[-1] if ends else sum(map(size, options))
    for message in chat.messages[len(ends) :]:
        end += sum(map(size, message.texts()))
        ends.append(end)
    return ends
