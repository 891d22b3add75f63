"""What sessions reuse, and the memory that it takes."""

from __future__ import annotations

from scripts.dashboards.panels import Dashboard, Panel, gauge, one, quantiles, rate

SESSIONS = Dashboard(
    name="sessions",
    title="Segue: sessions and reuse",
    panels=(
        Panel(
            title="Time to first token by turn number",
            queries=one(
                "histogram_quantile(0.5, sum by (le, turn) "
                "(rate(segue_chat_first_token_seconds_bucket[$__rate_interval])))",
                "turn {{turn}}",
            ),
            unit="s",
            explains="It should hardly grow with the conversation.",
        ),
        Panel(
            title="Prompt tokens: held, captured, delivered",
            queries=(
                *rate("segue_prompt_tokens_total", legend="all"),
                *rate("segue_reuse_held_tokens_total", legend="held by some worker"),
                *rate("segue_reuse_captured_tokens_total", legend="captured by routing"),
                *rate("segue_reuse_delivered_tokens_total", legend="delivered by workers"),
            ),
            explains="Between two lines: lost to placement, and lost to eviction.",
        ),
        Panel(
            title="Share of prompt tokens not computed",
            queries=one(
                "sum(rate(segue_reuse_delivered_tokens_total[$__rate_interval]))"
                " / sum(rate(segue_prompt_tokens_total[$__rate_interval]))",
                "delivered",
            ),
            unit="percentunit",
        ),
        Panel(
            title="Share of prompt tokens not shipped",
            queries=one(
                "sum(rate(segue_resident_tokens_total[$__rate_interval]))"
                " / sum(rate(segue_prompt_tokens_total[$__rate_interval]))",
                "resident on decode",
            ),
            unit="percentunit",
        ),
        Panel(
            title="Tokens computed, by worker's role",
            queries=(
                *rate("segue_prefill_computed_tokens_total", legend="on prefill"),
                *rate("segue_decode_prefilled_tokens_total", legend="on decode"),
                *rate("segue_prefill_pulled_tokens_total", legend="pulled instead"),
                *rate("segue_prefill_cached_tokens_total", legend="cached on prefill"),
            ),
        ),
        Panel(
            title="Re-rendered tokens",
            queries=rate("segue_rerendered_tokens_total", legend="tokens"),
            explains="The template wrote a session's last turn differently in the next.",
        ),
        Panel(
            title="One pull",
            queries=quantiles("segue_prefill_pull_seconds"),
            unit="s",
            empty_if="no prefix has been pulled",
        ),
        Panel(
            title="Sessions and leases",
            queries=(
                *one("sum(segue_sessions)", "known to routers"),
                *one("sum(segue_leases)", "with a lease"),
            ),
        ),
        Panel(title="Leases revoked", queries=rate("segue_leases_revoked_total", legend="revoked")),
        Panel(
            title="Host tier, tokens a second",
            queries=(
                *rate("segue_host_offloaded_tokens_total", legend="offloaded"),
                *rate("segue_host_loaded_tokens_total", legend="loaded back"),
            ),
            explains="Flat at 0 without a host tier ([engine] host_cache_bytes).",
        ),
        Panel(
            title="One load from the host",
            queries=quantiles("segue_host_load_seconds"),
            unit="s",
            empty_if="nothing has been loaded back, or there is no host tier",
        ),
        Panel(title="Lengths of prompts", queries=quantiles("segue_prompt_length_tokens")),
        Panel(title="Lengths of answers", queries=quantiles("segue_answer_length_tokens")),
    ),
)


MEMORY = Dashboard(
    name="memory",
    title="Segue: memory and cache",
    panels=(
        Panel(title="Pages by state", queries=gauge("segue_pages", "state")),
        Panel(title="Slots by state", queries=gauge("segue_slots", "state")),
        Panel(
            title="Pages in use by worker",
            queries=one(
                '1 - sum by (instance) (segue_pages{state=~"free|cached"})'
                " / sum by (instance) (segue_pages)",
                "{{instance}}",
            ),
            unit="percentunit",
            explains="Cached pages give way, so they count as free.",
        ),
        Panel(
            title="Evictions",
            queries=one(
                "sum by (unit, to) (rate(segue_cache_evictions_total[$__rate_interval]))",
                "{{unit}} to {{to}}",
            ),
            empty_if="nothing has had to be evicted",
        ),
        Panel(
            title="Quarantined and stray units",
            queries=(
                *one('sum(segue_pages{state="quarantined"})', "pages in quarantine"),
                *one('sum(segue_slots{state="quarantined"})', "slots in quarantine"),
                *one("sum(segue_stray_units)", "without an owner: a leak"),
            ),
            explains="Should be 0. Quarantine ends when a writer has stopped or is dead.",
        ),
        Panel(title="Host pages by state", queries=gauge("segue_host_pages", "state")),
        Panel(
            title="Evictions from the host tier",
            queries=rate("segue_host_evictions_total", "unit"),
            empty_if="nothing has had to be evicted from it, or there is no host tier",
        ),
        Panel(title="Histories in routers", queries=one("sum(segue_history_bytes)"), unit="bytes"),
        Panel(
            title="Memory of processes",
            queries=one('process_resident_memory_bytes{job=~".*segue.*"}', "{{instance}}"),
            unit="bytes",
        ),
    ),
)
