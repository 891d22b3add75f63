"""A budget as tables of Markdown, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from benchmarks.budget.facts import GATES
from benchmarks.budget.report import Handoff, Pass, Report
from benchmarks.harness.output import markdown
from segue.cache.layout import E4M3
from segue.engine.budget import size


def lines(report: Report) -> Iterator[str]:
    yield from _memory(report)
    yield from _passes(report)
    yield from _step(report.passes[0])
    yield from _handoffs(report.handoffs)
    yield from _results(report)
    yield from _facts(report)
    yield ""
    yield from (f"- {note}" for note in report.notes)


def as_json(report: Report) -> dict[str, object]:
    results = {
        "step_s": report.passes[0].seconds.total,
        "tokens_per_s": report.tokens_per_s,
        "tokens_per_minute_gpu": report.tokens_per_minute,
        "first_token_turn_s": report.first_token_s(1),
        "first_token_prompt_s": report.first_token_s(2),
    }
    return {**dataclasses.asdict(report), "results": results}


def _table(columns: str, *rows: Sequence[str]) -> Iterator[str]:
    yield ""
    yield markdown(columns, rows)


def _memory(report: Report) -> Iterator[str]:
    memory, setup = report.memory, report.setup
    experts = f", experts in {setup.rank.expert_groups} groups" * (setup.rank.expert_groups > 1)
    dtypes = f"{setup.dtype}, FP8 pages" if setup.kv_dtype == E4M3 else setup.dtype
    yield (
        f"{setup.num_gpus} x {setup.gpu.name}, {setup.rank.count} for each worker{experts}; "
        f"{dtypes}, context {setup.context:,}, batch {setup.batch}, drafts {setup.num_drafts}"
    )
    yield from _table(
        "memory a GPU | weights | a session of this context | sessions that fit",
        (
            size(memory.total_bytes),
            size(memory.weight_bytes),
            size(memory.session_bytes),
            str(memory.num_sessions),
        ),
    )


def _passes(report: Report) -> Iterator[str]:
    rows = [
        (
            each.name,
            size(int(each.work.num_bytes)),
            f"{each.work.flops / 1e12:,.3g}",
            f"{each.launches:,}",
            f"{each.work.num_sums} + {each.work.num_gathers}",
            size(int(each.work.sum_bytes)),
        )
        for each in report.passes
    ]
    yield from _table("a rank | bytes | TFLOP | launches | sums + gathers | received", *rows)


def _step(step: Pass) -> Iterator[str]:
    seconds = step.seconds
    rows = [
        (item.name, size(int(item.num_bytes)), _ms(seconds.items[item.name]))
        for item in step.work.items
    ]
    rows.append(("exchanges", "", _ms(seconds.exchanges)))
    rows.append(("captured launches", "", _ms(seconds.launches)))
    rows.append(("**step**", "", f"**{_ms(seconds.total)}**"))
    yield from _table("decode step | bytes | ms", *rows)


def _handoffs(handoffs: Sequence[Handoff]) -> Iterator[str]:
    rows = [(h.name, size(h.num_bytes), _ms(h.nvlink_s), _ms(h.rdma_s)) for h in handoffs]
    yield from _table("handoff | bytes a rank | NVLink, ms | RDMA, ms", *rows)


def _results(report: Report) -> Iterator[str]:
    yield from _table(
        "expected tokens a step | tokens/s a user | tokens/min a GPU"
        " | first token of a turn, ms | of the prompt, ms",
        (
            f"{report.tokens_per_step:.2f}",
            f"{report.tokens_per_s:,.0f}",
            f"{report.tokens_per_minute:,.0f}",
            _ms(report.first_token_s(1)),
            _ms(report.first_token_s(2)),
        ),
    )
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
    yield from _table("input | value | kind | source", *rows)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"
