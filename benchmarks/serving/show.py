"""Renders a result as tables. Pure: returns rich renderables, prints nothing."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.harness.output import ms, table
from benchmarks.serving.result import Result

MIB = 1 << 20


def tables(result: Result) -> Iterator[Table]:
    yield _first_token(result)
    yield _decode(result)
    yield _handoff(result)
    yield _router(result)
    yield _ceilings(result)


def _first_token(result: Result) -> Table:
    shown = table(
        "Time to first token, ms", "prompt tokens | segue p50 | p90 | transformers p50 | p90"
    )
    for row in result.alone:
        ours, peer = row.first_token_s, row.peer_first_token_s
        shown.add_row(
            str(row.prompt_tokens), ms(ours.p50), ms(ours.p90), ms(peer.p50), ms(peer.p90)
        )
    return shown


def _decode(result: Result) -> Table:
    shown = table("Decode, tokens/s", "turns | segue | transformers | segue / transformers")
    for row in result.alone:
        shown.add_row(
            f"1, after {row.prompt_tokens} tokens",
            f"{row.decode_tokens_per_s:.1f}",
            f"{row.peer_decode_tokens_per_s:.1f}",
            f"{row.decode_ratio:.2f}",
        )
    for group in result.together:
        shown.add_row(
            f"{group.turns} together, all decoding",
            _speed(group.steady_tokens_per_s),
            f"{group.peer_steady_tokens_per_s:.1f}",
            _ratio(group.steady_tokens_per_s, group.peer_steady_tokens_per_s),
        )
        shown.add_row(
            f"{group.turns} together, prompts included",
            f"{group.whole_tokens_per_s:.1f}",
            f"{group.peer_whole_tokens_per_s:.1f}",
            _ratio(group.whole_tokens_per_s, group.peer_whole_tokens_per_s),
        )
    return shown


def _handoff(result: Result) -> Table:
    shown = table(
        "Handoff, ms",
        "prompt tokens | shipped MiB | by layout MiB | prefill | transfer | exposed | "
        "hidden | overlapped | one after the other",
    )
    for row in result.alone:
        shown.add_row(
            str(row.prompt_tokens),
            f"{row.shipped_bytes / MIB:.2f}",
            f"{row.expected_bytes / MIB:.2f}",
            ms(row.prefill_s),
            ms(row.transfer_s),
            ms(row.exposed_transfer_s),
            f"{row.hidden_share:.0%}",
            ms(row.overlapped_s),
            ms(row.sequential_s),
        )
    return shown


def _router(result: Result) -> Table:
    router = result.router
    shown = table("What the router adds, ms", " | per turn | per token")
    shown.add_row("by its own clock, mean", _fine(router.dispatch_s), _fine(router.relay_s))
    for row in result.alone:
        shown.add_row(
            f"own clock, {row.prompt_tokens} prompt tokens, p50", _fine(row.router_s.p50), ""
        )
    shown.add_row(
        "through it: first token p50, between tokens",
        _fine(router.first_token_s.p50),
        _fine(router.token_s),
    )
    shown.add_row("past it", _fine(router.direct_first_token_s.p50), _fine(router.direct_token_s))
    shown.add_row(
        "difference of neighbours, p50",
        _fine(router.added_first_token_s),
        _fine(router.added_token_s),
    )
    return shown


def _ceilings(result: Result) -> Table:
    machine, cost = result.machine, result.cost
    longest = result.alone[-1]
    prefill_flops = cost.flops_per_prompt_token * longest.prompt_tokens
    shown = table("Ceilings", " | needs | machine | ceiling | segue | transformers")
    shown.add_row(
        "decode, batch 1",
        f"{cost.weight_bytes_per_token / MIB:.0f} MiB of weights/token",
        f"{machine.read_bytes_per_s / 1e9:.1f} GB/s",
        f"{result.ceiling_tokens_per_s:.1f} tokens/s",
        f"{result.ceiling_share:.0%}",
        f"{result.peer_ceiling_share:.0%}",
    )
    ceiling_s = prefill_flops / machine.matmul_flops_per_s
    shown.add_row(
        f"prefill, {longest.prompt_tokens} tokens",
        f"{prefill_flops / 1e9:.0f} GFLOP in weights",
        f"{machine.matmul_flops_per_s / 1e9:.0f} GFLOP/s",
        f"{ms(ceiling_s)} ms",
        f"{ceiling_s / longest.prefill_s:.0%}",
        f"{ceiling_s / longest.peer_first_token_s.p50:.0%}",
    )
    return shown


def headline(result: Result) -> str:
    """The line above the tables."""
    env = result.environment
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    return (
        f"{result.model}, {result.cost.num_parameters / 1e6:.0f} M parameters; {env.cpu}, "
        f"{env.cores} cores, {threads} per process, load {env.other_load:.1f} at the start; "
        f"commit {env.commit}, {env.date}. "
        f"{result.equal_answers} of {result.num_answers} answers have equal tokens on both sides."
    )


def _fine(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _speed(tokens_per_s: float | None) -> str:
    return "–" if tokens_per_s is None else f"{tokens_per_s:.1f}"


def _ratio(ours: float | None, theirs: float) -> str:
    return "–" if ours is None else f"{ours / theirs:.2f}"
