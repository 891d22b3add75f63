"""A prompt's handoff from a prefill worker to a decode worker."""

from __future__ import annotations

from scripts.dashboards.panels import Dashboard, Panel, Query, mean, one, quantiles, rate, share

_PAIR = "{{prefill}} → {{decode}}"


def _by_pair(above: str, below: str) -> tuple[Query, ...]:
    return share(above, below, _PAIR, by="prefill, decode")


HANDOFFS = Dashboard(
    "handoffs",
    "Segue: from prefill to decode",
    (
        Panel(
            "Placements by mode",
            rate("segue_placements_total", "mode"),
            unit="reqps",
            explains="Computed on prefill, pulled from another worker, or computed on decode.",
        ),
        Panel(
            "Bytes in flight and exposed, a handoff",
            quantiles("segue_handoff_seconds", "part"),
            unit="s",
            explains="Exposed: prefill had finished computing and waited for the bytes.",
        ),
        Panel(
            "Hidden share of transfers",
            one(
                "clamp_min(1 - sum(rate("
                'segue_handoff_seconds_sum{part="exposed"}[$__rate_interval]))'
                ' / sum(rate(segue_handoff_seconds_sum{part="moving"}[$__rate_interval])), 0)',
                "hidden",
            ),
            unit="percentunit",
            explains="What of the transfer happened while the prompt was still being computed. 0 "
            "also if bytes waited longer for their turn than they moved.",
        ),
        Panel("Bytes a handoff", mean("segue_handoff_bytes"), unit="bytes"),
        Panel(
            "Seconds in flight a handoff, by pair",
            _by_pair("segue_handoff_pair_seconds_sum", "segue_handoff_pair_seconds_count"),
            unit="s",
        ),
        Panel(
            "Bandwidth of transfers, by pair",
            _by_pair("segue_handoff_pair_bytes_sum", "segue_handoff_pair_seconds_sum"),
            unit="Bps",
            explains="Bytes by the time in which they moved: one pair below the others has a slow "
            "link, a worker below the others in all its pairs a slow node.",
        ),
        Panel(
            "Bytes a second, by pair",
            rate("segue_handoff_pair_bytes_sum", "prefill, decode", _PAIR),
            unit="Bps",
        ),
        Panel(
            "Exposed seconds by prefill worker, means",
            share(
                'segue_handoff_seconds_sum{part="exposed"}',
                'segue_handoff_seconds_count{part="exposed"}',
                "{{instance}}",
                by="instance",
            ),
            unit="s",
            explains="One worker above the others has a slow link.",
        ),
        Panel(
            "Handoffs received, by state and decode worker",
            rate("segue_handoff_transitions_total", "instance, state"),
        ),
        Panel("Handoffs by outcome", rate("segue_handoffs_total", "outcome")),
        Panel("Wait for memory on decode", quantiles("segue_reserve_wait_seconds"), unit="s"),
        Panel(
            "Attempts retried elsewhere",
            rate("segue_turn_retries_total", "error"),
            empty_if="no attempt has failed",
        ),
        Panel(
            "Error of the expected first token, p10 to p90",
            quantiles("segue_placement_estimate_error", at=(0.1, 0.5, 0.9)),
            explains="0.5: it took twice as long as expected, -0.5: half as long.",
        ),
    ),
)
