"""What was said in each session up to its last turn, so that a client need send only what is new.

The client's copy is the truth: what is missing or different here is refused, and the client sends
all. A turn is added when it has ended, without its answer: that comes back with the next turn, as
the client understood it. So a turn that failed half-way has changed nothing.

A turn costs what is new in it: digests and sizes of what was said before are kept, and so is what
its prompt was made from (`segue/text/session_prompt.py`).
"""

from __future__ import annotations

import collections
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from segue.errors import UnknownHistory
from segue.history import digests, num_common
from segue.text.session_prompt import PromptMemory
from segue.turn import TokenDelta, TurnEnd, TurnEvent, TurnSpec
from segue.types import ChatInput, SessionId, TurnRequest

# Of a message, beside its texts: itself, its digest, and its place in a `PromptMemory`.
_MESSAGE_BYTES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One session's last turn: all messages that it was given, and all tokens that came of them."""

    chat: ChatInput
    digests: tuple[bytes, ...]
    """After each message."""
    tokens: array[int]
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
            len(chain) > num
            and chain[num - 1] == self.digests[-1]
            and chat.messages[num].role == "assistant"
        )

    def size_bytes(self) -> int:
        texts = self.byte_ends[-1] if self.byte_ends else 0
        return texts + _MESSAGE_BYTES * len(self.digests) + sys.getsizeof(self.tokens)


_NOTHING = History(chat=ChatInput(messages=()), digests=(), tokens=array("I"))


@dataclass(frozen=True, slots=True)
class Completed:
    """A request with all its messages, and what is known of the first of them."""

    request: TurnRequest
    known: History | None = None
    """The session's last turn."""
    num_same: int = 0
    """So many messages are those of the last turn."""


class Histories:
    """Bounded: the longest unused history is forgotten first. One event loop owns it."""

    def __init__(self, max_bytes: int) -> None:
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._kept: collections.OrderedDict[SessionId, tuple[History, int]]
        self._kept = collections.OrderedDict()

    def find(self, session_id: SessionId) -> History | None:
        kept = self._kept.get(session_id)
        return kept[0] if kept else None

    def characters_before(self, request: TurnRequest) -> int:
        """Of the messages that `complete` will add."""
        chat = request.input
        known = self.find(request.session_id)
        if known is None or not isinstance(chat, ChatInput) or chat.continues is None:
            return 0
        num = min(chat.continues.num_messages, len(known.character_ends))
        return known.character_ends[num - 1] if num else 0

    def complete(self, request: TurnRequest) -> Completed:
        """Raises UnknownHistory."""
        chat = request.input
        if not isinstance(chat, ChatInput):
            return Completed(request)
        known = self.find(request.session_id)
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

    def keep(self, session_id: SessionId, history: History) -> bool:
        """In place of what was kept of the session. False when it alone is too large."""
        self.forget(session_id)
        size_bytes = history.size_bytes()
        if size_bytes > self._max_bytes:
            return False
        self._kept[session_id] = history, size_bytes
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            self.forget(next(iter(self._kept)))
        return True

    def forget(self, session_id: SessionId) -> None:
        if session_id in self._kept:
            _, size_bytes = self._kept.pop(session_id)
            self.size_bytes -= size_bytes

    def fork(self, parent_id: SessionId, child_id: SessionId) -> None:
        """The child begins with its parent's history, if there is one."""
        parent = self.find(parent_id)
        if parent is not None:
            self.keep(child_id, parent)


class Transcript:
    """One turn of a session as it is told: kept in `histories` once it has ended."""

    def __init__(
        self,
        histories: Histories,
        completed: Completed,
        spec: TurnSpec,
        *,
        memory: PromptMemory | None = None,
        num_kept: int = 0,
    ) -> None:
        """`memory` is that of the prompt, whose first `num_kept` tokens are the last one's."""
        self._histories = histories
        self._completed = completed
        self._spec = spec
        self._memory = memory
        self._answer = array("I")
        self._prompt = array("I", spec.prompt)
        self.shared_tokens: int | None = None
        """How far the prompt is equal to the session's last turn, where that is known."""
        if completed.known is not None and isinstance(completed.request.input, ChatInput):
            known = completed.known.tokens
            self.shared_tokens = common_prefix(known, self._prompt, start=num_kept)

    def hear(self, event: TurnEvent) -> TurnEvent:
        """The event, and at the turn's end what the history has to say about it."""
        chat = self._completed.request.input
        match event:
            case TokenDelta():
                self._answer.extend(event.token_ids)
            case TurnEnd() if isinstance(chat, ChatInput) and self._spec.session_id:
                return self._end(event, chat)
        return event

    def _end(self, end: TurnEnd, chat: ChatInput) -> TurnEnd:
        previous = self._completed.known or _NOTHING
        num_same = self._completed.num_same
        history = History(
            chat=chat,
            digests=digests(chat, previous.digests[:num_same]),
            tokens=self._prompt + self._answer,
            byte_ends=_ends(chat, sys.getsizeof, previous.byte_ends[:num_same]),
            character_ends=_ends(chat, len, previous.character_ends[:num_same]),
            memory=self._memory,
        )
        is_kept = self._histories.keep(self._spec.session_id, history)
        lost = 0
        if previous.digests and previous.is_continued_by(chat, history.digests):
            lost = len(previous.tokens) - (self.shared_tokens or 0)
        return replace(
            end,
            usage=replace(end.usage, rerendered_tokens=lost),
            kept_messages=len(chat.messages) if is_kept else 0,
        )


def _ends(chat: ChatInput, size: Callable[[str], int], known: array[int]) -> array[int]:
    """The sizes of all texts up to the end of each message; of the first ones they are known."""
    options = (*chat.tools, chat.chat_template_kwargs)
    ends = known[:]
    end = ends[-1] if ends else sum(map(size, options))
    for message in chat.messages[len(ends) :]:
        end += sum(map(size, message.texts()))
        ends.append(end)
    return ends


def common_prefix(one: array[int], other: array[int], *, start: int = 0) -> int:
    """How many first items are equal, of which `start` are known to be: by halves, each compared in
    C, about 0.1 ms for 50,000.
    """
    equal, end = start, min(len(one), len(other))
    while equal < end:
        # Rounded up, so that a run of one item is looked at too.
        middle = (equal + end + 1) // 2
        if one[equal:middle] == other[equal:middle]:
            equal = middle
        else:
            end = middle - 1
    return equal
