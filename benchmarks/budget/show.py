"""A budget as tables of Markdown, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from benchmarks.budget.facts import GATES, Way
from benchmarks.budget.report import Handoff, Pass, Report
from segue.cache.layout import E4M3
from segue.engine.budget import size


def lines(report: Report) -> Iterator[str]:
    yield from _memory(report)
    yield from _passes(report)
    yield from _step(report.passes[0], report.ways)
    yield from _handoffs(report.handoffs)
    yield from _results(report)
    yield from _facts(report)
    yield ""
    yield from (f"- {note}" for note in report.notes)


def as_json(report: Report) -> dict[str, object]:
    results = {
        way.name: {
            "step_s": report.passes[0].seconds[way.name].total,
            "tokens_per_s": report.tokens_per_s(way),
            "tokens_per_minute_gpu": report.tokens_per_minute(way),
            "first_token_turn_s": report.first_token_s(way, 1),
            "first_token_prompt_s": report.first_token_s(way, 2),
        }
        for way in report.ways
    }
    return {**dataclasses.asdict(report), "results": results}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _memory(report: Report) -> Iterator[str]:
    memory, setup = report.memory, report.setup
    experts = f", experts in {setup.rank.expert_groups} groups" * (setup.rank.expert_groups > 1)
    dtypes = f"{setup.dtype}, FP8 pages" if setup.kv_dtype == E4M3 else setup.dtype
    yield (
        f"{setup.num_gpus} x {setup.gpu.name}, {setup.rank.count} for each worker{experts}; "
        f"{dtypes}, context {setup.context:,}, batch {setup.batch}, drafts {setup.num_drafts}"
    )
    yield from _table(
        ("memory a GPU", "weights", "a session of this context", "sessions that fit"),
        [
            (
                size(memory.total_bytes),
                size(memory.weight_bytes),
                size(memory.session_bytes),
                str(memory.num_sessions),
            )
        ],
    )


def _passes(report: Report) -> Iterator[str]:
    names = [way.name for way in report.ways]
    rows = [
        (
            each.name,
            size(int(each.work.num_bytes)),
            f"{each.work.flops / 1e12:,.3g}",
            " / ".join(f"{each.launches[name]:,}" for name in names),
            f"{each.work.num_sums} + {each.work.num_gathers}",
            size(int(each.work.sum_bytes)),
        )
        for each in report.passes
    ]
    columns = ("launches", "sums + gathers", "received")
    yield from _table(("a rank", "bytes", "TFLOP", *columns), rows)


def _step(step: Pass, ways: Sequence[Way]) -> Iterator[str]:
    seconds = [step.seconds[way.name] for way in ways]
    rows = [
        (item.name, size(int(item.num_bytes)), *(_ms(each.items[item.name]) for each in seconds))
        for item in step.work.items
    ]
    rows.append(("exchanges", "", *(_ms(each.exchanges) for each in seconds)))
    hidden = ("" if each.is_captured else ", beside the rest" for each in seconds)
    launches = (f"{_ms(each.launches)}{where}" for each, where in zip(seconds, hidden, strict=True))
    rows.append(("launches", "", *launches))
    rows.append(("**step**", "", *(f"**{_ms(each.total)}**" for each in seconds)))
    yield from _table(("decode step, ms", "bytes", *(way.name for way in ways)), rows)


def _handoffs(handoffs: Sequence[Handoff]) -> Iterator[str]:
    rows = [(h.name, size(h.num_bytes), _ms(h.nvlink_s), _ms(h.rdma_s)) for h in handoffs]
    yield from _table(("handoff", "bytes a rank", "NVLink, ms", "RDMA, ms"), rows)


def _results(report: Report) -> Iterator[str]:
    rows = [
        (
            way.name,
            f"{report.tokens_per_step:.2f}",
            f"{report.tokens_per_s(way):,.0f}",
            f"{report.tokens_per_minute(way):,.0f}",
            _ms(report.first_token_s(way, 1)),
            _ms(report.first_token_s(way, 2)),
        )
        for way in report.ways
    ]
    header = (
        "expected",
        "tokens a step",
        "tokens/s a user",
        "tokens/min a GPU",
        "first token of a turn, ms",
        "of the prompt, ms",
    )
    yield from _table(header, rows)
    yield ""
    gates = ", ".join(f"{rate:.0f} at {context >> 10}k" for context, rate in GATES.items())
    yield (
        "TokenSpeed publishes, for the 397B in NVFP4 on eight B200 and one user, 580 tokens/s in "
        f"its agentic workload; {gates}."
    )


def _facts(report: Report) -> Iterator[str]:
    rows = [
        (name, f"{fact.value:.3g}", fact.kind.value, fact.source)
        for name, fact in report.facts.items()
    ]
    yield from _table(("input", "value", "kind", "source"), rows)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"
