"""Finds stop strings in a text that arrives in pieces, and holds back only a possible match.

One Knuth-Morris-Pratt automaton per stop string. Its state is the length of the stop string's
prefix that the text ends with, so exactly the longest state must be held back. The cost per
character does not depend on how the text is cut.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStringMatcher:
    """The first complete match wins; of several that end together, the longest. The result does not
    depend on how the text is cut into pieces.

    So the outcome does not depend on how the text was cut into pieces.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._automata = [_Automaton(stop) for stop in stop_strings]
        self._held = ""
        self._has_matched = False

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that is safe to send, and the stop string that ended it, if any.

        Must not be called after a match.
        """
        assert not self._has_matched
        if not self._automata:
            return text, None
        text, start = self._held + text, len(self._held)
        for end, character in enumerate(text[start:], start + 1):
            match = self._step(character)
            if match is not None:
                self._has_matched = True
                self._held = ""
                return text[: end - len(match)], match
        num_held = max(automaton.num_matched for automaton in self._automata)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held], None

    def flush(self) -> str:
        """The text that was held back; empty after a match."""
        held, self._held = self._held, ""
        return held

    def _step(self, character: str) -> str | None:
        matches = [automaton.stop for automaton in self._automata if automaton.step(character)]
        return max(matches, key=len, default=None)


class _Automaton:
    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.num_matched = 0
        self._shorter = _borders(stop)

    def step(self, character: str) -> bool:
        """Whether the stop string is complete with this character."""
        matched = self.num_matched
        while matched and self.stop[matched] != character:
            matched = self._shorter[matched]
        if self.stop[matched] == character:
            matched += 1
        self.num_matched = matched
        return matched == len(self.stop)


def _borders(stop: str) -> list[int]:
    """For each length n: the longest proper prefix of stop[:n] that is also its suffix."""
    borders = [0, 0]
    for character in stop[1:]:
        border = borders[-1]
        while border and stop[border] != character:
            border = borders[border]
        borders.append(border + 1 if stop[border] == character else 0)
    return borders
