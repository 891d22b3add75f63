"""Clients of a virtual cluster: sessions of several turns, each with its right answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field, fields, replace

from router.router import Router
from segue.api.errors import DeadlineExceeded, SegueError
from segue.api.turn import FinishReason, TokenDelta, TurnEnd
from segue.api.types import (
    Resume,
    SessionId,
    StopConditions,
    TokenInput,
    TurnId,
    TurnRequest,
)
from tests.virtual.cluster import Cluster
from tests.workers.fake_runner import answer_to

MAX_CONTEXT = 120
# At its deadline, a client gets its error by the router's clock.
_TOO_LATE_S = 0.5


@dataclass
class Report:
    """How the turns of clusters ended, and what was wrong."""

    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    wrongs: list[str] = field(default_factory=list)
    num_resumed: int = 0
    virtual_s: float = 0.0
    real_s: float = 0.0

    def add(self, other: Report) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def __str__(self) -> str:
        def counted(counter: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in counter.most_common())

        return (
            f"{self.faults.total()} faults: {counted(self.faults)}\n"
            f"{self.ends.total()} turns: {counted(self.ends)}; resumed {self.num_resumed} times\n"
            f"{self.virtual_s:.0f} virtual seconds in {self.real_s:.0f} real ones\n"
            f"{len(self.wrongs)} wrongs"
        )


@dataclass(eq=False)
class ClientTurn:
    request: TurnRequest
    deadline_s: float
    is_slow_reader: bool
    tokens: tuple[int, ...] = ()
    end: TurnEnd | None = None
    error: SegueError | None = None
    has_left: bool = False
    task: asyncio.Task[None] | None = None
    _reading: asyncio.Task[None] | None = None
    _is_cut_off: bool = False

    async def run(self, cluster: Cluster, report: Report) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        try:
            await self._read_to_the_end(cluster, started_at + self.deadline_s)
        except SegueError as error:
            self.error = error
        except asyncio.CancelledError:
            self.has_left = True
        took_s = loop.time() - started_at
        report.ends[self.outcome] += 1
        report.num_resumed += self.end.usage.resumed if self.end else 0
        report.wrongs += self.wrongs(took_s)

    def disconnect(self) -> None:
        """The stream of its answer breaks: the router has died."""
        if self._reading is not None:
            self._is_cut_off = True
            self._reading.cancel()

    async def _read_to_the_end(self, cluster: Cluster, ends_at: float) -> None:
        """Resumes the turn after each break, as the SDK does."""
        loop, request, resumed = asyncio.get_running_loop(), self.request, 0
        while True:
            self._is_cut_off = False
            left_s = max(ends_at - loop.time(), 0.001)
            self._reading = asyncio.ensure_future(self._read(cluster.router, request, left_s))
            try:
                await self._reading
                return
            except asyncio.CancelledError:
                if not self._is_cut_off:
                    self._reading.cancel()
                    await asyncio.gather(self._reading, return_exceptions=True)
                    raise
            while cluster.process.is_dead:
                if loop.time() > ends_at:
                    raise DeadlineExceeded("no router is back")
                await asyncio.sleep(0.05)
            resumed += 1
            resume = Resume(token_ids=self.tokens, resumed=resumed)
            request = replace(self.request, resume=resume)

    async def _read(self, router: Router, request: TurnRequest, deadline_s: float) -> None:
        answering = router.generate(request, deadline_s=deadline_s)
        async with contextlib.aclosing(answering):
            async for events in answering:
                for event in events:
                    if isinstance(event, TokenDelta):
                        self.tokens += event.token_ids
                    elif isinstance(event, TurnEnd):
                        self.end = event
                if self.is_slow_reader:
                    await asyncio.sleep(0.05)

    @property
    def outcome(self) -> str:
        if self.has_left:
            return "left"
        return type(self.error).__name__ if self.error else str(self.end and self.end.finish_reason)

    def wrongs(self, took_s: float) -> list[str]:
        assert isinstance(self.request.input, TokenInput)
        num_tokens = self.request.stop.max_tokens or 0
        right = answer_to(self.request.input.token_ids, num_tokens)
        end = self.end
        is_complete = end is not None and end.finish_reason is not FinishReason.CANCELLED
        found = {
            f"its tokens are {self.tokens}, not {right}": self.tokens != right[: len(self.tokens)],
            f"it ended after {self.tokens}": is_complete and self.tokens != right,
            f"its usage is {end and end.usage}": is_complete
            and end is not None
            and end.usage.completion_tokens != num_tokens,
            f"it took {took_s:.1f} of {self.deadline_s:.1f} s": took_s
            > self.deadline_s + _TOO_LATE_S,
            "it ended without an end": (end, self.error, self.has_left) == (None, None, False),
            f"it ended with {self.error!r}": type(self.error) is SegueError,
        }
        return [f"{self.request.turn_id}: {what}" for what, is_so in found.items() if is_so]


class Clients:
    """Some sessions, each of which takes turns until `stop`."""

    def __init__(self, cluster: Cluster, num_sessions: int) -> None:
        self.report = Report()
        self.running: list[ClientTurn] = []
        self._cluster = cluster
        self._draw = cluster.draw
        self._is_over = False
        self._number = 0
        self._sessions = [
            asyncio.ensure_future(self._converse(f"client-{n}")) for n in range(num_sessions)
        ]

    def disconnect(self) -> None:
        for turn in self.running:
            turn.disconnect()

    async def stop(self) -> None:
        """Starts no more turns. Returns when the last has ended."""
        self._is_over = True
        await asyncio.gather(*self._sessions)

    async def turn(
        self, session: str, prompt: tuple[int, ...], *, num_tokens: int, deadline_s: float
    ) -> ClientTurn:
        self._number += 1
        request = TurnRequest(
            session_id=SessionId(session),
            turn_id=TurnId(f"turn-{self._number}"),
            input=TokenInput(prompt),
            stop=StopConditions(max_tokens=num_tokens),
        )
        turn = ClientTurn(request, deadline_s, is_slow_reader=self._draw.random() < 0.1)
        self.running.append(turn)
        turn.task = asyncio.ensure_future(turn.run(self._cluster, self.report))
        try:
            await turn.task
        finally:
            self.running.remove(turn)
        return turn

    async def _converse(self, name: str) -> None:
        draw = self._draw
        prompt: tuple[int, ...] = ()
        session = ""
        while not self._is_over:
            await asyncio.sleep(draw.expovariate(2.0))
            if not prompt or len(prompt) > MAX_CONTEXT or draw.random() < 0.1:
                # Sessions share the start of their prompts, as agents' do.
                session, prompt = (
                    f"{name}-{self._number}",
                    tuple(range(60, 60 + draw.randrange(20))),
                )
            prompt += tuple(draw.randrange(1, 250) for _ in range(draw.randrange(1, 20)))
            turn = await self.turn(
                session,
                prompt,
                num_tokens=draw.choice((1, 4, 12, 40)),
                deadline_s=draw.choice((0.2, 5.0, 30.0, 30.0, 60.0)),
            )
            prompt += turn.tokens
