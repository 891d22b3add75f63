"""Tables of the command line fit the terminal, including 80 columns, and nothing is cut."""

from __future__ import annotations

import io
import json
import re
from array import array
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from segue.api.cluster.explanation import CostLine, Explanation, WeighedCandidate, WorkerSpeed
from segue.api.cluster.status import (
    ClusterStatus,
    RouterStatus,
    UnitCounts,
    WorkerHealth,
    WorkerLoad,
    WorkerStatus,
)
from segue.api.turn import FinishReason, PromptLogprobs, Timings, TurnEnd, Usage
from segue.api.types import Epoch, Role, SessionId, TurnId, WorkerId
from segue.cli.show import answer_json, lines_of, status_table, timings_lines
from segue.cli.show_explanation import explanation_tables
from segue.sdk.client import Answer

WIDTHS = [80, 100, 300]
# The default of `segue serve`, and a busy worker of a large machine.
IDLE = WorkerLoad(pages=UnitCounts(total=16384, free=16384), slots=UnitCounts(total=96, free=96))
BUSY = WorkerLoad(
    pages=UnitCounts(total=131072, free=1024, working=99999, cached=20000, reserved=10048),
    slots=UnitCounts(total=512, free=2, working=128, cached=380, quarantined=2),
    host_pages=UnitCounts(total=262144, free=262000, cached=144),
    host_slots=UnitCounts(total=2048, free=2000, cached=48),
    running_turns=128,
    waiting_turns=4711,
    tokens_per_s=12345.6,
)


def drawn(renderable: RenderableType, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    with console.capture() as captured:
        console.print(renderable)
    return [line.rstrip() for line in captured.get().splitlines()]


def cluster_of(*loads: WorkerLoad) -> ClusterStatus:
    workers = tuple(
        WorkerStatus(
            worker_id=WorkerId(f"prefill-{index}"),
            role=Role.PREFILL,
            epoch=Epoch(1),
            address="127.0.0.1:1",
            health=WorkerHealth.DRAINING,
            load=load,
        )
        for index, load in enumerate(loads)
    )
    router = RouterStatus(
        address="127.0.0.1:7411",
        sessions=123456,
        running_turns=4839,
        finished_turns=1234567,
        cancelled_turns=1234,
        failed_turns=12,
        completion_tokens_per_s=54321.0,
    )
    return ClusterStatus(
        ready=True, model="Qwen/Qwen3.5-0.8B", model_id="0", workers=workers, router=router
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("load", [IDLE, BUSY], ids=["idle", "busy"])
def test_a_cluster_fits_and_is_complete(width: int, load: WorkerLoad) -> None:
    lines = drawn(status_table(cluster_of(load, load), width), width)

    assert max(map(len, lines)) <= width
    text = " ".join(lines)
    assert "…" not in text
    for counts in (load.pages, load.slots, load.host_pages, load.host_slots):
        assert not counts.total or f"{counts.free}/{counts.total} free" in text
    assert f"{load.waiting_turns} waiting" in text
    assert "123456 sessions" in text


def test_a_cluster_that_serves_without_a_worker_says_so() -> None:
    whole = cluster_of(IDLE, IDLE)
    first, second = whole.workers
    workers = (replace(first, health=WorkerHealth.READY), second.as_lost())

    head, *_ = drawn(status_table(replace(whole, workers=workers), 80), 80)

    assert head.startswith("ready without prefill-1 · ")


def test_a_wide_terminal_has_one_line_per_worker() -> None:
    assert len(drawn(status_table(cluster_of(BUSY, IDLE, BUSY), 300), 300)) == 2 + 1 + 3


def test_a_count_is_never_split_over_two_lines() -> None:
    lines = drawn(status_table(cluster_of(BUSY), 80), 80)

    text = "\n".join(lines)
    # Three counts of pages, three of slots, two of the host tier, each in one piece.
    assert len(re.findall(r"\d+ (?:working|cached|reserved|quarantined)", text)) == 8
    assert len(re.findall(r"\d+/\d+ free", text)) == 4


def explained(*, mode: str, num_candidates: int, busy: bool) -> Explanation:
    parts = {"queue_s": 0.1234, "pull_s": 1.2345, "move_s": 0.0678, "hidden_s": -0.0456}
    candidates = tuple(
        WeighedCandidate(
            mode=mode,
            prefill_worker=WorkerId(f"prefill-{index}"),
            decode_worker=WorkerId(f"decode-{index}"),
            source_worker=WorkerId(f"decode-{index + 1}") if mode == "pull" else None,
            chosen=index == 0,
            excluded="not_ready" if busy and index == num_candidates - 1 else "",
            computed_tokens=123456,
            moved_tokens=123456,
            compute_s=12.345,
            overhead_s=0.0034,
            total_s=13.9,
            interference_s=0.25 if busy else 0.0,
            **(parts if busy else {}),
        )
        for index in range(num_candidates)
    )
    line = CostLine(fixed=0.12345, per_unit=1e-3)
    speeds = tuple(
        WorkerSpeed(
            worker_id=WorkerId(f"prefill-{index}"),
            compute=line,
            link=CostLine(fixed=0.01234, per_unit=1e-9),
            step=line,
        )
        for index in range(num_candidates)
    )
    return Explanation(
        session_id=SessionId("agent"),
        turn_id=TurnId("1"),
        prompt_tokens=123456,
        max_tokens=65536,
        candidates=candidates,
        speeds=speeds,
        decision_s=123e-6,
        estimated_s=13.9,
        actual_s=14.2,
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("mode", ["local", "compute", "pull"])
def test_an_explanation_fits_and_is_complete(width: int, mode: str, busy: bool) -> None:
    explanation = explained(mode=mode, num_candidates=3, busy=busy)

    lines = drawn(explanation_tables(explanation, width), width)

    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    assert f"▶ {mode}" in text
    assert text.count("123456/123456") == 3
    assert text.count("12345") >= 3
    assert ("not ready" in text) == busy
    assert "decode-2" in text


def test_parts_share_lines_that_have_room() -> None:
    assert lines_of(["aa", "bb", "cc"], 7) == ["aa · bb", "cc"]
    assert lines_of(["aa", "bb", "cc"], 80) == ["aa · bb · cc"]
    assert lines_of(["longer than that", "b"], 7) == ["longer than that", "b"]


@pytest.mark.parametrize("seconds", [0.037, 9.99, 61.0])
def test_timings_take_two_lines_of_80(seconds: float) -> None:
    end = TurnEnd(
        finish_reason=FinishReason.LENGTH,
        usage=Usage(prompt_tokens=31337, cached_tokens=31328, completion_tokens=256),
        timings=Timings(
            queue_s=seconds / 2,
            prefill_s=seconds,
            transfer_s=seconds,
            exposed_transfer_s=seconds,
            first_token_s=seconds,
            decode_s=1.0,
        ),
        prefill_worker="prefill-0",
        decode_worker="prefill-0",
    )

    lines = timings_lines(end, 80).splitlines()

    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("first after ")


def test_labels_under_an_answer_are_the_fields_terms() -> None:
    usage = Usage(
        prompt_tokens=20,
        completion_tokens=3,
        drafted_tokens=17,
        accepted_tokens=10,
        rerendered_tokens=8,
    )
    end = TurnEnd(finish_reason=FinishReason.STOP, usage=usage, timings=Timings(decode_s=2.0))

    lines = timings_lines(end, 300)

    assert lines.startswith(
        "20 in (8 of the last turn re-rendered), 3 out (10 of 17 drafts accepted) · 1 token/s · "
    )


def test_a_count_of_one_is_singular() -> None:
    alone = RouterStatus(
        address="127.0.0.1:7411", sessions=1, running_turns=1, completion_tokens_per_s=1.0
    )
    status = ClusterStatus(ready=True, model="demo", model_id="0", workers=(), router=alone)

    text = " ".join(drawn(status_table(status, 300), 300))

    assert "1 turn running, 0 finished" in text
    assert "1 session · 1 token/s" in text


def test_turns_that_wait_are_shown() -> None:
    busy = RouterStatus(address="127.0.0.1:7411", running_turns=9, waiting_turns=3)
    status = ClusterStatus(ready=True, model="demo", model_id="0", workers=(), router=busy)

    text = " ".join(drawn(status_table(status, 300), 300))

    assert "9 turns running, 3 waiting, 0 finished" in text


def test_an_explanation_names_the_tokens_of_the_prompt() -> None:
    lines = drawn(explanation_tables(explained(mode="local", num_candidates=1, busy=False), 80), 80)

    assert lines[0] == "prompt 123456 tokens, answer at most 65536 · decided in 123 µs"


def test_a_scored_prompt_is_shown_token_by_token() -> None:
    logprobs = PromptLogprobs(
        token_ids=array("I", [5, 6]),
        logprobs=array("f", [-0.5]),
        ranks=array("I", [2]),
        num_top=1,
        top_ids=array("I", [9]),
        top_logprobs=array("f", [-0.25]),
    )
    answer = Answer(
        turn_id=TurnId("t"),
        text="",
        token_ids=(),
        logprobs=(),
        end=TurnEnd(finish_reason=FinishReason.LENGTH),
        prompt_logprobs=logprobs,
    )

    assert json.loads(answer_json(answer))["prompt_logprobs"] == [
        {"token_id": 5, "logprob": None, "top_logprobs": [], "rank": None},
        {
            "token_id": 6,
            "logprob": -0.5,
            "top_logprobs": [{"token_id": 9, "logprob": -0.25}],
            "rank": 2,
        },
    ]


def test_a_worker_that_drains_shows_what_is_left() -> None:
    worker = WorkerStatus(
        worker_id=WorkerId("decode-0"),
        role=Role.DECODE,
        epoch=Epoch(1),
        address="127.0.0.1:1",
        health=WorkerHealth.DRAINING,
        load=replace(IDLE, leased_sessions=3),
        drain_left_s=12.4,
    )
    cluster = ClusterStatus(
        ready=True, model="demo", model_id="m", workers=(worker,), router=RouterStatus(address="r")
    )
    shown = "\n".join(drawn(status_table(cluster, 100), 100))

    assert "0 running, 0 waiting, 3 sessions, 12 s left" in shown
