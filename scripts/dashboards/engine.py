"""Workers, their passes and their drafts."""

from __future__ import annotations

from scripts.dashboards.panels import Dashboard, Panel, mean, one, quantiles, rate

DRAFTS = Dashboard(
    name="drafts",
    title="Segue: speculative decoding",
    panels=(
        Panel(
            title="Share of drafted tokens that are accepted",
            queries=one(
                "sum(rate(segue_spec_decode_accepted_tokens_total[$__rate_interval]))"
                " / sum(rate(segue_spec_decode_draft_tokens_total[$__rate_interval]))",
                "accepted",
            ),
            unit="percentunit",
        ),
        Panel(
            title="Tokens a step and sequence",
            queries=one(
                "1 + sum(rate(segue_spec_decode_accepted_tokens_total[$__rate_interval]))"
                " / sum(rate(segue_spec_decode_drafts_total[$__rate_interval]))",
                "with drafts",
            ),
        ),
        Panel(
            title="Accepted by position",
            queries=rate("segue_spec_decode_accepted_tokens_per_pos_total", "position"),
        ),
        Panel(
            title="Drafts that pay, by batch size",
            queries=one("avg by (batch_size) (segue_spec_decode_draft_length)", "{{batch_size}}"),
            explains="Tokens to draft for each sequence, as learned.",
        ),
        Panel(
            title="Tokens drafted and accepted",
            queries=(
                *rate("segue_spec_decode_draft_tokens_total", legend="drafted"),
                *rate("segue_spec_decode_accepted_tokens_total", legend="accepted"),
            ),
        ),
    ),
)


WORKERS = Dashboard(
    name="workers",
    title="Segue: workers and engine",
    panels=(
        Panel(
            title="Workers by role and health",
            queries=one("max by (role, health) (segue_workers)", "{{role}} {{health}}"),
        ),
        Panel(
            title="Turns on workers",
            queries=one("sum by (instance, state) (segue_worker_turns)", "{{instance}} {{state}}"),
        ),
        Panel(title="One prefill pass", queries=quantiles("segue_prefill_chunk_seconds"), unit="s"),
        Panel(title="Tokens of a prefill pass", queries=mean("segue_prefill_chunk_tokens")),
        Panel(title="Turns in a prefill pass", queries=mean("segue_prefill_batch_size")),
        Panel(
            title="Queue on prefill",
            queries=quantiles("segue_prefill_queue_seconds"),
            unit="s",
        ),
        Panel(title="One decode step", queries=quantiles("segue_decode_step_seconds"), unit="s"),
        Panel(title="Sequences in a step", queries=mean("segue_decode_batch_size")),
        Panel(
            title="Tokens a second by decode worker",
            queries=rate("segue_decode_tokens_total", "instance"),
        ),
        Panel(
            title="Engines without progress",
            queries=one("max by (instance) (segue_engine_silent_seconds)", "{{instance}}"),
            unit="s",
            explains="A worker whose engine is silent for too long is stuck, and is restarted.",
        ),
        Panel(
            title="Busy share",
            queries=(
                *rate("segue_prefill_chunk_seconds_sum", "instance", "prefill {{instance}}"),
                *rate("segue_decode_step_seconds_sum", "instance", "decode {{instance}}"),
            ),
            unit="percentunit",
            explains="Seconds of passes a second: 1 is a worker without a pause.",
        ),
        Panel(
            title="Processor time",
            queries=one(
                'rate(process_cpu_seconds_total{job=~".*segue.*"}[$__rate_interval])',
                "{{instance}}",
            ),
        ),
        Panel(
            title="Starts of processes",
            queries=one(
                'changes(process_start_time_seconds{job=~".*segue.*"}[1h])', "{{instance}}"
            ),
        ),
    ),
)
