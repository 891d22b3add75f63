"""What a session's record says after a move. Pure."""

from __future__ import annotations

from router.sessions.table import Keeping, SessionRecord
from segue.api.cluster.drain import Adopted
from segue.api.cluster.status import WorkerStatus


def note_move(
    record: SessionRecord, source: WorkerStatus, target: WorkerStatus, adopted: Adopted
) -> None:
    """Replaces what the source keeps by what the target keeps now.

    If a turn was placed elsewhere meanwhile, the record of that turn stays the latest.
    """
    arrived = Keeping(
        worker_id=target.worker_id,
        epoch=target.epoch,
        tokens=adopted.kept_tokens,
        states=adopted.kept_states,
    )
    is_latest = record.decode_worker == source.worker_id
    record.decodes = after_move(record.decodes, source, arrived, is_latest=is_latest)
    if is_latest:
        record.decode_worker = target.worker_id


def after_move(
    kept: tuple[Keeping, ...], source: WorkerStatus, arrived: Keeping, *, is_latest: bool
) -> tuple[Keeping, ...]:
    """Most recent first, as in `SessionRecord.decodes`. The target's place is that of the source,
    unless the target has had a later turn of the session.

    `is_latest`: the source had the session's last turn. The end of that turn may not have come yet,
    and then `kept` does not have the source.
    """
    missing = 0 if is_latest else len(kept)
    at = next((i for i, k in enumerate(kept) if _is_of(k, source)), missing)
    newer = kept[:at]
    older = [k for k in kept[at:] if not _is_of(k, source) and k.worker_id != arrived.worker_id]
    if any(k.worker_id == arrived.worker_id for k in newer):
        return (*newer, *older)
    return (*newer, arrived, *older)[: max(len(kept), 1)]


def _is_of(keeping: Keeping, worker: WorkerStatus) -> bool:
    return (keeping.worker_id, keeping.epoch) == (worker.worker_id, worker.epoch)
