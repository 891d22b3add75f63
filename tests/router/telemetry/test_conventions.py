"""The router's metrics under OpenTelemetry's and vLLM's names."""

from __future__ import annotations

import json

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from router.metrics import RouterMetrics
from router.status import targets_of
from router.telemetry.traces import TurnTrace
from router.turn.meter import TurnMeter, turn_class, turn_number
from segue.api.cluster.status import UnitCounts, WorkerHealth, WorkerStatus
from segue.api.turn import TokenDelta
from segue.api.types import ChatInput, Epoch, Message, Role, TextInput, TurnInput, WorkerId
from tests.router.placed import ManualClock


def samples(metrics: RouterMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def take_a_turn(metrics: RouterMetrics, turn_input: TurnInput, outcome: str = "stop") -> None:
    """First token after 0.25 s, three more in 0.75 s."""
    clock = ManualClock()
    meter = TurnMeter(metrics, clock, clock.now, "", turn_input, TurnTrace(clock))
    meter.has_whole(turn_input)
    for clock.now, number in ((100.25, 1), (101.0, 3)):
        meter.arrived(TokenDelta(token_ids=(7,) * number, text=""), clock.now)
    meter.ended(outcome, prompt_tokens=9, answer_tokens=4)


def test_a_turn_is_observed_under_the_conventions_names_with_their_buckets() -> None:
    metrics = RouterMetrics("acme/model")

    take_a_turn(metrics, TextInput("Hello"))
    found = samples(metrics)

    labels = (
        ("gen_ai_operation_name", "text_completion"),
        ("gen_ai_provider_name", "segue"),
        ("gen_ai_request_model", "acme/model"),
    )
    assert found["gen_ai_server_time_to_first_token_seconds_sum", labels] == 0.25
    assert found["gen_ai_server_time_per_output_token_seconds_sum", labels] == 0.25
    ended = (("error_type", ""), *labels)
    assert found["gen_ai_server_request_duration_seconds_sum", ended] == 1.0
    below = [("gen_ai_server_request_duration_seconds_bucket", le) for le in ("0.64", "1.28")]
    assert [found[name, tuple(sorted((*ended, ("le", le))))] for name, le in below] == [0, 1]


def test_a_turn_that_fails_has_its_outcome_as_the_type_of_its_error() -> None:
    metrics = RouterMetrics("m")

    take_a_turn(metrics, ChatInput(messages=()), "failed")
    counts = {
        dict(labels)["error_type"]: value
        for (name, labels), value in samples(metrics).items()
        if name == "gen_ai_server_request_duration_seconds_count"
    }

    assert counts == {"failed": 1}


def test_vllms_names_are_an_option_and_have_our_values() -> None:
    metrics = RouterMetrics("m", vllm_names=True)
    assert metrics.vllm is not None

    take_a_turn(metrics, TextInput("Hello"))
    take_a_turn(metrics, TextInput("Hello"), "length")
    take_a_turn(metrics, TextInput("Hello"), "disconnected")
    metrics.load.turns_in_flight.set(3)
    metrics.vllm.set_pages(
        [UnitCounts(total=60, free=20, cached=10), UnitCounts(total=40, free=40)]
    )
    found = samples(metrics)

    model = ("model_name", "m")
    assert not [name for name, _ in samples(RouterMetrics("m")) if name.startswith("vllm")]
    assert found["vllm:num_requests_running", (model,)] == 3
    assert found["vllm:generation_tokens_total", (model,)] == 12
    assert found["vllm:kv_cache_usage_perc", (model,)] == 0.3
    assert found["vllm:time_to_first_token_seconds_sum", (model,)] == 0.75
    # Of all outcomes together.
    assert found["vllm:e2e_request_latency_seconds_count", (model,)] == 3
    assert found["vllm:e2e_request_latency_seconds_bucket", (("le", "+Inf"), model)] == 3
    reasons = ("abort", "length", "stop")
    success = {
        r: found["vllm:request_success_total", (("finished_reason", r), model)] for r in reasons
    }
    assert success == {"abort": 1, "length": 1, "stop": 1}


def chat(*roles: str, continues: bool = False) -> ChatInput:
    messages = tuple(Message(role=role, content="x") for role in roles)
    return ChatInput(messages=messages, continue_final_message=continues)


@pytest.mark.parametrize(
    ("turn_input", "number"),
    [
        (chat("system", "user"), 1),
        (chat("user", "assistant", "tool", "assistant", "user"), 3),
        (chat("user", "assistant", continues=True), 1),
        (TextInput("Hello"), 0),
    ],
)
def test_a_turns_number_counts_the_answers_before_it(turn_input: TurnInput, number: int) -> None:
    assert turn_number(turn_input) == number


def test_turn_numbers_have_seven_labels() -> None:
    classes = [turn_class(number) for number in (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 10_000)]

    assert classes == [
        *("1", "2", "3-4", "3-4", "5-8", "5-8", "9-16", "9-16", "17-32", "17-32", "33+", "33+")
    ]


def test_only_chats_are_in_the_histogram_by_turn_number() -> None:
    metrics = RouterMetrics()

    take_a_turn(metrics, chat("user", "assistant", "user"))
    take_a_turn(metrics, TextInput("Hello"))
    counts = {
        labels: value
        for (name, labels), value in samples(metrics).items()
        if name == "segue_chat_first_token_seconds_count"
    }

    assert counts == {(("turn", "2"),): 1}


def test_targets_are_the_router_and_all_workers_that_have_metrics() -> None:
    workers = [
        WorkerStatus(
            worker_id=WorkerId("decode-0"),
            role=Role.DECODE,
            epoch=Epoch(1),
            address="10.0.0.2:7430",
            metrics_address="10.0.0.2:7431",
            health=WorkerHealth.LOST,
        ),
        WorkerStatus(
            worker_id=WorkerId("prefill-0"), role=Role.PREFILL, epoch=Epoch(1), address="h:1"
        ),
    ]

    plain = json.loads(targets_of("10.0.0.1:7511", workers, has_tls=False))
    secured = json.loads(targets_of("10.0.0.1:7511", (), has_tls=True))

    router = {"role": "router", "process": "10.0.0.1:7511"}
    assert plain == [
        {"targets": ["10.0.0.1:7511"], "labels": router},
        {"targets": ["10.0.0.2:7431"], "labels": {"role": "decode", "process": "decode-0"}},
    ]
    assert secured[0]["labels"] == {**router, "__scheme__": "https"}
