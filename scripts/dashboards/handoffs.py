"""The way of a prompt from a prefill worker to a decode worker."""

from __future__ import annotations

from scripts.dashboards.panels import Dashboard, Panel, Query, mean, one, quantiles, rate, share

_PAIR = "{{prefill}} → {{decode}}"


def _by_pair(above: str, below: str) -> tuple[Query, ...]:
    return share(above, below, _PAIR, by="prefill, decode")


HANDOFFS = Dashboard(
    name="handoffs",
    title="Segue: from prefill to decode",
    panels=(
        Panel(
            title="Placements by mode",
            queries=rate("segue_placements_total", "mode"),
            unit="reqps",
            explains="Computed on prefill, pulled from another worker, or computed on decode.",
        ),
        Panel(
            title="Bytes in flight and exposed, a handoff",
            queries=quantiles("segue_handoff_seconds", "part"),
            unit="s",
            explains="Exposed: prefill had finished computing and waited for the bytes.",
        ),
        Panel(
            title="Hidden share of transfers",
            queries=one(
                "clamp_min(1 - sum(rate("
                'segue_handoff_seconds_sum{part="exposed"}[$__rate_interval]))'
                ' / sum(rate(segue_handoff_seconds_sum{part="moving"}[$__rate_interval])), 0)',
                "hidden",
            ),
            unit="percentunit",
            explains="What of the transfer happened while the prompt was still being computed. 0 "
            "also if bytes waited longer for their turn than they moved.",
        ),
        Panel(title="Bytes a handoff", queries=mean("segue_handoff_bytes"), unit="bytes"),
        Panel(
            title="Seconds in flight a handoff, by pair",
            queries=_by_pair("segue_handoff_pair_seconds_sum", "segue_handoff_pair_seconds_count"),
            unit="s",
        ),
        Panel(
            title="Bandwidth of transfers, by pair",
            queries=_by_pair("segue_handoff_pair_bytes_sum", "segue_handoff_pair_seconds_sum"),
            unit="Bps",
            explains="Bytes by the time in which they moved: one pair below the others has a slow "
            "link, a worker below the others in all its pairs a slow node.",
        ),
        Panel(
            title="Bytes a second, by pair",
            queries=one(
                "sum by (prefill, decode) (rate(segue_handoff_pair_bytes_sum[$__rate_interval]))",
                _PAIR,
            ),
            unit="Bps",
        ),
        Panel(
            title="Exposed seconds by prefill worker, means",
            queries=share(
                'segue_handoff_seconds_sum{part="exposed"}',
                'segue_handoff_seconds_count{part="exposed"}',
                "{{instance}}",
                by="instance",
            ),
            unit="s",
            explains="One worker above the others has a slow link.",
        ),
        Panel(
            title="Handoffs received, by state and decode worker",
            queries=one(
                "sum by (instance, state) "
                "(rate(segue_handoff_transitions_total[$__rate_interval]))",
                "{{instance}} {{state}}",
            ),
        ),
        Panel(title="Handoffs by outcome", queries=rate("segue_handoffs_total", "outcome")),
        Panel(
            title="Wait for memory on decode",
            queries=quantiles("segue_reserve_wait_seconds"),
            unit="s",
        ),
        Panel(
            title="Attempts retried elsewhere",
            queries=rate("segue_turn_retries_total", "error"),
            empty_if="no attempt has failed",
        ),
        Panel(
            title="Error of the expected first token, p10 to p90",
            queries=tuple(
                Query(
                    expression=f"histogram_quantile({q}, sum by (le) "
                    "(rate(segue_placement_estimate_error_bucket[$__rate_interval])))",
                    legend=f"p{round(q * 100)}",
                )
                for q in (0.1, 0.5, 0.9)
            ),
            explains="0.5: it took twice as long as expected, -0.5: half as long.",
        ),
    ),
)
