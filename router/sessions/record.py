"""Where a session ran last, and what workers keep of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from router.placement.node import WorkerNode
from router.placement.side import Held, Residency
from segue.api.cluster.drain import Adopted
from segue.api.cluster.status import SessionInfo, WorkerStatus
from segue.api.types import Epoch, Role, SessionId, WorkerId

# Workers of each role to remember: a session that moves away and comes back finds what it left.
_MAX_WORKERS = 2

_NOWHERE = WorkerId("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What a worker keeps of a session, in one epoch."""

    worker_id: WorkerId
    epoch: Epoch
    tokens: int
    states: tuple[int, ...]
    """Lengths of the prefixes whose state is there, ascending."""

    @classmethod
    def of(cls, worker: WorkerStatus, held: Held, states: tuple[int, ...] = ()) -> Keeping:
        """`states` are all useful states that the worker keeps; if empty, only the deepest is
        known."""
        deepest = held.checkpoint_tokens
        return cls(
            worker_id=worker.worker_id,
            epoch=worker.epoch,
            tokens=held.resident_tokens,
            states=states or ((deepest,) if deepest else ()),
        )

    @property
    def checkpoint_tokens(self) -> int:
        """The deepest state."""
        return max(self.states, default=0)

    def is_on(self, worker: WorkerStatus) -> bool:
        """Whether the worker keeps it: not an earlier or later epoch of the worker."""
        return (self.worker_id, self.epoch) == (worker.worker_id, worker.epoch)

    def of_prompt(self, shared_tokens: int | None) -> Held:
        """What the worker holds of a prompt that shares this many tokens with the last turn."""
        if shared_tokens is None:
            return Held(self.tokens, self.checkpoint_tokens)
        cut = self.up_to(shared_tokens)
        return Held(cut.tokens, cut.checkpoint_tokens)

    def up_to(self, num_tokens: int) -> Keeping:
        states = tuple(state for state in self.states if state <= num_tokens)
        return replace(self, tokens=min(self.tokens, num_tokens), states=states)


@dataclass(slots=True, kw_only=True, eq=False)
class SessionRecord:
    """Where a session ran last, and what workers keep of it, as they reported.

    A turn writes to the record that it started with. If the table does not list that record, or no
    longer does, the record is dropped with its turn.
    """

    session_id: SessionId
    prefill_worker: WorkerId = _NOWHERE
    decode_worker: WorkerId = _NOWHERE
    prefills: tuple[Keeping, ...] = ()
    """Most recent first, as in `decodes`."""
    decodes: tuple[Keeping, ...] = ()
    is_released: bool = False
    listed_as: int = 0
    """The number of the session's last placement. Ascends in the table's order."""

    @property
    def kept(self) -> Keeping | None:
        """What the last decode worker keeps: it holds the session's lease."""
        return self.decodes[0] if self.decodes else None

    def info(self) -> SessionInfo:
        kept = self.kept
        return SessionInfo(
            session_id=self.session_id,
            prefill_worker=self.prefill_worker,
            decode_worker=self.decode_worker,
            kept_tokens=kept.tokens if kept else 0,
            kept_checkpoint_tokens=kept.checkpoint_tokens if kept else 0,
        )

    def keep(self, worker: WorkerStatus, held: Held, states: tuple[int, ...] = ()) -> None:
        """The worker served a turn of the session. `states`: see `Keeping.of`."""
        others = [k for k in self._keepings(worker.role) if k.worker_id != worker.worker_id]
        self._set(worker.role, (Keeping.of(worker, held, states), *others)[:_MAX_WORKERS])

    def diverged(self, shared_tokens: int) -> None:
        """The session's last turn shares only `shared_tokens` with the one before: what workers
        keep beyond that is useless to the next turn."""
        for role in Role:
            self._set(role, tuple(k.up_to(shared_tokens) for k in self._keepings(role)))

    def correct(self, worker: WorkerStatus, held: Held) -> None:
        """The worker reported what it holds, without having completed a turn."""
        kept = (
            _corrected(keeping, worker, held) if keeping.worker_id == worker.worker_id else keeping
            for keeping in self._keepings(worker.role)
        )
        self._set(worker.role, tuple(kept))

    def moved(self, source: WorkerStatus, target: WorkerStatus, adopted: Adopted) -> None:
        """Replaces what the source keeps by what the target keeps now.

        If a turn was placed elsewhere in the meantime, that turn's record remains the latest.
        """
        is_latest = self.decode_worker == source.worker_id
        arrived = Keeping.of(target, Held(adopted.kept_tokens), adopted.kept_states)
        self.decodes = after_move(self.decodes, source, arrived, is_latest=is_latest)
        if is_latest:
            self.decode_worker = target.worker_id

    def held(
        self, nodes: Mapping[WorkerId, WorkerNode], shared_tokens: int | None = None
    ) -> Residency:
        """What live workers hold, if still in the same epoch, most recent first.

        `shared_tokens`: how many leading tokens a prompt shares with the last turn, if known. What
        is held beyond them is useless to the prompt.
        """
        residency: dict[WorkerId, Held] = {}
        for keeping in (*self.decodes, *self.prefills):
            node = nodes.get(keeping.worker_id)
            if node is not None and node.status.epoch == keeping.epoch and not node.is_lost:
                residency[keeping.worker_id] = keeping.of_prompt(shared_tokens)
        return residency

    def _keepings(self, role: Role) -> tuple[Keeping, ...]:
        return self.prefills if role is Role.PREFILL else self.decodes

    def _set(self, role: Role, kept: tuple[Keeping, ...]) -> None:
        if role is Role.PREFILL:
            self.prefills = kept
        else:
            self.decodes = kept


def _corrected(known: Keeping, worker: WorkerStatus, held: Held) -> Keeping:
    """A known state deeper than the prompt's deepest may belong to another prompt."""
    deepest = held.checkpoint_tokens
    shallower = tuple(state for state in known.states if state < deepest)
    return Keeping.of(worker, held, (*shallower, deepest) if deepest else ())


def with_report(known: tuple[Keeping, ...], reported: Keeping) -> tuple[Keeping, ...]:
    """What decode workers keep of a session, most recent first, updated with one worker's report.

    A report that only repeats what a turn here left is ignored, since it has less detail: a lease
    has one state. Of two workers' parts, the longer one is more recent, since conversations grow.
    Turns shorter than a page may leave equal ones; then what is known stays, as a report may be
    late.
    """
    if any(replace(one, states=reported.states) == reported for one in known):
        return known
    others = tuple(one for one in known if one.worker_id != reported.worker_id)
    length = (reported.tokens, reported.checkpoint_tokens)
    if others and (others[0].tokens, others[0].checkpoint_tokens) >= length:
        return (others[0], reported)
    return (reported, *others[:1])


def after_move(
    kept: tuple[Keeping, ...], source: WorkerStatus, arrived: Keeping, *, is_latest: bool
) -> tuple[Keeping, ...]:
    """Most recent first, as in `SessionRecord.decodes`. The target takes the source's position,
    unless it has had a later turn of the session.

    `is_latest`: the source had the session's last turn. If that turn's end has not arrived yet,
    `kept` lacks the source.
    """
    missing = 0 if is_latest else len(kept)
    at = next((i for i, k in enumerate(kept) if k.is_on(source)), missing)
    newer = kept[:at]
    older = [k for k in kept[at:] if not k.is_on(source) and k.worker_id != arrived.worker_id]
    if any(k.worker_id == arrived.worker_id for k in newer):
        return (*newer, *older)
    return (*newer, arrived, *older)[: max(len(kept), 1)]
