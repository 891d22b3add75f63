"""The command line's output: an answer and its timings, and the table of the cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from segue.api.checks import counted
from segue.api.cluster.fleet import FleetStatus
from segue.api.cluster.status import ClusterStatus, UnitCounts, WorkerHealth, WorkerStatus
from segue.api.turn import PromptLogprobs, Timings, TurnEnd, Usage
from segue.sdk.client import Answer

HEALTH_STYLE = {
    WorkerHealth.WARMING: "cyan",
    WorkerHealth.READY: "green",
    WorkerHealth.DRAINING: "yellow",
    WorkerHealth.LOST: "red",
    WorkerHealth.STUCK: "red",
}


def timings_lines(end: TurnEnd, width: int) -> str:
    """The text under an answer: one line on a wide terminal, two in 80 columns. Its first numbers
    are tokens of the prompt (in) and of the answer (out)."""
    usage, timings = end.usage, end.timings
    # Prefill makes the first token, decode the others.
    decoded = usage.completion_tokens - 1
    speed = _speed(decoded / timings.decode_s) if decoded and timings.decode_s else "-"
    parts = (
        f"{usage.prompt_tokens} in{_reused(usage)}, {usage.completion_tokens} out{_drafted(usage)}",
        speed,
        f"{usage.shipped_bytes / 1024:.0f} KiB",
        _workers(end),
        end.finish_reason.value,
        _first_token(timings),
    )
    return "\n".join(lines_of(parts, width))


def _speed(tokens_per_s: float) -> str:
    return f"{counted(round(tokens_per_s), 'token')}/s"


def _first_token(timings: Timings) -> str:
    """The time to the first token and its parts, all in one unit."""
    unit, factor, decimals = ("ms", 1e3, 0) if timings.first_token_s < 10 else ("s", 1.0, 1)
    first, queue, prefill, transfer, exposed = (
        f"{seconds * factor:.{decimals}f}"
        for seconds in (
            timings.first_token_s,
            timings.queue_s,
            timings.prefill_s,
            timings.transfer_s,
            timings.exposed_transfer_s,
        )
    )
    return (
        f"first after {first} {unit} (queue {queue}, prefill {prefill}, transfer {transfer}, "
        f"exposed {exposed})"
    )


def lines_of(parts: Sequence[str], width: int, separator: str = " · ") -> list[str]:
    """Packs the parts into as few lines as possible; a part wider than `width` has its own line."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}{separator}{part}"
        if len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def _drafted(usage: Usage) -> str:
    if not usage.drafted_tokens:
        return ""
    return f" ({usage.accepted_tokens} of {usage.drafted_tokens} drafts accepted)"


def _workers(end: TurnEnd) -> str:
    """One worker if decode computed the prompt's end itself."""
    if end.prefill_worker == end.decode_worker:
        return end.decode_worker
    return f"{end.prefill_worker} → {end.decode_worker}"


def _reused(usage: Usage) -> str:
    reused = usage.cached_tokens + usage.pulled_tokens
    notes = [f"{reused} reused"] if reused else []
    if usage.rerendered_tokens:
        notes.append(f"{usage.rerendered_tokens} of the last turn re-rendered")
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
            "prompt_logprobs": _prompt_logprobs(answer.prompt_logprobs),
        },
        ensure_ascii=False,
    )


def _prompt_logprobs(logprobs: PromptLogprobs | None) -> list[dict[str, Any]] | None:
    """The prompt's first token has neither a log-probability nor a rank."""
    if logprobs is None:
        return None
    ranks = (None, *logprobs.ranks)
    return [
        asdict(token) | {"rank": rank} for token, rank in zip(logprobs.tokens(), ranks, strict=True)
    ]


def status_table(cluster: ClusterStatus, width: int) -> RenderableType:
    """The cluster as text: one line per worker if `width` has room for it."""
    router = cluster.router
    head = Text.assemble(verdict(cluster), f" · {cluster.model} · router {router.address}")
    waiting = f"{router.waiting_turns} waiting, " if router.waiting_turns else ""
    turns = lines_of(
        (
            f"{counted(router.running_turns, 'turn')} running, {waiting}"
            f"{router.finished_turns} finished, "
            f"{router.cancelled_turns} cancelled, {router.failed_turns} failed",
            counted(router.sessions, "session"),
            _speed(router.completion_tokens_per_s),
        ),
        width,
    )
    fleet = [Text(line) for line in fleet_lines(cluster.fleet)]
    return Group(head, *map(Text, turns), *fleet, _workers_table(cluster, width))


def fleet_lines(fleet: FleetStatus) -> Iterator[str]:
    """The launcher's current changes to the number of workers."""
    if fleet.changes:
        yield f"scaling to {fleet.counts}: {'; '.join(fleet.changes)}"


def verdict(cluster: ClusterStatus) -> Text:
    if not cluster.ready:
        return Text("not ready", "bold red")
    absent = (WorkerHealth.LOST, WorkerHealth.STUCK)
    lost = [str(w.worker_id) for w in cluster.workers if w.health in absent]
    if lost:
        return Text(f"ready without {', '.join(lost)}", "bold yellow")
    return Text("ready", "bold green")


def _workers_table(cluster: ClusterStatus, width: int) -> Table:
    wide = _table_of(cluster, ", ")
    return wide if natural_width(wide) <= width else _table_of(cluster, "\n")


def natural_width(table: Table) -> int:
    """The columns that the table takes if nothing in it is wrapped."""
    unbounded = Console(width=10_000)
    return unbounded.measure(table).maximum


def _table_of(cluster: ClusterStatus, separator: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("worker", "health", "turns", "pages", "slots"):
        table.add_column(column, no_wrap=column in ("worker", "health"))
    for worker in cluster.workers:
        table.add_row(*_row(worker, separator))
    return table


def _row(worker: WorkerStatus, separator: str) -> tuple[RenderableType, ...]:
    load = worker.load
    turns = [
        f"{load.running_turns} running",
        f"{load.waiting_turns} waiting",
        f"{load.tokens_per_s:.0f} tok/s",
    ]
    if worker.health is WorkerHealth.DRAINING:
        turns[-1:] = [
            counted(load.leased_sessions, "session"),
            f"{worker.drain_left_s:.0f} s left",
        ]
    pages, slots = _units(load.pages), _units(load.slots)
    if load.host_pages.total:
        pages += [f"host {units}" for units in _units(load.host_pages)]
        slots += [f"host {units}" for units in _units(load.host_slots)]
    return (
        worker.worker_id,
        Text(worker.health.value, HEALTH_STYLE[worker.health]),
        separator.join(turns),
        separator.join(pages),
        separator.join(slots),
    )


def _units(counts: UnitCounts) -> list[str]:
    others = [
        f"{number} {name}"
        for name in ("working", "cached", "reserved", "quarantined", "stray")
        if (number := getattr(counts, name))
    ]
    return [f"{counts.free}/{counts.total} free", *others]
