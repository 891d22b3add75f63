"""The router's metrics. A test freezes their names and labels."""

from __future__ import annotations

import collections
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from router.telemetry.conventions import GenAiMetrics, VllmNames
from segue.process.metrics_endpoint import new_registry
from segue.process.telemetry import RateMeter

# From a local demo model's milliseconds to a long prompt's minute; finest where users notice.
_LATENCY_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5),
    *(5.0, 10.0, 30.0, 60.0),
)
_TURN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
_LENGTH_BUCKETS = tuple(4**n for n in range(11))
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0)
# The router's own decision takes far less than a millisecond.
_DECISION_BUCKETS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3)
_ERROR_BUCKETS = (-0.75, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
# These exist from the start: a rate ignores a counter's first step, from absent to 1.
_OUTCOMES = (
    *("stop", "length", "cancelled", "disconnected", "deadline", "invalid", "no_history"),
    *("overloaded", "failed"),
)
_RETRIED = ("Overloaded", "StaleEpoch", "TransferFailed", "Unavailable")
# Each tenant has a few dozen time series.
_MAX_TENANT_LABELS = 100
_OVERHEAD_BUCKETS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2)


class LoadMetrics:
    """The current load, and how turns ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        self.turns = counter("segue_turns_total", "Turns by how they ended.", ["outcome"])
        for outcome in _OUTCOMES:
            self.turns.labels(outcome)
        self.errors = counter(
            "segue_turn_errors_total",
            "Turns that ended with an error, including refused turns, by error class.",
            ["error"],
        )
        self.retries = counter(
            "segue_turn_retries_total",
            "Attempts that failed and were retried elsewhere, by error class.",
            ["error"],
        )
        for error in _RETRIED:
            self.retries.labels(error)
        self.turns_in_flight = gauge(
            "segue_turns_in_flight", "Turns that were admitted and have not ended."
        )
        self.waiting_turns = gauge("segue_waiting_turns", "Turns that wait for a place.")
        self.waiting_bytes = gauge(
            "segue_waiting_bytes", "Memory of the requests of waiting turns."
        )
        self.sessions = gauge("segue_sessions", "Sessions whose placement is remembered.")
        self.history_bytes = gauge(
            "segue_history_bytes", "Memory that keeps the sessions' messages."
        )
        self.workers = gauge("segue_workers", "Workers by role and health.", ["role", "health"])
        # The rest is for `segue status`.
        self.ended: collections.Counter[str] = collections.Counter()
        """Turns that ran, by outcome."""
        self.rate = RateMeter()
        """Completion tokens."""
        self.drafted_tokens = self.accepted_tokens = 0


class TenantMetrics:
    """Usage by tenant. The first tenants have labels of their own, all others share one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        self._labels: dict[str, str] = {}
        self._turns = counter(
            "segue_tenant_turns_total", "Turns by tenant and how they ended.", ["tenant", "outcome"]
        )
        self._tokens = counter(
            "segue_tenant_tokens_total",
            "Tokens that count for tokens_per_minute: computed of prompts, and generated.",
            ["tenant", "kind"],
        )
        self._refusals = counter(
            "segue_tenant_refusals_total",
            "Turns refused for a limit of the tenant: turns or tokens.",
            ["tenant", "limit"],
        )

    def ended(self, tenant: str, outcome: str) -> None:
        self._turns.labels(self._label(tenant), outcome).inc()

    def used(self, tenant: str, *, computed: int, generated: int) -> None:
        self._tokens.labels(self._label(tenant), "computed").inc(computed)
        self._tokens.labels(self._label(tenant), "generated").inc(generated)

    def refused(self, tenant: str, limit: str) -> None:
        self._refusals.labels(self._label(tenant), limit).inc()

    def _label(self, tenant: str) -> str:
        if len(self._labels) < _MAX_TENANT_LABELS:
            return self._labels.setdefault(tenant, tenant or "default")
        return self._labels.get(tenant, "other")


class LatencyMetrics:
    """Latencies of a turn: those that users notice, and the router's own part of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        histogram = partial(Histogram, registry=registry)
        self.first_token_s = histogram(
            "segue_time_to_first_token_seconds",
            "From the receipt of a turn to its first token.",
            buckets=_LATENCY_BUCKETS,
        )
        self.no_first_token_s = histogram(
            "segue_no_first_token_seconds",
            "From the receipt of a turn to its end, for turns that ended before any token.",
            ["outcome"],
            buckets=_LATENCY_BUCKETS,
        )
        self.turn_s = histogram(
            "segue_turn_seconds",
            "From the receipt of a turn to its end.",
            ["outcome"],
            buckets=_TURN_BUCKETS,
        )
        self.output_token_s = histogram(
            "segue_time_per_output_token_seconds",
            "Mean time per token after the first, of finished answers.",
            buckets=_TOKEN_BUCKETS,
        )
        self.inter_token_s = histogram(
            "segue_inter_token_latency_seconds",
            "Between two tokens of a turn.",
            buckets=_TOKEN_BUCKETS,
        )
        self.queue_s = histogram(
            "segue_queue_seconds",
            "From the receipt of a turn until prefill started to compute it.",
            buckets=_LATENCY_BUCKETS,
        )
        self.wait_s = histogram(
            "segue_admission_wait_seconds",
            "How long a turn waited for a place, if it had to wait.",
            buckets=_LATENCY_BUCKETS,
        )
        self.chat_first_token_s = histogram(
            "segue_chat_first_token_seconds",
            "From the receipt of a chat's turn to its first token, by the turn's number.",
            ["turn"],
            buckets=_LATENCY_BUCKETS,
        )
        self.dispatch_s = histogram(
            "segue_router_dispatch_seconds",
            "Time that the router itself adds to a turn: rendering, tokenising, placing.",
            buckets=_OVERHEAD_BUCKETS,
        )
        self.relay_s = histogram(
            "segue_router_relay_seconds",
            "Time that the router itself adds to a token, from decode's event to the client.",
            buckets=_OVERHEAD_BUCKETS,
        )


class PlacementMetrics:
    """Where turns go, and how accurate the estimates are."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self.chosen = counter(
            "segue_placements_total",
            "Placements by the source of the prompt's missing part.",
            ["mode"],
        )
        self.decision_s = histogram(
            "segue_placement_seconds",
            "Time to decide where one turn goes.",
            buckets=_DECISION_BUCKETS,
        )
        self.estimate_error = histogram(
            # It has no `_sum`: Prometheus omits it for values that may be negative.
            "segue_placement_estimate_error",
            "Error of the expected time to first token: 0.5 if it took twice as long, "
            "-0.5 if it took half as long.",
            buckets=_ERROR_BUCKETS,
        )


class TokenMetrics:
    """Tokens of turns, by source."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self.prompt = counter("segue_prompt_tokens_total", "Tokens of finished turns' prompts.")
        self.prompt_length = histogram(
            "segue_prompt_length_tokens", "Tokens of a turn's prompt.", buckets=_LENGTH_BUCKETS
        )
        self.answer_length = histogram(
            "segue_answer_length_tokens",
            "Tokens of an answer, finished or not.",
            buckets=_LENGTH_BUCKETS,
        )
        self.cached = counter(
            "segue_cached_tokens_total", "Prompt tokens taken from a prefix cache."
        )
        self.resident = counter(
            "segue_resident_tokens_total",
            "Prompt tokens whose pages the decode worker held: they were not shipped.",
        )
        self.rerendered = counter(
            "segue_rerendered_tokens_total",
            "Tokens of a session's last turn that the template rendered differently in the next.",
        )
        self.rerendered_turns = counter(
            "segue_rerendered_turns_total",
            "Turns whose history was rendered differently from the last turn's tokens.",
        )
        self.completion = counter("segue_completion_tokens_total", "Tokens generated.")
        # Prompt tokens that need not be computed, at three points. Each counts fewer than the one
        # before: a placement cannot capture all that is held, and some is evicted before its use.
        self.held = counter(
            "segue_reuse_held_tokens_total",
            "Prompt tokens before the deepest state that any worker held.",
        )
        self.captured = counter(
            "segue_reuse_captured_tokens_total",
            "Prompt tokens that the placement did not expect to be computed.",
        )
        self.delivered = counter(
            "segue_reuse_delivered_tokens_total", "Prompt tokens that no worker computed."
        )


class RouterMetrics:
    def __init__(self, model_name: str = "", *, vllm_names: bool = False) -> None:
        self.registry = new_registry()
        self.load = LoadMetrics(self.registry)
        self.tenants = TenantMetrics(self.registry)
        self.latency = LatencyMetrics(self.registry)
        self.placement = PlacementMetrics(self.registry)
        self.tokens = TokenMetrics(self.registry)
        self.gen_ai = GenAiMetrics(self.registry, model_name)
        self.vllm = self._vllm_names(model_name) if vllm_names else None

    def _vllm_names(self, model_name: str) -> VllmNames:
        return VllmNames(
            self.registry,
            model_name,
            {
                "vllm:num_requests_running": self.load.turns_in_flight,
                "vllm:num_requests_waiting": self.load.waiting_turns,
                "vllm:time_to_first_token_seconds": self.latency.first_token_s,
                "vllm:inter_token_latency_seconds": self.latency.inter_token_s,
                "vllm:request_time_per_output_token_seconds": self.latency.output_token_s,
                "vllm:e2e_request_latency_seconds": self.latency.turn_s,
                "vllm:request_queue_time_seconds": self.latency.queue_s,
                "vllm:request_prompt_tokens": self.tokens.prompt_length,
                "vllm:request_generation_tokens": self.tokens.answer_length,
                "vllm:prompt_tokens": self.tokens.prompt,
                "vllm:generation_tokens": self.tokens.completion,
                "vllm:prefix_cache_queries": self.tokens.prompt,
                "vllm:prefix_cache_hits": self.tokens.cached,
            },
            self.load.turns,
        )
