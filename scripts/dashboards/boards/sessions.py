"""What sessions reuse, and the memory that it takes."""

from __future__ import annotations

from scripts.dashboards.panels import Dashboard, Panel, gauge, one, quantiles, rate, share

SESSIONS = Dashboard(
    "sessions",
    "Segue: sessions and reuse",
    (
        Panel(
            "Time to first token by turn number",
            quantiles("segue_chat_first_token_seconds", "turn", (0.5,), "turn {{turn}}"),
            unit="s",
            explains="It should hardly grow with the conversation.",
        ),
        Panel(
            "Prompt tokens: held, captured, delivered",
            (
                *rate("segue_prompt_tokens_total", legend="all"),
                *rate("segue_reuse_held_tokens_total", legend="held by some worker"),
                *rate("segue_reuse_captured_tokens_total", legend="captured by routing"),
                *rate("segue_reuse_delivered_tokens_total", legend="delivered by workers"),
            ),
            explains="Between two lines: lost to placement, and lost to eviction.",
        ),
        Panel(
            "Share of prompt tokens not computed",
            share("segue_reuse_delivered_tokens_total", "segue_prompt_tokens_total", "delivered"),
            unit="percentunit",
        ),
        Panel(
            "Share of prompt tokens not shipped",
            share("segue_resident_tokens_total", "segue_prompt_tokens_total", "resident on decode"),
            unit="percentunit",
        ),
        Panel(
            "Tokens computed, by worker's role",
            (
                *rate("segue_prefill_computed_tokens_total", legend="on prefill"),
                *rate("segue_decode_prefilled_tokens_total", legend="on decode"),
                *rate("segue_prefill_pulled_tokens_total", legend="pulled instead"),
                *rate("segue_prefill_cached_tokens_total", legend="cached on prefill"),
            ),
        ),
        Panel(
            "Re-rendered tokens",
            rate("segue_rerendered_tokens_total", legend="tokens"),
            explains="The template wrote a session's last turn differently in the next.",
        ),
        Panel(
            "One pull",
            quantiles("segue_prefill_pull_seconds"),
            unit="s",
            empty_if="no prefix has been pulled",
        ),
        Panel(
            "Sessions and leases",
            (
                *one("sum(segue_sessions)", "known to routers"),
                *one("sum(segue_leases)", "with a lease"),
            ),
        ),
        Panel("Leases revoked", rate("segue_leases_revoked_total", legend="revoked")),
        Panel(
            "Host tier, tokens a second",
            (
                *rate("segue_host_offloaded_tokens_total", legend="offloaded"),
                *rate("segue_host_loaded_tokens_total", legend="loaded back"),
            ),
            explains="Flat at 0 without a host tier ([engine] host_cache_bytes).",
        ),
        Panel(
            "One load from the host",
            quantiles("segue_host_load_seconds"),
            unit="s",
            empty_if="nothing has been loaded back, or there is no host tier",
        ),
        Panel("Lengths of prompts", quantiles("segue_prompt_length_tokens")),
        Panel("Lengths of answers", quantiles("segue_answer_length_tokens")),
    ),
)


MEMORY = Dashboard(
    "memory",
    "Segue: memory and cache",
    (
        Panel("Pages by state", gauge("segue_pages", "state")),
        Panel("Slots by state", gauge("segue_slots", "state")),
        Panel(
            "Pages in use by worker",
            one(
                '1 - sum by (instance) (segue_pages{state=~"free|cached"})'
                " / sum by (instance) (segue_pages)",
                "{{instance}}",
            ),
            unit="percentunit",
            explains="Cached pages give way, so they count as free.",
        ),
        Panel(
            "Evictions",
            rate("segue_cache_evictions_total", "unit, to", "{{unit}} to {{to}}"),
            empty_if="nothing has had to be evicted",
        ),
        Panel(
            "Quarantined and stray units",
            (
                *one('sum(segue_pages{state="quarantined"})', "pages in quarantine"),
                *one('sum(segue_slots{state="quarantined"})', "slots in quarantine"),
                *one("sum(segue_stray_units)", "without an owner: a leak"),
            ),
            explains="Should be 0. Quarantine ends when a writer has stopped or is dead.",
        ),
        Panel("Host pages by state", gauge("segue_host_pages", "state")),
        Panel(
            "Evictions from the host tier",
            rate("segue_host_evictions_total", "unit"),
            empty_if="nothing has had to be evicted from it, or there is no host tier",
        ),
        Panel("Histories in routers", one("sum(segue_history_bytes)"), unit="bytes"),
        Panel(
            "Memory of processes",
            one('process_resident_memory_bytes{job=~".*segue.*"}', "{{instance}}"),
            unit="bytes",
        ),
    ),
)
