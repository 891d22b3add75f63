"""Latency and errors as users see them, and the processes that they connect to."""

from __future__ import annotations

from scripts.dashboards.panels import Dashboard, Panel, gauge, mean, one, quantiles, rate, share

OBJECTIVES = Dashboard(
    "objectives",
    "Segue: what users see",
    (
        Panel(
            "Time to first token",
            quantiles("segue_time_to_first_token_seconds"),
            unit="s",
            explains="From the receipt of a turn. The parts are below.",
        ),
        Panel(
            "First tokens within 2.5 s",
            share(
                'segue_time_to_first_token_seconds_bucket{le="2.5"}',
                "segue_time_to_first_token_seconds_count",
                "share",
            ),
            unit="percentunit",
            explains="The objective is 99 %.",
        ),
        Panel("Time between tokens", quantiles("segue_inter_token_latency_seconds"), unit="s"),
        Panel(
            "Tokens within 100 ms of the one before",
            share(
                'segue_inter_token_latency_seconds_bucket{le="0.1"}',
                "segue_inter_token_latency_seconds_count",
                "share",
            ),
            unit="percentunit",
            explains="The objective is 99 %.",
        ),
        Panel(
            "A first token's parts, means",
            (
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
        Panel("Turns by outcome", rate("segue_turns_total", "outcome"), unit="reqps"),
        Panel(
            "Errors by class",
            rate("segue_turn_errors_total", "error"),
            unit="reqps",
            empty_if="no turn has ended with an error",
        ),
        Panel(
            "Tokens a second",
            (
                *rate("segue_completion_tokens_total", legend="generated"),
                *rate("segue_prompt_tokens_total", legend="of prompts"),
            ),
        ),
        Panel(
            "Turns in flight and waiting",
            (
                *one("sum(segue_turns_in_flight)", "in flight"),
                *one("sum(segue_waiting_turns)", "waiting"),
            ),
        ),
        Panel(
            "Wait for a place",
            quantiles("segue_admission_wait_seconds"),
            unit="s",
            empty_if="no turn has had to wait",
        ),
        Panel("Turns by tenant", rate("segue_tenant_turns_total", "tenant"), unit="reqps"),
    ),
)


_NO_GATEWAY = "no gateway is scraped"
FRONT = Dashboard(
    "front",
    "Segue: router and gateway",
    (
        Panel(
            "HTTP requests",
            rate("segue_http_requests_total", "route, status"),
            unit="reqps",
            empty_if=_NO_GATEWAY,
        ),
        Panel(
            "HTTP requests in flight",
            gauge("segue_http_requests_in_flight", "instance"),
            empty_if=_NO_GATEWAY,
        ),
        Panel(
            "First token at the gateway",
            quantiles("segue_http_time_to_first_token_seconds"),
            unit="s",
            empty_if=_NO_GATEWAY,
        ),
        Panel(
            "The router's time for a turn",
            quantiles("segue_router_dispatch_seconds"),
            unit="s",
            explains="Render, tokenise, place.",
        ),
        Panel("The router's time for a token", quantiles("segue_router_relay_seconds"), unit="s"),
        Panel("One placement", quantiles("segue_placement_seconds"), unit="s"),
        Panel("Requests that wait, bytes", gauge("segue_waiting_bytes", "instance"), unit="bytes"),
        Panel(
            "Turns without a first token",
            quantiles("segue_no_first_token_seconds", "outcome"),
            unit="s",
            empty_if="every turn has had a first token",
        ),
        Panel(
            "Refused for a tenant's limit",
            rate("segue_tenant_refusals_total", "tenant, limit"),
            empty_if="no tenant has reached a limit",
        ),
        Panel(
            "What tenants use, tokens a second", rate("segue_tenant_tokens_total", "tenant, kind")
        ),
        Panel("Scrapes that work", one('up{job=~".*segue.*"}', "{{instance}}")),
    ),
)
