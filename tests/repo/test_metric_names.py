"""Dashboards and alerts are written against these names and labels: a change is a breaking one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from decode_worker.metrics import DecodeMetrics
from prefill_worker.metrics import PrefillMetrics
from router.metrics import RouterMetrics

WORKER = {
    "segue_pages": ("state",),
    "segue_slots": ("state",),
    "segue_worker_turns": ("state",),
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
ROUTER = {
    "segue_turns": ("outcome",),
    "segue_turns_in_flight": (),
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


def names_and_labels(registry: CollectorRegistry) -> dict[str, tuple[str, ...]]:
    collectors = set(registry._collector_to_names)
    return {c._name: tuple(c._labelnames) for c in collectors}  # type: ignore[attr-defined]  # prometheus-client offers no other way


def test_the_router_measures_what_it_did() -> None:
    assert names_and_labels(RouterMetrics().registry) == ROUTER


def test_a_prefill_worker_measures_what_it_did() -> None:
    assert names_and_labels(PrefillMetrics().registry) == PREFILL


def test_a_decode_worker_measures_what_it_did() -> None:
    assert names_and_labels(DecodeMetrics().registry) == DECODE
