"""The state around placement: workers, sessions, and where each turn runs.

The decision itself is a pure function in `policy.py`. This module provides its inputs and learns
from its outcome.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from router.config import RouterConfig
from router.membership.kept import KeptByWorkers, digests_of, merged, reaches_answer
from router.metrics import RouterMetrics
from router.placement.cluster import ClusterModel
from router.placement.estimate import Decision, Mode
from router.placement.explain import Attempt, Decided, observation_of
from router.placement.node import WorkerNode
from router.placement.policy import estimate_error, longest_holder, place
from router.placement.pools import LargestPools
from router.placement.shared_prefixes import SharedPrefixIndex, shared_prefix_of
from router.placement.side import (
    NOTHING,
    Held,
    Residency,
    Rules,
    TurnSize,
    deepest_held,
    without_states,
)
from router.sessions.history import History, TurnTokens
from router.sessions.table import SessionTable
from segue.api.cluster.fleet import RouterRules
from segue.api.cluster.status import WorkerStatus
from segue.api.prompt import PrefixName
from segue.api.turn import PrefixHolder, TurnResult, TurnSpec
from segue.api.types import WorkerId
from segue.process.telemetry import Clock

# Distinct starts of prompts (system message and tools) in use: a few for each kind of agent.
_MAX_SHARED_PREFIXES = 10_000


class Placing:
    """One event loop owns it."""

    def __init__(
        self, config: RouterConfig, table: SessionTable, metrics: RouterMetrics, *, clock: Clock
    ) -> None:
        self.cluster = ClusterModel()
        self.pools = LargestPools()
        self.table = table
        self.shared_prefixes = SharedPrefixIndex(_MAX_SHARED_PREFIXES)
        self.kept = KeptByWorkers(table)
        self.metrics = metrics
        self.clock = clock
        self.rules = Rules()
        self.apply(config)

    def apply(self, rules: RouterConfig | RouterRules) -> None:
        """Applies settings to later placements."""
        self.rules = self.rules._replace(
            min_tokens_per_s=rules.min_tokens_per_s,
            local_prefill_max_tokens=rules.local_prefill_max_tokens,
        )
        self.cluster.slow_start_s = rules.slow_start_s

    def update_worker(self, worker: WorkerStatus) -> None:
        """Takes a heartbeat, or the status of a worker that drains or is lost."""
        self.cluster.update_worker(worker)
        self.pools.update_worker(worker)
        if worker.load.page_tokens != self.rules.page_tokens:
            # All workers have the same page size: they check that when they connect.
            self.rules = self.rules._replace(page_tokens=worker.load.page_tokens)

    def gone(self, worker: WorkerStatus) -> None:
        """The worker left or was forgotten. Session records stay: their entries for a worker count
        only while it is known.
        """
        self.cluster.gone(worker)
        self.shared_prefixes.gone(worker.worker_id)
        self.kept.prefixes.forget(worker.worker_id)

    def turn(
        self, spec: TurnSpec, *, known: History | None = None, num_kept: int = 0
    ) -> TurnPlacing:
        """`num_kept` leading tokens of the prompt were copied from the history `known`."""
        last, page_tokens = self.table.tokens(spec.session_id), self.rules.page_tokens
        tokens = TurnTokens.of(spec.context, last, page_tokens, known=known, num_kept=num_kept)
        return TurnPlacing(self, spec, tokens)


class TurnPlacing:
    """The placements of one turn. The caller must `leave` it."""

    def __init__(self, placing: Placing, spec: TurnSpec, tokens: TurnTokens) -> None:
        self.session = placing.table.of(spec.session_id)
        self.tokens = tokens
        """The prompt's."""
        self._context = tokens
        self._digests: Sequence[bytes] = ()
        self._reported: Residency = {}
        self._computed: Residency = {}
        """What workers hold of a resumed answer."""
        self._placing = placing
        self._spec = spec
        self._size = TurnSize(len(spec.context), spec.stop.max_tokens)
        self._rules = placing.rules
        self._shared_prefix = shared_prefix_of(spec, placing.rules.page_tokens)
        self._avoid: Collection[WorkerId] = ()
        self._residency: Residency = {}
        self._attempt: Attempt | None = None
        self.decided: Decided | None = None
        """The last decision, also after `leave`."""
        self._home: WorkerNode | None = None
        """Where a new session was placed."""

    async def look_up(self) -> None:
        """Lets placements find workers that report to hold the start of the context."""
        if self._placing.kept.prefixes:
            self._digests = await digests_of(self._context)

    def place(self, avoid: Collection[WorkerId]) -> Decision:
        """Makes a decision and takes its seat, after leaving an earlier one. Raises Unavailable."""
        self.leave()
        placing, session_id = self._placing, self._spec.session_id
        # Another first turn of the session may have been placed in the meantime.
        self.session = placing.table.of(session_id)
        if self._home is not None:
            placing.cluster.unsettle(self._home)
            self._home = None
        self._avoid = avoid
        self._residency = self._usable(self._held())
        started_at = time.perf_counter()
        nodes = placing.cluster.nodes
        opening = self._shared_prefix.num_tokens if self._shared_prefix else 0
        was_somewhere = self._computed or self.session.held(nodes)
        is_known = was_somewhere or reaches_answer(self._reported, nodes, opening)
        is_new = bool(session_id) and not is_known
        decision = place(
            self._size,
            placing.cluster,
            self._residency,
            self._rules,
            avoid=avoid,
            is_new=is_new,
        )
        decision_s = time.perf_counter() - started_at
        decided = Decided(session_id, self._spec.turn_id, self._size, decision, decision_s)
        self.decided = decided
        seat = placing.cluster.take(decision)
        if is_new:
            self._home = seat.decode
            placing.cluster.settle(self._home)
        held_tokens = deepest_held(self._residency, nodes)
        self._attempt = Attempt(decided, seat, placing.clock(), held_tokens)
        placing.metrics.placement.decision_s.observe(decision_s)
        placing.metrics.placement.chosen.labels(decision.chosen.mode.value).inc()
        placing.table.placed(self.session, decided)
        return decision

    @property
    def max_local_tokens(self) -> int:
        """Longest prompt suffix that decode may prefill locally: the length the decision expected,
        plus a page. If decode would have to compute more, the decision rested on stale data."""
        expected = self._current().decided.decision.chosen.plan.computed_tokens
        slack = self._rules.page_tokens
        return min(self._rules.local_prefill_max_tokens, expected + slack)

    def resume(self, spec: TurnSpec, *, ran_on: tuple[WorkerId, WorkerId] | None = None) -> None:
        """The next placement is for `spec`, whose context has the answer so far. `ran_on`: the
        workers of the turn's last run, if that was at another router."""
        self._spec = spec
        self._size = TurnSize(len(spec.context), spec.stop.max_tokens - spec.num_answered)
        self._context = self.tokens.with_answer(spec.answered_ids)
        # Workers report what they keep only at the end. A worker that is stopped keeps whole pages.
        prompt = self._whole_pages(spec.num_prompt)
        if ran_on is not None:
            prefill, decode = ran_on
            # One worker may be both.
            context = self._whole_pages(len(spec.context) - 1)
            self._computed = {prefill: prompt, decode: context}
            self._computed.pop(WorkerId(""), None)
        elif self._attempt is not None:
            decision = self._attempt.decided.decision
            if decision.chosen.mode is not Mode.LOCAL:
                self._computed = {decision.placement.prefill.worker_id: prompt}

    def local_refused(self) -> None:
        """Decode lacks too much of the prompt: the turn is placed again without local prefill."""
        self._rules = self._rules._replace(local_prefill_max_tokens=0)

    def reserved(self, resident_tokens: int, checkpoint_tokens: int) -> PrefixHolder | None:
        """Takes the decode worker's report of what it holds. Returns the worker to pull a prefix
        from.

        Whatever was decided, prefill gets the longest holder: what the router knows about prefill's
        own cache may be stale. Prefill makes the final choice.
        """
        attempt, placing = self._current(), self._placing
        placement = attempt.decided.decision.placement
        held = Held(resident_tokens, checkpoint_tokens)
        self.session.correct(placement.decode, held)
        chosen = placement.prefill.worker_id, placement.decode.worker_id
        others = {worker: h for worker, h in self._residency.items() if worker not in chosen}
        # Of equal holders, the first is chosen.
        residency = self._usable({placement.decode.worker_id: held, **others})
        longest = longest_holder(residency, placing.cluster, avoid=self._avoid)
        if longest is None:
            return None
        attempt.source, tokens = longest
        holder = placing.cluster.nodes[attempt.source].status
        return PrefixHolder(
            worker_id=holder.worker_id,
            epoch=holder.epoch,
            address=holder.address,
            checkpoint_tokens=tokens,
        )

    def first_token(self) -> None:
        """The router has received the turn's first token."""
        attempt, placing = self._current(), self._placing
        placing.cluster.prefilled(attempt.seat)
        actual_s = attempt.decided.actual_s = placing.clock() - attempt.placed_at
        estimated_s = attempt.decided.decision.chosen.total_s
        error = estimate_error(estimated_s, actual_s)
        placing.metrics.placement.estimate_error.observe(error)

    def known_prefix(self, worker: WorkerStatus) -> PrefixName | None:
        """Names the prefix of the prompt that the worker probably has."""
        held = self._residency.get(worker.worker_id, NOTHING)
        reported = self._reported.get(worker.worker_id, NOTHING)
        return self._context.name(held.resident_tokens, num_reported=reported.resident_tokens)

    def ended(self, result: TurnResult) -> None:
        """Records what each worker keeps of a complete turn, and learns from its timings."""
        attempt, placing = self._current(), self._placing
        decision, report = attempt.decided.decision, result.report
        prefill, decode = decision.placement.prefill, decision.placement.decode
        is_local = decision.chosen.mode is Mode.LOCAL
        if self.tokens.num_shared is not None:
            self.session.diverged(self.tokens.num_shared)
        if not is_local:
            held = Held(report.kept_tokens, report.kept_tokens)
            self.session.keep(prefill, held, report.kept_states)
        held = Held(result.kept_tokens, result.kept_checkpoint_tokens)
        self.session.keep(decode, held, result.kept_states)
        if self._shared_prefix is not None:
            kept = [(prefill, 0 if is_local else report.kept_tokens), (decode, result.kept_tokens)]
            enough = self._shared_prefix.num_tokens
            placing.shared_prefixes.served(
                self._shared_prefix, [w for w, tokens in kept if tokens >= enough]
            )
        prompt_tokens = self._size.prompt_tokens
        reuse = placing.metrics.tokens
        reuse.held.inc(min(attempt.held_tokens, prompt_tokens))
        reuse.captured.inc(prompt_tokens - decision.chosen.plan.computed_tokens)
        reuse.delivered.inc(max(prompt_tokens - report.computed_tokens, 0))
        placing.cluster.learn(observation_of(attempt, self._size, result))

    def leave(self) -> None:
        """Stops counting the turn as load. Idempotent."""
        if self._attempt is not None:
            self._placing.cluster.leave(self._attempt.seat)
            self._attempt = None

    def _held(self) -> Residency:
        """What workers hold of the session, or of a new session's shared prefix, or report to hold
        of the prompt."""
        placing, reports = self._placing, self._placing.kept.prefixes
        nodes = placing.cluster.nodes
        self._reported = reports.held(self._digests, self._rules.page_tokens, nodes)
        computed = {name: held for name, held in self._computed.items() if name in nodes}
        own = merged(self.session.held(nodes, self._usable_tokens), computed)
        if not own and self._shared_prefix is not None:
            own = placing.shared_prefixes.held(self._shared_prefix, nodes)
        return merged(own, self._reported)

    def _whole_pages(self, num_tokens: int) -> Held:
        whole = num_tokens // self._rules.page_tokens * self._rules.page_tokens
        return Held(whole, whole)

    def _usable(self, residency: Residency) -> Residency:
        return without_states(residency) if self._spec.scores_prompt else residency

    @property
    def _usable_tokens(self) -> int | None:
        """Most tokens that a cached prefix can cover: the last token is always computed."""
        shared = self.tokens.num_shared
        if shared is None and self._digests:
            # Beyond the last turn's tokens, reports tell exactly what is held of this prompt.
            shared = self.tokens.num_equal
        return None if shared is None else min(shared, len(self._spec.context) - 1)

    def _current(self) -> Attempt:
        assert self._attempt is not None, "the turn has been placed"
        return self._attempt
