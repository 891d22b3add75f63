"""A session's messages in the form that its template gets. Each is read when the template asks for
it.

What is kept between turns is the source of each message: most come from one client message, some
are built from several (`fold.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from segue.api.types import Message
from segue.text.conversation import JsonObject, read_message
from segue.text.replay.fold import INSTRUCTIONS, Accepts, fold_instructions

Place: TypeAlias = tuple[int, int, int]
"""(first, end, n): the n-th message that the client's messages first to end - 1 fold into."""

_BEFORE: JsonObject = {"role": "assistant", "content": ""}


class FoldedMessages:
    """Raises InvalidRequest for a message that cannot be read."""

    def __init__(
        self,
        messages: Sequence[Message],
        accepts: Accepts,
        known: Sequence[Place] = (),
        num_same: int = 0,
    ) -> None:
        """`known` are the places of an earlier turn with the same first `num_same` messages."""
        self._messages = messages
        self._accepts = accepts
        self._read: dict[int, JsonObject] = {}
        self.places = _until(known, self._clean_cut(min(num_same, len(messages))))
        # Earlier, if the earlier turn folded a message across the cut.
        start = self.places[-1][1] if self.places else 0
        self.num_same = len(self.places)
        """The number of messages that are the same as in the earlier turn."""
        while start < len(messages):
            start = self._add_group(start)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> JsonObject:
        if index not in self._read:
            first, end, number = self.places[index]
            self._read[index] = self._fold(first, end)[number]
        return self._read[index]

    def _clean_cut(self, end: int) -> int:
        """The last cut up to `end` that no folding crosses."""
        while end > 0 and self._is_joined(end):
            end -= 1
        return end

    def _is_joined(self, index: int) -> bool:
        """Whether the messages at `index - 1` and `index` may be folded into one."""
        return any(one.role in INSTRUCTIONS for one in self._messages[index - 1 : index + 1])

    def _add_group(self, first: int) -> int:
        end = first + 1
        while end < len(self._messages) and self._is_joined(end):
            end += 1
        for number, message in enumerate(self._fold(first, end)):
            self._read[len(self.places)] = message
            self.places.append((first, end, number))
        return end

    def _fold(self, first: int, end: int) -> list[JsonObject]:
        group = [read_message(index, self._messages[index]) for index in range(first, end)]
        if first == 0:
            return fold_instructions(group, self._accepts)
        return fold_instructions([_BEFORE, *group], self._accepts)[1:]


def _until(places: Sequence[Place], end: int) -> list[Place]:
    kept = list(places)
    while kept and kept[-1][1] > end:
        kept.pop()
    return kept
