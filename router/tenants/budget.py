"""A tenant's tokens a minute."""

from __future__ import annotations

from segue.process.telemetry import Clock

_ROUNDING = 1e-6


class TokenBudget:
    """Grows steadily, up to a minute's tokens, and is charged when the cost of a turn is known.

    That is after the turn, so a budget may be overdrawn; nothing is admitted until it has grown to
    a token again. In the long run a tenant gets its rate, however large its turns are. Libraries
    for rate limits decide before a cost is incurred, and have no debts.
    """

    def __init__(self, tokens_per_minute: int, clock: Clock) -> None:
        self.tokens_per_minute = tokens_per_minute
        self._clock = clock
        self._level = float(tokens_per_minute)
        self._level_at = clock()

    def set_rate(self, tokens_per_minute: int) -> None:
        """What is left shrinks or grows with the rate; a debt stays."""
        level = self._now()
        if level > 0:
            level *= tokens_per_minute / self.tokens_per_minute
        self._level, self.tokens_per_minute = level, tokens_per_minute

    def charge(self, num_tokens: int) -> None:
        self._level = self._now() - num_tokens

    def empty_for_s(self) -> float:
        """Seconds until there is a token again; 0 if there is one."""
        missing = 1.0 - self._now()
        # A client that comes back after exactly this time is not refused for a rounding error.
        return missing * 60.0 / self.tokens_per_minute if missing > _ROUNDING else 0.0

    def _now(self) -> float:
        now = self._clock()
        grown = (now - self._level_at) * self.tokens_per_minute / 60.0
        self._level = min(self._level + grown, float(self.tokens_per_minute))
        self._level_at = now
        return self._level
