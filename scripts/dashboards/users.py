"""What users see, and the processes that they talk to."""

from __future__ import annotations

from scripts.dashboards.panels import Dashboard, Panel, mean, one, quantiles, rate, share

OBJECTIVES = Dashboard(
    name="objectives",
    title="Segue: what users see",
    panels=(
        Panel(
            title="Time to first token",
            queries=quantiles("segue_time_to_first_token_seconds"),
            unit="s",
            explains="From the receipt of a turn. The parts are below.",
        ),
        Panel(
            title="First tokens within 2.5 s",
            queries=share(
                'segue_time_to_first_token_seconds_bucket{le="2.5"}',
                "segue_time_to_first_token_seconds_count",
                "share",
            ),
            unit="percentunit",
            explains="The objective is 99 %.",
        ),
        Panel(
            title="Time between tokens",
            queries=quantiles("segue_inter_token_latency_seconds"),
            unit="s",
        ),
        Panel(
            title="Tokens within 100 ms of the one before",
            queries=share(
                'segue_inter_token_latency_seconds_bucket{le="0.1"}',
                "segue_inter_token_latency_seconds_count",
                "share",
            ),
            unit="percentunit",
            explains="The objective is 99 %.",
        ),
        Panel(
            title="A first token's parts, means",
            queries=(
                *mean("segue_queue_seconds", legend="queue, with routing"),
                *mean("segue_prefill_queue_seconds", legend="of it on the prefill worker"),
                *mean("segue_prefill_chunk_seconds", legend="one prefill pass"),
                *share(
                    'segue_handoff_seconds_sum{part="exposed"}',
                    'segue_handoff_seconds_count{part="exposed"}',
                    "exposed transfer",
                ),
                *mean("segue_router_dispatch_seconds", legend="of it in the router"),
            ),
            unit="s",
            explains="The largest one is where to look for a slow turn.",
        ),
        Panel(title="Turns by outcome", queries=rate("segue_turns_total", "outcome"), unit="reqps"),
        Panel(
            title="Errors by class",
            queries=rate("segue_turn_errors_total", "error"),
            unit="reqps",
            empty_if="no turn has ended with an error",
        ),
        Panel(
            title="Tokens a second",
            queries=(
                *rate("segue_completion_tokens_total", legend="generated"),
                *rate("segue_prompt_tokens_total", legend="of prompts"),
            ),
        ),
        Panel(
            title="Turns in flight and waiting",
            queries=(
                *one("sum(segue_turns_in_flight)", "in flight"),
                *one("sum(segue_waiting_turns)", "waiting"),
            ),
        ),
        Panel(
            title="Wait for a place",
            queries=quantiles("segue_admission_wait_seconds"),
            unit="s",
            empty_if="no turn has had to wait",
        ),
        Panel(
            title="Turns by tenant",
            queries=rate("segue_tenant_turns_total", "tenant"),
            unit="reqps",
        ),
    ),
)


FRONT = Dashboard(
    name="front",
    title="Segue: router and gateway",
    panels=(
        Panel(
            title="HTTP requests",
            queries=one(
                "sum by (route, status) (rate(segue_http_requests_total[$__rate_interval]))",
                "{{route}} {{status}}",
            ),
            unit="reqps",
            empty_if="no gateway is scraped",
        ),
        Panel(
            title="HTTP requests in flight",
            queries=one("sum by (instance) (segue_http_requests_in_flight)", "{{instance}}"),
            empty_if="no gateway is scraped",
        ),
        Panel(
            title="First token at the gateway",
            queries=quantiles("segue_http_time_to_first_token_seconds"),
            unit="s",
            empty_if="no gateway is scraped",
        ),
        Panel(
            title="The router's time for a turn",
            queries=quantiles("segue_router_dispatch_seconds"),
            unit="s",
            explains="Render, tokenise, place.",
        ),
        Panel(
            title="The router's time for a token",
            queries=quantiles("segue_router_relay_seconds"),
            unit="s",
        ),
        Panel(title="One placement", queries=quantiles("segue_placement_seconds"), unit="s"),
        Panel(
            title="Requests that wait, bytes",
            queries=one("sum by (instance) (segue_waiting_bytes)", "{{instance}}"),
            unit="bytes",
        ),
        Panel(
            title="Turns without a first token",
            queries=quantiles("segue_no_first_token_seconds", "outcome"),
            unit="s",
            empty_if="every turn has had a first token",
        ),
        Panel(
            title="Refused for a tenant's limit",
            queries=one(
                "sum by (tenant, limit) (rate(segue_tenant_refusals_total[$__rate_interval]))",
                "{{tenant}} {{limit}}",
            ),
            empty_if="no tenant has reached a limit",
        ),
        Panel(
            title="What tenants use, tokens a second",
            queries=one(
                "sum by (tenant, kind) (rate(segue_tenant_tokens_total[$__rate_interval]))",
                "{{tenant}} {{kind}}",
            ),
        ),
        Panel(
            title="Scrapes that work",
            queries=one('up{job=~".*segue.*"}', "{{instance}}"),
        ),
    ),
)
