"""Workers, their passes and their drafts."""

from __future__ import annotations

from scripts.dashboards.panels import Dashboard, Panel, gauge, mean, one, quantiles, rate, share

DRAFTS = Dashboard(
    "drafts",
    "Segue: speculative decoding",
    (
        Panel(
            "Share of drafted tokens that are accepted",
            share(
                "segue_spec_decode_accepted_tokens_total",
                "segue_spec_decode_draft_tokens_total",
                "accepted",
            ),
            unit="percentunit",
        ),
        Panel(
            "Tokens a step and sequence",
            one(
                "1 + sum(rate(segue_spec_decode_accepted_tokens_total[$__rate_interval]))"
                " / sum(rate(segue_spec_decode_drafts_total[$__rate_interval]))",
                "with drafts",
            ),
        ),
        Panel(
            "Accepted by position",
            rate("segue_spec_decode_accepted_tokens_per_pos_total", "position"),
        ),
        Panel(
            "Drafts that pay, by batch size",
            one("avg by (batch_size) (segue_spec_decode_draft_length)", "{{batch_size}}"),
            explains="Tokens to draft for each sequence, as learned.",
        ),
        Panel(
            "Tokens drafted and accepted",
            (
                *rate("segue_spec_decode_draft_tokens_total", legend="drafted"),
                *rate("segue_spec_decode_accepted_tokens_total", legend="accepted"),
            ),
        ),
    ),
)


WORKERS = Dashboard(
    "workers",
    "Segue: workers and engine",
    (
        Panel(
            "Workers by role and health",
            one("max by (role, health) (segue_workers)", "{{role}} {{health}}"),
        ),
        Panel("Turns on workers", gauge("segue_worker_turns", "instance, state")),
        Panel("One prefill pass", quantiles("segue_prefill_chunk_seconds"), unit="s"),
        Panel("Tokens of a prefill pass", mean("segue_prefill_chunk_tokens")),
        Panel("Turns in a prefill pass", mean("segue_prefill_batch_size")),
        Panel("Queue on prefill", quantiles("segue_prefill_queue_seconds"), unit="s"),
        Panel("One decode step", quantiles("segue_decode_step_seconds"), unit="s"),
        Panel("Sequences in a step", mean("segue_decode_batch_size")),
        Panel(
            "Tokens a second by decode worker",
            rate("segue_decode_tokens_total", "instance"),
        ),
        Panel(
            "Engines without progress",
            one("max by (instance) (segue_engine_silent_seconds)", "{{instance}}"),
            unit="s",
            explains="A worker whose engine is silent for too long is stuck, and is restarted.",
        ),
        Panel(
            "Busy share",
            (
                *rate("segue_prefill_chunk_seconds_sum", "instance", "prefill {{instance}}"),
                *rate("segue_decode_step_seconds_sum", "instance", "decode {{instance}}"),
            ),
            unit="percentunit",
            explains="Seconds of passes a second: 1 is a worker without a pause.",
        ),
        Panel(
            "Processor time",
            one(
                'rate(process_cpu_seconds_total{job=~".*segue.*"}[$__rate_interval])',
                "{{instance}}",
            ),
        ),
        Panel(
            "Starts of processes",
            one('changes(process_start_time_seconds{job=~".*segue.*"}[1h])', "{{instance}}"),
        ),
    ),
)
