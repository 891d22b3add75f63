"""The tokens of each session's last turn, so that workers which have them are sent their name.

Bounded: the tokens of the session that was unused for longest are forgotten first. A session that
was forgotten costs one prompt that is sent whole.
"""

from __future__ import annotations

import collections
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from router.history import common_prefix
from segue.prefix_digest import PageDigests, PrefixName
from segue.types import SessionId


@dataclass(frozen=True, slots=True)
class _Known:
    tokens: array[int]
    digests: PageDigests


class SessionPrefixes:
    """One event loop owns it."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._sessions: collections.OrderedDict[SessionId, _Known] = collections.OrderedDict()

    def of(self, session_id: SessionId, prompt: Sequence[int], page_tokens: int) -> PromptPrefixes:
        """What can be named of a prompt of the session."""
        tokens = array("I", prompt)
        known = self._sessions.get(session_id)
        if known is None or known.digests.page_tokens != page_tokens:
            return PromptPrefixes(tokens, PageDigests(page_tokens), 0)
        num_equal = common_prefix(known.tokens, tokens)
        return PromptPrefixes(tokens, known.digests.up_to(num_equal), num_equal)

    def keep(self, session_id: SessionId, prefixes: PromptPrefixes, answer: array[int]) -> None:
        """The session's last turn, whole."""
        self.forget(session_id)
        known = _Known(prefixes.tokens + answer, prefixes.digests)
        self._sessions[session_id] = known
        self._num_tokens += len(known.tokens)
        while self._num_tokens > self._max_tokens:
            self.forget(next(iter(self._sessions)))

    def forget(self, session_id: SessionId) -> None:
        known = self._sessions.pop(session_id, None)
        if known is not None:
            self._num_tokens -= len(known.tokens)


@dataclass(frozen=True, slots=True)
class PromptPrefixes:
    """Of one prompt."""

    tokens: array[int]
    digests: PageDigests
    num_equal: int
    """So many of the prompt's tokens are those of the session's last turn."""

    def name(self, num_tokens: int) -> PrefixName | None:
        """Of what a worker has that keeps so many tokens of the session's last turn."""
        num_pages = min(num_tokens, self.num_equal) // self.digests.page_tokens
        return self.digests.name(self.tokens, num_pages) if num_pages else None
