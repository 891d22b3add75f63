"""The router's metrics. A test freezes their names and labels."""

from __future__ import annotations

import collections

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from router.telemetry.conventions import GenAiMetrics, VllmNames
from router.telemetry.reuse import ReuseMetrics
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
# These are there from the start: a rate does not see a counter's first step from nothing to 1.
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
        self.turns = Counter(
            "segue_turns_total", "Turns by how they ended.", ["outcome"], registry=registry
        )
        for outcome in _OUTCOMES:
            self.turns.labels(outcome)
        self.errors = Counter(
            "segue_turn_errors_total",
            "Turns that ended with an error, including refused turns, by error class.",
            ["error"],
            registry=registry,
        )
        self.retries = Counter(
            "segue_turn_retries_total",
            "Attempts that failed and were retried elsewhere, by error class.",
            ["error"],
            registry=registry,
        )
        for error in _RETRIED:
            self.retries.labels(error)
        # For `segue status`, as are the three below: turns that ran, by outcome.
        self.ended: collections.Counter[str] = collections.Counter()
        self.rate = RateMeter()
        """Completion tokens."""
        self.drafted_tokens = self.accepted_tokens = 0
        self.turns_in_flight = Gauge(
            "segue_turns_in_flight", "Turns that were let in and have not ended.", registry=registry
        )
        self.sessions = Gauge(
            "segue_sessions", "Sessions whose placement is remembered.", registry=registry
        )
        self.history_bytes = Gauge(
            "segue_history_bytes", "Memory that keeps the sessions' messages.", registry=registry
        )
        self.workers = Gauge(
            "segue_workers", "Workers by role and health.", ["role", "health"], registry=registry
        )


class WaitMetrics:
    """Turns that wait for a place."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.turns = Gauge("segue_waiting_turns", "Turns that wait for a place.", registry=registry)
        self.size_bytes = Gauge(
            "segue_waiting_bytes", "Memory of the requests of waiting turns.", registry=registry
        )
        self.wait_s = Histogram(
            "segue_admission_wait_seconds",
            "How long a turn waited for a place, if it had to wait.",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )


class TenantMetrics:
    """What tenants use. The first tenants have labels of their own, all others share one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._labels: dict[str, str] = {}
        self._turns = Counter(
            "segue_tenant_turns_total",
            "Turns by tenant and how they ended.",
            ["tenant", "outcome"],
            registry=registry,
        )
        self._tokens = Counter(
            "segue_tenant_tokens_total",
            "Tokens that count for tokens_per_minute: computed of prompts, and generated.",
            ["tenant", "kind"],
            registry=registry,
        )
        self._refusals = Counter(
            "segue_tenant_refusals_total",
            "Turns refused for a limit of the tenant: turns or tokens.",
            ["tenant", "limit"],
            registry=registry,
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
        self.first_token_s = Histogram(
            "segue_time_to_first_token_seconds",
            "From the receipt of a turn to its first token.",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.no_first_token_s = Histogram(
            "segue_no_first_token_seconds",
            "From the receipt of a turn to its end, for turns that ended before any token.",
            ["outcome"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.turn_s = Histogram(
            "segue_turn_seconds",
            "From the receipt of a turn to its end.",
            ["outcome"],
            buckets=_TURN_BUCKETS,
            registry=registry,
        )
        self.output_token_s = Histogram(
            "segue_time_per_output_token_seconds",
            "Mean time per token after the first, of finished answers.",
            buckets=_TOKEN_BUCKETS,
            registry=registry,
        )
        self.inter_token_s = Histogram(
            "segue_inter_token_latency_seconds",
            "Between two tokens of a turn.",
            buckets=_TOKEN_BUCKETS,
            registry=registry,
        )
        self.queue_s = Histogram(
            "segue_queue_seconds",
            "From the receipt of a turn until prefill started to compute it.",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.dispatch_s = Histogram(
            "segue_router_dispatch_seconds",
            "Time that the router itself adds to a turn: rendering, tokenising, placing.",
            buckets=_OVERHEAD_BUCKETS,
            registry=registry,
        )
        self.relay_s = Histogram(
            "segue_router_relay_seconds",
            "Time that the router itself adds to a token, from decode's event to the client.",
            buckets=_OVERHEAD_BUCKETS,
            registry=registry,
        )


class PlacementMetrics:
    """Where turns go, and how accurate the estimates are."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.chosen = Counter(
            "segue_placements_total",
            "Placements by the source of the prompt's missing part.",
            ["mode"],
            registry=registry,
        )
        self.decision_s = Histogram(
            "segue_placement_seconds",
            "Time to decide where one turn goes.",
            buckets=_DECISION_BUCKETS,
            registry=registry,
        )
        self.estimate_error = Histogram(
            # It has no `_sum`: Prometheus omits it for values that may be negative.
            "segue_placement_estimate_error",
            "Error of the expected time to first token: 0.5 if it took twice as long, "
            "-0.5 if it took half as long.",
            buckets=_ERROR_BUCKETS,
            registry=registry,
        )


class TokenMetrics:
    """Tokens of turns, by source."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.prompt = Counter(
            "segue_prompt_tokens_total", "Tokens of finished turns' prompts.", registry=registry
        )
        self.prompt_length = Histogram(
            "segue_prompt_length_tokens",
            "Tokens of a turn's prompt.",
            buckets=_LENGTH_BUCKETS,
            registry=registry,
        )
        self.answer_length = Histogram(
            "segue_answer_length_tokens",
            "Tokens of an answer, finished or not.",
            buckets=_LENGTH_BUCKETS,
            registry=registry,
        )
        self.cached = Counter(
            "segue_cached_tokens_total",
            "Prompt tokens taken from a prefix cache.",
            registry=registry,
        )
        self.resident = Counter(
            "segue_resident_tokens_total",
            "Prompt tokens whose pages the decode worker held: they were not shipped.",
            registry=registry,
        )
        self.rerendered = Counter(
            "segue_rerendered_tokens_total",
            "Tokens of a session's last turn that the template rendered differently in the next.",
            registry=registry,
        )
        self.rerendered_turns = Counter(
            "segue_rerendered_turns_total",
            "Turns whose history was rendered differently from the last turn's tokens.",
            registry=registry,
        )
        self.completion = Counter(
            "segue_completion_tokens_total", "Tokens generated.", registry=registry
        )


class RouterMetrics:
    def __init__(self, model_name: str = "", *, vllm_names: bool = False) -> None:
        self.registry = new_registry()
        self.load = LoadMetrics(self.registry)
        self.wait = WaitMetrics(self.registry)
        self.tenants = TenantMetrics(self.registry)
        self.latency = LatencyMetrics(self.registry)
        self.placement = PlacementMetrics(self.registry)
        self.tokens = TokenMetrics(self.registry)
        self.reuse = ReuseMetrics(self.registry, _LATENCY_BUCKETS)
        self.gen_ai = GenAiMetrics(self.registry, model_name)
        self.vllm = self._vllm_names(model_name) if vllm_names else None

    def _vllm_names(self, model_name: str) -> VllmNames:
        return VllmNames(
            self.registry,
            model_name,
            {
                "vllm:num_requests_running": self.load.turns_in_flight,
                "vllm:num_requests_waiting": self.wait.turns,
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
