"""What the command line shows: an answer's timings, the cluster's table, both as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from segue.client import Answer
from segue.cluster_status import ClusterStatus, UnitCounts, WorkerHealth, WorkerStatus
from segue.turn import TurnEnd, Usage

_HEALTH_STYLE = {
    WorkerHealth.READY: "green",
    WorkerHealth.DRAINING: "yellow",
    WorkerHealth.LOST: "red",
}


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def timings_line(end: TurnEnd) -> str:
    """One line under an answer."""
    usage, timings = end.usage, end.timings
    # The first token is prefill's; decode made the others.
    decoded = usage.completion_tokens - 1
    speed = f"{decoded / timings.decode_s:.0f} tokens/s" if decoded and timings.decode_s else "-"
    return (
        f"{usage.prompt_tokens}{_reused(usage)} + {usage.completion_tokens}{_drafted(usage)} "
        "tokens · "
        f"first after {_seconds(timings.first_token_s)} "
        f"(queue {_seconds(timings.queue_s)}, prefill {_seconds(timings.prefill_s)}, "
        f"transfer {_seconds(timings.transfer_s)}, {_seconds(timings.exposed_transfer_s)} of it "
        f"not hidden) · {speed} · {usage.shipped_bytes / 1024:.0f} KiB · "
        f"{_workers(end)} · {end.finish_reason.value}"
    )


def _drafted(usage: Usage) -> str:
    if not usage.drafted_tokens:
        return ""
    return f" ({usage.accepted_tokens} of {usage.drafted_tokens} drafts right)"


def _workers(end: TurnEnd) -> str:
    """One where decode computed the prompt's end itself."""
    if end.prefill_worker == end.decode_worker:
        return end.decode_worker
    return f"{end.prefill_worker} → {end.decode_worker}"


def _reused(usage: Usage) -> str:
    reused = usage.cached_tokens + usage.pulled_tokens
    notes = [f"{reused} reused"] if reused else []
    if usage.rerendered_tokens:
        notes.append(f"{usage.rerendered_tokens} of the last turn rendered anew")
    return f" ({', '.join(notes)})" if notes else ""


def answer_json(answer: Answer) -> str:
    end = answer.end
    return json.dumps(
        {
            "text": answer.text,
            "token_ids": answer.token_ids,
            "finish_reason": end.finish_reason.value,
            "stop_match": end.stop_match or None,
            "usage": asdict(end.usage),
            "timings": asdict(end.timings),
            "prefill_worker": end.prefill_worker,
            "decode_worker": end.decode_worker,
            "logprobs": [asdict(token) for token in answer.logprobs] or None,
        },
        ensure_ascii=False,
    )


def status_json(cluster: ClusterStatus) -> str:
    return json.dumps(asdict(cluster))


def status_table(cluster: ClusterStatus) -> RenderableType:
    """The cluster as a person wants to see it."""
    table = Table(box=None, pad_edge=False)
    for column in ("worker", "health", "turns", "tokens/s", "pages", "slots", "host pages / slots"):
        # A narrow terminal wraps what may be long and never cuts a name.
        table.add_column(column, no_wrap=column in ("worker", "health", "tokens/s"))
    for worker in cluster.workers:
        table.add_row(*_row(worker))
    router = cluster.router
    verdict = Text("ready", "bold green") if cluster.ready else Text("not ready", "bold red")
    head = Text.assemble(verdict, f" · {cluster.model} · router {router.address}")
    turns = Text(
        f"{router.running_turns} turns running, {router.finished_turns} finished, "
        f"{router.cancelled_turns} cancelled, {router.failed_turns} failed · "
        f"{router.sessions} sessions · {router.completion_tokens_per_s:.0f} tokens/s"
    )
    return Group(head, turns, table)


def _row(worker: WorkerStatus) -> tuple[RenderableType, ...]:
    load = worker.load
    return (
        worker.worker_id,
        Text(worker.health.value, _HEALTH_STYLE[worker.health]),
        f"{load.running_turns}, {load.waiting_turns} waiting",
        f"{load.tokens_per_s:.0f}",
        _units(load.pages),
        _units(load.slots),
        f"{_units(load.host_pages)} / {_units(load.host_slots)}" if load.host_pages.total else "-",
    )


def _units(counts: UnitCounts) -> str:
    others = [
        f"{number} {name}"
        for name, number in (
            ("working", counts.working),
            ("cached", counts.cached),
            ("reserved", counts.reserved),
            ("quarantined", counts.quarantined),
            ("stray", counts.stray),
        )
        if number
    ]
    return ", ".join([f"{counts.free}/{counts.total} free", *others])
