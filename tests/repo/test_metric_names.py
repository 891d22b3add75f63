"""Dashboards and alerts depend on these names and labels: a change is a breaking one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from decode_worker.metrics import DecodeMetrics
from prefill_worker.metrics import PrefillMetrics
from router.metrics import RouterMetrics
from segue.gateway.metrics import GatewayMetrics

EVERY = {
    "segue_build_info": ("version",),
}
WORKER = EVERY | {
    "segue_pages": ("state",),
    "segue_slots": ("state",),
    "segue_worker_turns": ("state",),
    "segue_engine_silent_seconds": (),
    "segue_cache_evictions": ("unit", "to"),
    "segue_host_pages": ("state",),
    "segue_host_slots": ("state",),
    "segue_host_evictions": ("unit",),
    "segue_host_offloaded_tokens": (),
    "segue_host_loaded_tokens": (),
    "segue_host_load_seconds": (),
    "segue_stray_units": ("unit",),
    "segue_leases": (),
    "segue_leases_revoked": (),
}
# OpenTelemetry's semantic conventions fix these.
GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
ROUTER = EVERY | {
    "segue_turns": ("outcome",),
    "segue_turn_errors": ("error",),
    "segue_turn_retries": ("error",),
    "segue_no_first_token_seconds": ("outcome",),
    "segue_turn_seconds": ("outcome",),
    "segue_time_per_output_token_seconds": (),
    "segue_prompt_length_tokens": (),
    "segue_answer_length_tokens": (),
    "segue_turns_in_flight": (),
    "segue_waiting_turns": (),
    "segue_waiting_bytes": (),
    "segue_admission_wait_seconds": (),
    "segue_tenant_turns": ("tenant", "outcome"),
    "segue_tenant_tokens": ("tenant", "kind"),
    "segue_tenant_refusals": ("tenant", "limit"),
    "segue_sessions": (),
    "segue_workers": ("role", "health"),
    "segue_time_to_first_token_seconds": (),
    "segue_inter_token_latency_seconds": (),
    "segue_queue_seconds": (),
    "segue_router_dispatch_seconds": (),
    "segue_router_relay_seconds": (),
    "segue_placements": ("mode",),
    "segue_placement_seconds": (),
    "segue_placement_estimate_error": (),
    "segue_prompt_tokens": (),
    "segue_cached_tokens": (),
    "segue_completion_tokens": (),
    "segue_rerendered_tokens": (),
    "segue_rerendered_turns": (),
    "segue_history_bytes": (),
    "segue_resident_tokens": (),
    "segue_reuse_held_tokens": (),
    "segue_reuse_captured_tokens": (),
    "segue_reuse_delivered_tokens": (),
    "segue_chat_first_token_seconds": ("turn",),
    "gen_ai_server_time_to_first_token_seconds": GEN_AI,
    "gen_ai_server_time_per_output_token_seconds": GEN_AI,
    "gen_ai_server_request_duration_seconds": (*GEN_AI, "error_type"),
}
PREFILL = WORKER | {
    "segue_prefill_computed_tokens": (),
    "segue_prefill_cached_tokens": (),
    "segue_prefill_pulled_tokens": (),
    "segue_prefill_pulled_bytes": (),
    "segue_prefill_pull_seconds": (),
    "segue_prefill_chunk_seconds": (),
    "segue_prefill_chunk_tokens": (),
    "segue_prefill_batch_size": (),
    "segue_prefill_queue_seconds": (),
    "segue_handoff_seconds": ("part",),
    "segue_handoff_pair_bytes": ("prefill", "decode"),
    "segue_handoff_pair_seconds": ("prefill", "decode"),
    "segue_handoff_bytes": (),
    "segue_handoffs": ("outcome",),
}
DECODE = WORKER | {
    "segue_decode_step_seconds": (),
    "segue_decode_batch_size": (),
    "segue_decode_tokens": (),
    "segue_decode_prefilled_tokens": (),
    "segue_spec_decode_drafts": (),
    "segue_spec_decode_draft_tokens": (),
    "segue_spec_decode_draft_length": ("batch_size",),
    "segue_spec_decode_accepted_tokens": (),
    "segue_spec_decode_accepted_tokens_per_pos": ("position",),
    "segue_reserve_wait_seconds": (),
    "segue_handoff_transitions": ("state",),
}


GATEWAY = EVERY | {
    "segue_http_requests": ("route", "status"),
    "segue_http_requests_in_flight": (),
    "segue_http_time_to_first_token_seconds": (),
}


# The standard metrics of a process in Prometheus' own client.
STANDARD = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
    "python_info",
    "python_gc_collections_total",
}


PROCESSES = [RouterMetrics, PrefillMetrics, DecodeMetrics, GatewayMetrics]


def names_and_labels(registry: CollectorRegistry) -> dict[str, tuple[str, ...]]:
    collectors = set(registry._collector_to_names)
    return {
        collector._name: tuple(collector._labelnames)  # type: ignore[attr-defined]  # prometheus-client offers no other way
        for collector in collectors
        if hasattr(collector, "_labelnames")
    }


def test_the_routers_metrics_have_their_names() -> None:
    assert names_and_labels(RouterMetrics().registry) == ROUTER


def test_a_prefill_workers_metrics_have_their_names() -> None:
    assert names_and_labels(PrefillMetrics().registry) == PREFILL


def test_a_decode_workers_metrics_have_their_names() -> None:
    assert names_and_labels(DecodeMetrics().registry) == DECODE


def test_a_gateways_metrics_have_their_names() -> None:
    assert names_and_labels(GatewayMetrics().registry) == GATEWAY


@pytest.mark.parametrize("make", PROCESSES)
def test_every_process_reports_its_build_and_its_resources(
    make: Callable[[], RouterMetrics | PrefillMetrics | DecodeMetrics | GatewayMetrics],
) -> None:
    text = generate_latest(make().registry).decode()
    families = list(text_string_to_metric_families(text))
    samples = {sample.name: sample.value for family in families for sample in family.samples}

    assert samples.keys() >= STANDARD
    assert samples["segue_build_info"] == 1
    assert [name for name in samples if name.endswith("_created")] == []
    # No other metric is added unnoticed.
    assert {name.split("_")[0] for name in samples} - {"gen"} == {"segue", "process", "python"}


@pytest.mark.parametrize("make", PROCESSES)
def test_prometheus_own_checker_finds_no_problem(
    make: Callable[[], RouterMetrics | PrefillMetrics | DecodeMetrics | GatewayMetrics],
) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.fail("promtool is not installed; ./check installs it (Debian: prometheus)")
    text = generate_latest(make().registry)

    checked = subprocess.run(
        [program, "check", "metrics"], input=text, capture_output=True, check=False
    )

    assert (checked.returncode, checked.stderr) == (0, b"")


def test_no_label_contains_an_id() -> None:
    tables = (ROUTER, PREFILL, DECODE, GATEWAY)
    labels = {label for table in tables for names in table.values() for label in names}

    assert labels <= {
        *("outcome", "error", "role", "health", "mode", "state", "unit", "to", "part"),
        *("position", "batch_size", "version", "route", "status"),
        *("tenant", "kind", "limit", "turn"),
        # Names of workers, of which there are few.
        *("prefill", "decode"),
        *(*GEN_AI, "error_type"),
    }
