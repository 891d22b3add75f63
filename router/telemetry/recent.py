"""Each tenant's last turns: where they ran and why, and how they ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from router.placement.explain import Decided, explanation_of
from router.placement.placing import TurnPlacing
from router.tenants.tenant import Tenant
from segue.api.cluster.explanation import Explanation, RecentTurn
from segue.api.turn import TurnEnd
from segue.process.telemetry import Clock

# As many as a screen shows. One takes some kilobytes.
MAX_TURNS = 32
# As many as a screen shows, of maybe thousands.
MAX_CANDIDATES = 8
RUNNING = "running"


@dataclass(slots=True, eq=False)
class Entry:
    """One turn. Its runner sets `end`, and calls `ended` last."""

    received_at: float
    placing: TurnPlacing | None
    end: TurnEnd | None = None
    outcome: str = RUNNING
    _decided: Decided | None = None
    _explained: tuple[Decided, Explanation] | None = None

    @property
    def decided(self) -> Decided | None:
        return self._decided if self.placing is None else self.placing.decided

    def explained(self, decided: Decided) -> Explanation:
        """Explains each decision only once, however often it is shown."""
        if self._explained is None or self._explained[0] is not decided:
            self._explained = decided, explanation_of(decided, MAX_CANDIDATES)
        return replace(self._explained[1], actual_s=decided.actual_s)

    def ended(self, outcome: str) -> None:
        self._decided, self.outcome = self.decided, outcome
        # `placing` holds the turn's tokens.
        self.placing = None


class RecentTurns:
    """One event loop owns it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._turns: dict[str, deque[Entry]] = {}

    def started(self, tenant: Tenant, received_at: float, placing: TurnPlacing) -> Entry:
        turns = self._turns.setdefault(tenant.name, deque(maxlen=MAX_TURNS))
        entry = Entry(received_at, placing)
        turns.appendleft(entry)
        return entry

    def of(self, tenant: Tenant, max_turns: int = 0) -> list[RecentTurn]:
        """The tenant's turns that were placed, latest first. 0: all that are remembered."""
        return list(islice(self._shown(tenant), max_turns or MAX_TURNS))

    def _shown(self, tenant: Tenant) -> Iterator[RecentTurn]:
        now = self._clock()
        for entry in self._turns.get(tenant.name, ()):
            if (decided := entry.decided) is None:
                continue
            explanation = entry.explained(decided)
            yield RecentTurn(
                explanation=replace(explanation, session_id=tenant.shown(explanation.session_id)),
                num_candidates=len(decided.decision.candidates),
                age_s=now - entry.received_at,
                outcome=entry.outcome,
                end=entry.end,
            )
