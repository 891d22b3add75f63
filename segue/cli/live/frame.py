"""One frame of `segue top`, from the cluster's status."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from segue.api.checks import counted
from segue.api.cluster.status import (
    ClusterStatus,
    RouterStatus,
    UnitCounts,
    WorkerHealth,
    WorkerStatus,
)
from segue.cli.show import HEALTH_STYLE, fleet_lines, lines_of, verdict

_BAR = 12
_HISTORY = 60
_LEVELS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Trail:
    """The history of earlier frames, for rates and for the line of throughput."""

    tokens_per_s: tuple[float, ...] = ()
    router: RouterStatus | None = None

    def after(self, cluster: ClusterStatus) -> Trail:
        rates = (*self.tokens_per_s, cluster.router.completion_tokens_per_s)
        return Trail(rates[-_HISTORY:], cluster.router)


def frame(cluster: ClusterStatus, trail: Trail, *, width: int, away: str = "") -> RenderableType:
    """`trail`: the earlier frames. `away`: the reason if the status is out of date, else empty."""
    parts: list[RenderableType] = [_head(cluster)]
    if away:
        parts.append(Text(away, "bold red"))
    parts += [
        *map(Text, fleet_lines(cluster.fleet)),
        Rule(style="dim"),
        *_numbers(cluster, trail, width),
        Rule(style="dim"),
        _workers(cluster.workers, width),
    ]
    return Group(*parts)


def _head(cluster: ClusterStatus) -> Text:
    router = cluster.router
    scales = " · autoscaling" if cluster.fleet.autoscales else ""
    return Text.assemble(
        verdict(cluster),
        f" · {cluster.model} · router {router.address}, up {_duration(router.uptime_s)}{scales}",
    )


def _numbers(cluster: ClusterStatus, trail: Trail, width: int) -> Iterator[Text]:
    router = cluster.router
    yield Text.assemble(
        (f"{router.completion_tokens_per_s:,.0f}", "bold"),
        " tokens/s ",
        (spark([*trail.tokens_per_s, router.completion_tokens_per_s]), "cyan"),
    )
    yield Text(
        f"turns: {router.running_turns} running, {router.waiting_turns} waiting, "
        f"{router.finished_turns} finished, {router.cancelled_turns} cancelled, "
        f"{router.failed_turns} failed · {counted(router.sessions, 'session')}"
    )
    parts = [f"queue {router.prefill_queue_s * 1e3:,.0f} ms"]
    parts.append(counted(router.outstanding_handoffs, "handoff") + " outstanding")
    if router.turn_tokens_per_s:
        parts.append(f"each turn {router.turn_tokens_per_s:,.0f} tokens/s or more")
    if drafts := acceptance(router, trail.router):
        parts.append(drafts)
    yield from map(Text, lines_of(parts, width))


def acceptance(now: RouterStatus, before: RouterStatus | None) -> str:
    """The share of drafts accepted since the last frame, or since the router's start if there were
    none. Empty without drafts."""
    drafted, accepted = now.drafted_tokens, now.accepted_tokens
    if before is not None and before.pid == now.pid and drafted > before.drafted_tokens:
        drafted -= before.drafted_tokens
        accepted -= before.accepted_tokens
    return f"{accepted / drafted:.0%} of drafts accepted" if drafted else ""


def spark(values: Sequence[float]) -> str:
    """One character for each value, with a height in proportion to the largest."""
    largest = max(values, default=0.0)
    if not largest:
        return ""
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[round(top * max(value, 0.0) / largest)] for value in values)


def _workers(workers: Sequence[WorkerStatus], width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2 if width >= 100 else 1, 0, 0))
    for name in ("worker", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("turns", "queue", "tok/s", "sessions"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("pages", "slots"):
        table.add_column(name, no_wrap=True)
    for worker in workers:
        table.add_row(*_row(worker))
    return table


def _row(worker: WorkerStatus) -> Iterator[RenderableType]:
    load = worker.load
    yield str(worker.worker_id)
    state = worker.health.value
    if worker.health is WorkerHealth.DRAINING:
        state += f" {worker.drain_left_s:.0f} s"
    yield Text(state, HEALTH_STYLE[worker.health])
    yield (
        f"{load.running_turns}+{load.waiting_turns}"
        if load.waiting_turns
        else str(load.running_turns)
    )
    yield f"{load.waiting_tokens:,}" if load.waiting_tokens else "-"
    yield f"{load.tokens_per_s:,.0f}"
    yield str(load.leased_sessions)
    yield _bar(load.pages)
    yield _bar(load.slots)


def _bar(units: UnitCounts) -> Text:
    """A bar of used and cached units, and the share of used ones."""
    if not units.total:
        return Text("-")
    busy = units.total - units.free - units.cached
    full = _cells(busy, units.total)
    kept = min(_cells(units.cached, units.total), _BAR - full)
    return Text.assemble(
        ("█" * full, "yellow"),
        ("▒" * kept, "green"),
        ("·" * (_BAR - full - kept), "dim"),
        f" {busy / units.total:4.0%}",
    )


def _cells(part: int, total: int) -> int:
    """At least one cell unless `part` is 0."""
    return max(round(_BAR * part / total), 1) if part else 0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
