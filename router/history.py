"""What was said in each session up to its last turn, so that a client need send only what is new.

The client's copy is the truth: what is missing or different here is refused, and the client sends
all. A turn is added when it has ended, without its answer: that comes back with the next turn, as
the client understood it. So a turn that failed half-way has changed nothing.
"""

from __future__ import annotations

import collections
import sys
from array import array
from dataclasses import dataclass, replace

from segue.errors import UnknownHistory
from segue.history import digests
from segue.turn import TokenDelta, TurnEnd, TurnEvent, TurnSpec
from segue.types import ChatInput, SessionId, TurnRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One session's last turn: all messages that it was given, and all tokens that came of them."""

    chat: ChatInput
    digests: tuple[bytes, ...]
    """After each message."""
    tokens: array[int]
    """The turn's prompt and answer."""

    def is_continued_by(self, chat: ChatInput, chain: tuple[bytes, ...]) -> bool:
        """Whether an answer to this very history comes next in `chat`, whose digests are given."""
        num = len(self.digests)
        return (
            len(chain) > num
            and chain[num - 1] == self.digests[-1]
            and chat.messages[num].role == "assistant"
        )

    def size_bytes(self) -> int:
        return sum(map(sys.getsizeof, (*self.chat.texts(), *self.digests, self.tokens)))


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

    def complete(self, request: TurnRequest) -> TurnRequest:
        """The request with all its messages. Raises UnknownHistory."""
        chat = request.input
        if not isinstance(chat, ChatInput) or chat.continues is None:
            return request
        known, wanted = self.find(request.session_id), chat.continues
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
        return replace(request, input=whole)

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

    def __init__(self, histories: Histories, request: TurnRequest, spec: TurnSpec) -> None:
        """`request` has all its messages."""
        self._histories = histories
        self._request = request
        self._spec = spec
        self._previous = histories.find(request.session_id)
        self._answer = array("I")

    def hear(self, event: TurnEvent) -> TurnEvent:
        """The event, and at the turn's end what the history has to say about it."""
        match event:
            case TokenDelta():
                self._answer.extend(event.token_ids)
            case TurnEnd() if isinstance(self._request.input, ChatInput) and self._spec.session_id:
                return self._end(event, self._request.input)
        return event

    def _end(self, end: TurnEnd, chat: ChatInput) -> TurnEnd:
        prompt = array("I", self._spec.prompt)
        history = History(chat=chat, digests=digests(chat), tokens=prompt + self._answer)
        is_kept = self._histories.keep(self._spec.session_id, history)
        lost = 0
        if self._previous and self._previous.is_continued_by(chat, history.digests):
            lost = len(self._previous.tokens) - common_prefix(self._previous.tokens, prompt)
        return replace(
            end,
            usage=replace(end.usage, rerendered_tokens=lost),
            kept_messages=len(chat.messages) if is_kept else 0,
        )


def common_prefix(one: array[int], other: array[int]) -> int:
    """How many first items are equal: by halves, each compared in C, about 0.1 ms for 50,000."""
    equal, end = 0, min(len(one), len(other))
    while equal < end:
        # Rounded up, so that a run of one item is looked at too.
        middle = (equal + end + 1) // 2
        if one[equal:middle] == other[equal:middle]:
            equal = middle
        else:
            end = middle - 1
    return equal
