"""A second decode worker beside the two workers, and a session's move to it."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from decode_worker.config import DecodeConfig
from decode_worker.memory.moving import sessions_held
from decode_worker.metrics import DecodeMetrics
from decode_worker.turn import TurnNews
from decode_worker.worker import DecodeWorker
from kv_transfer.ticket import PeerIdentity
from segue.api.cluster.drain import Adopted, HeldSession
from segue.api.errors import SegueError
from segue.api.turn import ComputedOnDecode, PrefillStarted, TokenDelta, TurnResult
from segue.api.types import Role, SessionId, WorkerId
from tests.workers.fake_runner import answer_to
from tests.workers.two_workers import (
    DECODE,
    NUM_ANSWERED,
    ShippedTurn,
    TwoWorkers,
    Watched,
    presence_of,
    spec,
    until,
)

SIBLING = WorkerId("decode-1")
SESSION = SessionId("session")
FIRST = tuple(range(40, 54))
SECOND = (*FIRST, *answer_to(FIRST, NUM_ANSWERED), *range(60, 70))
THIRD = (*SECOND, *answer_to(SECOND, NUM_ANSWERED), 80, 81)
"""The prompts of the session's turns. The first two are answered on one worker, which then has
states at several positions; the third comes after the move."""


class Siblings(TwoWorkers):
    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(stack)
        self.wires.serves_apart = True
        self.sibling = DecodeWorker(
            presence_of(SIBLING, Role.DECODE),
            self._resources(SIBLING),
            DecodeConfig(max_drafts=0),
            DecodeMetrics(),
            clock=self.clock,
        )
        self.workers = (*self.workers, self.sibling)
        self.wires.exchanges[SIBLING] = self.sibling._exchange
        memory_map = self.sibling._exchange.reader.memory_map
        self.network.memories[memory_map.segment] = (memory_map, self.sibling._memory)
        self.see_members()

    async def hold_session(self) -> HeldSession:
        """Decode has the session after two turns; nothing else is cached anywhere."""
        self.mend()
        for worker in self.workers:
            memory = worker._memory
            memory.cache.make_room(memory.pages.total, memory.slots.total)
        turn = ShippedTurn(self, replace(spec("first", FIRST), session_id=SESSION))
        turn.start()
        await until(turn.is_over)
        second = await LocalTurn(self.decode, "second", SECOND, branch_points=(22,)).run()
        assert (turn.errors, second.errors) == ([], [])
        (held,) = self.held(self.decode)
        return held

    def held(self, worker: DecodeWorker) -> list[HeldSession]:
        held, _ = sessions_held(worker.residency.leases, self.clock)
        return held

    def source(self) -> PeerIdentity:
        identity = self.decode.presence.identity
        return PeerIdentity(worker_id=DECODE, epoch=identity.epoch, address=f"{DECODE}:1")


class LocalTurn:
    """A turn of the session whose missing prompt a decode worker computes itself."""

    def __init__(
        self,
        worker: DecodeWorker,
        name: str,
        prompt: tuple[int, ...],
        *,
        branch_points: tuple[int, ...] = (),
    ) -> None:
        self.worker = worker
        self.turn = replace(spec(name, prompt), session_id=SESSION, branch_points=branch_points)
        self.tokens: tuple[int, ...] = ()
        self.num_computed: int | None = None
        self.result: TurnResult | None = None
        self.errors: list[BaseException] = []

    async def run(self) -> LocalTurn:
        try:
            await self.worker.answer(self.turn, ComputedOnDecode(512), self._on, timeout_s=60.0)
        except SegueError as error:
            self.errors.append(error)
        return self

    def is_right(self) -> bool:
        return self.tokens == answer_to(self.turn.context.tokens, NUM_ANSWERED)

    def _on(self, news: TurnNews) -> None:
        match news:
            case PrefillStarted(computed_tokens):
                self.num_computed = computed_tokens
            case TokenDelta():
                self.tokens += news.token_ids
            case TurnResult():
                self.result = news


class Move:
    """The sibling pulls the session; the router waits for it."""

    def __init__(self, workers: Siblings, held: HeldSession) -> None:
        self.workers = workers
        self.held = held
        self.pulling = Watched()
        self.adopted: Adopted | None = None
        self.errors: list[BaseException] = []

    def start(self) -> None:
        self.pulling.run(self._pull(), self.errors.append)

    async def _pull(self) -> None:
        self.adopted = await self.workers.sibling.adopt(
            self.held, self.workers.source(), timeout_s=60.0
        )

    def is_over(self) -> bool:
        sibling = self.workers.sibling
        return (
            self.pulling.is_over
            and not sibling._adoptions.owners()
            and not sibling._exchange.reader.owners()
            and not self.workers.wires.serving
        )
