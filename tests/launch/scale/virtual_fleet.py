"""A cluster in virtual time that follows a trace and changes its size. Placement, the routers'
numbers, the decision and the plan of starts and drains are the real ones; only workers' speeds are
assumed.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from router.placement.cluster import ClusterModel, Seat, pressure_of
from router.placement.coefficients import Observation
from router.placement.policy import place
from router.placement.side import Rules, TurnSize
from segue.api.cluster.fleet import WorkerCounts
from segue.api.cluster.status import (
    ClusterStatus,
    RouterStatus,
    UnitCounts,
    WorkerHealth,
    WorkerLoad,
    WorkerStatus,
)
from segue.api.types import Epoch, Role, WorkerId
from segue.launch.scale.autoscale import State, decide, signals_of
from segue.launch.scale.config import AutoscaleConfig
from segue.launch.scale.plan import (
    Cancel,
    Retire,
    Start,
    WorkerStage,
    WorkerView,
    name_of,
    next_actions,
)

TRACES = Path("/work/shared/data/traces")
TICK_S = 0.25
START_S = 40.0
"""From a worker's start until it takes turns."""
COMPUTE_FIXED_S, COMPUTE_S_PER_TOKEN = 0.020, 2e-4
STEP_FIXED_S, STEP_S_PER_TURN = 0.015, 0.0012
MOVE_S = 0.02
PAGE_TOKENS, PAGES = 16, 40_000
FIRST_TOKEN_S = 3.0
TOKENS_PER_S = 10.0
"""The objective of a turn: its first token within that, and its tokens at this rate or faster."""


@dataclass(frozen=True, slots=True)
class Request:
    at_s: float
    prompt_tokens: int
    answer_tokens: int


def azure(name: str, *, seconds: float, faster: float = 1.0) -> list[Request]:
    """The first `seconds` of a trace, whose time passes `faster`."""
    with (TRACES / name).open() as file:
        rows = list(csv.DictReader(file))
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    requests = (
        Request((at - times[0]) / faster, int(row["ContextTokens"]), int(row["GeneratedTokens"]))
        for at, row in zip(times, rows, strict=True)
    )
    return [one for one in requests if one.at_s < seconds and one.prompt_tokens]


def mooncake(name: str, *, seconds: float, faster: float = 1.0) -> list[Request]:
    rows = map(json.loads, (TRACES / name).read_text().splitlines())
    requests = (
        Request(row["timestamp"] / 1e3 / faster, row["input_length"], row["output_length"])
        for row in rows
    )
    return [one for one in requests if one.at_s < seconds]


@dataclass
class Running:
    request: Request
    seat: Seat
    prefill: VirtualWorker
    decode: VirtualWorker
    placed_at: float
    computed_at: float
    """When its prompt is computed."""
    compute_s: float
    left_tokens: float
    first_token_s: float = 0.0
    slowest: float = float("inf")
    """Tokens per second."""


@dataclass
class VirtualWorker:
    role: Role
    index: int
    ready_at: float
    stage: WorkerStage = WorkerStage.STARTING
    free_at: float = 0.0
    queue: deque[Running] = field(default_factory=deque)
    turns: list[Running] = field(default_factory=list)

    @property
    def name(self) -> WorkerId:
        return WorkerId(name_of(self.role, self.index))

    def status(self, now: float) -> WorkerStatus:
        used = sum(
            (t.request.prompt_tokens + t.request.answer_tokens) // PAGE_TOKENS for t in self.turns
        )
        used = min(used, PAGES)
        waiting = sum(t.request.prompt_tokens for t in self.queue)
        return WorkerStatus(
            worker_id=self.name,
            role=self.role,
            epoch=Epoch(1 + int(self.ready_at * 1e3)),
            address=f"{self.name}:1",
            health={
                WorkerStage.STARTING: WorkerHealth.WARMING,
                WorkerStage.SERVING: WorkerHealth.READY,
                WorkerStage.LEAVING: WorkerHealth.DRAINING,
            }[self.stage],
            uptime_s=max(now - self.ready_at, 0.0),
            load=WorkerLoad(
                pages=UnitCounts(total=PAGES, free=PAGES - used, working=used),
                running_turns=len(self.queue) + len(self.turns),
                waiting_tokens=waiting,
            ),
        )


@dataclass
class Outcome:
    changes: list[tuple[float, WorkerCounts]] = field(default_factory=list)
    turns: list[tuple[float, float, bool]] = field(default_factory=list)
    """When each came, its first token's time, and whether it met the objective."""
    worker_s: dict[Role, float] = field(default_factory=lambda: dict.fromkeys(Role, 0.0))
    seconds: float = 0.0

    def share_within(self, after_s: float = 0.0) -> float:
        within = [is_within for at, _, is_within in self.turns if at >= after_s]
        return sum(within) / max(len(within), 1)

    def mean(self, role: Role) -> float:
        return self.worker_s[role] / self.seconds

    def first_token_s(self, share: float, after_s: float = 0.0) -> float:
        times = sorted(time for at, time, _ in self.turns if at >= after_s)
        return times[int(share * (len(times) - 1))]

    def reversals(self, within_s: float) -> int:
        """How often a role changes one way and back within that time."""
        count = 0
        for role in Role:
            steps = [
                (at, after.of(role) - before.of(role))
                for (_, before), (at, after) in zip(self.changes, self.changes[1:], strict=False)
                if after.of(role) != before.of(role)
            ]
            count += sum(
                one * other < 0 and later - at < within_s
                for (at, one), (later, other) in itertools.pairwise(steps)
            )
        return count


class VirtualFleet:
    def __init__(
        self, requests: Sequence[Request], counts: WorkerCounts, config: AutoscaleConfig | None
    ) -> None:
        """`config`: None keeps the numbers as they are."""
        self.now = 0.0
        self.outcome = Outcome(changes=[(0.0, counts)])
        self._requests = deque(requests)
        self._config = config
        self._wanted = counts
        self._state = State()
        self._cluster = ClusterModel(slow_start_s=30.0)
        self._rules = Rules(min_tokens_per_s=TOKENS_PER_S)
        self._workers = {
            (role, index): VirtualWorker(role, index, 0.0, WorkerStage.SERVING)
            for role in Role
            for index in range(counts.of(role))
        }

    def run(self) -> Outcome:
        ticks = 0
        while self._requests or any(w.queue or w.turns for w in self._workers.values()):
            if ticks % 2 == 0:
                for worker in self._workers.values():
                    self._cluster.update_worker(worker.status(self.now))
            self._tick()
            if ticks % 4 == 0:
                self._control()
            ticks += 1
            self.now += TICK_S
        self.outcome.seconds = self.now
        return self.outcome

    def _tick(self) -> None:
        while self._requests and self._requests[0].at_s <= self.now:
            self._place(self._requests.popleft())
        for (role, _), worker in list(self._workers.items()):
            self.outcome.worker_s[role] += TICK_S
            while worker.queue and worker.queue[0].computed_at <= self.now:
                self._computed(worker.queue.popleft())
            if worker.turns:
                self._step(worker)
            if worker.stage is WorkerStage.STARTING and worker.ready_at <= self.now:
                worker.stage = WorkerStage.SERVING
            elif worker.stage is WorkerStage.LEAVING and not (worker.queue or worker.turns):
                self._cluster.gone(worker.status(self.now))
                del self._workers[role, worker.index]

    def _place(self, request: Request) -> None:
        size = TurnSize(request.prompt_tokens, request.answer_tokens)
        decision = place(size, self._cluster, {}, self._rules, is_new=True)
        seat = self._cluster.take(decision)
        self._cluster.settle(seat.decode)
        prefill, decode = self._of(decision.chosen.prefill), self._of(decision.chosen.decode)
        compute_s = COMPUTE_FIXED_S + COMPUTE_S_PER_TOKEN * request.prompt_tokens
        prefill.free_at = max(prefill.free_at, request.at_s) + compute_s
        prefill.queue.append(
            Running(
                request, seat, prefill, decode, request.at_s, prefill.free_at, compute_s,
                float(request.answer_tokens),
            )
        )  # fmt: skip

    def _of(self, worker_id: WorkerId) -> VirtualWorker:
        role, _, index = worker_id.partition("-")
        return self._workers[Role(role), int(index)]

    def _computed(self, turn: Running) -> None:
        self._cluster.prefilled(turn.seat)
        turn.first_token_s = turn.computed_at + MOVE_S - turn.placed_at
        turn.decode.turns.append(turn)

    def _step(self, worker: VirtualWorker) -> None:
        rate = 1.0 / (STEP_FIXED_S + STEP_S_PER_TURN * len(worker.turns))
        for turn in worker.turns:
            turn.left_tokens -= rate * TICK_S
            turn.slowest = min(turn.slowest, rate)
        ended = [turn for turn in worker.turns if turn.left_tokens <= 0]
        if ended:
            running = len(worker.turns)
            worker.turns = [turn for turn in worker.turns if turn.left_tokens > 0]
            for turn in ended:
                self._ended(turn, running)

    def _ended(self, turn: Running, running: int) -> None:
        self._cluster.leave(turn.seat)
        tokens = turn.request.answer_tokens
        self._cluster.learn(
            Observation(
                prefill=turn.prefill.name,
                decode=turn.decode.name,
                computed_tokens=turn.request.prompt_tokens,
                queue_s=max(turn.first_token_s - turn.compute_s - MOVE_S, 0.0),
                prefill_s=turn.compute_s,
                placed_to_first_token_s=turn.first_token_s,
                completion_tokens=tokens,
                decode_s=tokens * (STEP_FIXED_S + STEP_S_PER_TURN * running),
                running_turns=running,
            )
        )
        is_within = turn.first_token_s <= FIRST_TOKEN_S and turn.slowest >= TOKENS_PER_S
        self.outcome.turns.append((turn.placed_at, turn.first_token_s, is_within))

    def _control(self) -> None:
        if self._config is None:
            return
        view = ClusterStatus(
            ready=True,
            model="virtual",
            model_id="0",
            workers=tuple(w.status(self.now) for w in self._workers.values()),
            router=RouterStatus(address="r:1", **_fields(self._cluster)),
        )
        self._state, wanted = decide(
            self._state, signals_of([view]), self._wanted, self._config, self.now
        )
        if wanted != self._wanted:
            self.outcome.changes.append((self.now, wanted))
            self._wanted = wanted
        for action in next_actions(wanted, list(self._seen())):
            key = action.role, action.index
            match action:
                case Start():
                    self._workers[key] = VirtualWorker(*key, self.now + START_S)
                case Cancel():
                    self._cluster.gone(self._workers.pop(key).status(self.now))
                case Retire():
                    self._workers[key].stage = WorkerStage.LEAVING

    def _seen(self) -> Iterator[WorkerView]:
        for worker in self._workers.values():
            load = worker.status(self.now).load
            yield WorkerView(
                role=worker.role,
                index=worker.index,
                stage=worker.stage,
                is_ready=worker.stage is WorkerStage.SERVING,
                turns=load.running_turns,
            )


def _fields(cluster: ClusterModel) -> dict[str, float]:
    pressure = pressure_of(cluster)
    return {name: getattr(pressure, name) for name in pressure.__slots__}


def static(requests: Sequence[Request], like: Outcome) -> Outcome:
    """A cluster of the same size on average, rounded up, that stays as it is."""
    sizes = {role.value: max(round(like.mean(role) + 0.499), 1) for role in Role}
    return VirtualFleet(requests, WorkerCounts(**sizes), None).run()


def autoscaled(requests: Sequence[Request], config: AutoscaleConfig) -> Outcome:
    return VirtualFleet(requests, WorkerCounts(prefill=2, decode=2), config).run()
