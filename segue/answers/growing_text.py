"""A text that arrives in pieces and is read by position."""

from __future__ import annotations

import io


class GrowingText:
    """Adding and cutting cost time in proportion to the text added or cut, not to the whole."""

    def __init__(self) -> None:
        self._whole = io.StringIO(newline="")
        self._recent = ""
        self._recent_start = 0
        self.size = 0

    def add(self, text: str, *, keep_from: int) -> None:
        """`keep_from` is the position from which reading continues."""
        recent, index = self.at(keep_from)
        self._recent, self._recent_start = recent[index:] + text, keep_from
        self._whole.seek(self.size)
        self._whole.write(text)
        self.size += len(text)

    def at(self, position: int) -> tuple[str, int]:
        """A suffix of the text that includes `position`, and the index of `position` in it."""
        if position < self._recent_start:
            self._recent, self._recent_start = self.cut(position, self.size), position
        return self._recent, position - self._recent_start

    def cut(self, start: int, end: int) -> str:
        self._whole.seek(start)
        return self._whole.read(max(0, end - start))
