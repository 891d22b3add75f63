"""The router's settings: section `[router]`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from segue.answers import ParserNames
from segue.api.api_key import key_hash, split_keys
from segue.api.errors import InvalidRequest

DEFAULT_PORT = 7411


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    host: str = "127.0.0.1"
    """Address to listen on. Loopback by default: without API keys any client may use the router,
    and even with them workers may join without one.
    """
    announce: str = ""
    """Address that workers and clients use to reach the router. If empty, it is `host`, or the
    machine's own address if `host` is a wildcard such as 0.0.0.0.
    """
    port: int = DEFAULT_PORT
    metrics_port: int = 0
    """0 lets the system choose; `segue status` shows the port."""
    tool_call_parser: str = "auto"
    """How the model writes tool calls: "qwen3_coder" (XML), "hermes" (JSON), or "none", which
    treats them as text. "auto": the format that the chat template writes.
    """
    reasoning_parser: str = "auto"
    """"qwen3": reasoning is between <think> and </think>. "none": it stays in the content. "auto":
    "qwen3" if the chat template has <think>.
    """
    api_key_hashes: str = ""
    """SHA-256 of API keys, in hex and comma-separated. Clients need one of the keys. `--api-key`
    and the environment variable SEGUE_API_KEY add more. All belong to the tenant "default".
    """
    api_keys_file: str = ""
    """TOML file of tenants with their API keys and limits, read again when it changes."""
    share_prefixes_across_tenants: bool = False
    """Tenants share cached prefixes. Latencies then reveal to each which prompts others sent."""
    vllm_metrics: bool = False
    """Also shows the router's metrics under vLLM's names on `/metrics`, for dashboards and scalers
    that read those.
    """
    max_turns: int = 256
    """Most turns on workers; less if the decode workers can run fewer. Further turns wait here."""
    max_queued: int = 1024
    """Most turns that wait for a place. With API keys, one tenant may use at most half of it.
    Further turns are refused with a time to retry; 0 refuses all that would wait.
    """
    max_queued_bytes: int = 256 << 20
    """Memory for the requests of waiting turns, divided in the same way."""
    queue_timeout_s: float = 30.0
    """A turn that has waited for this long is refused with a time to retry. Proxies in front of the
    gateway must wait longer for the first byte.
    """
    default_deadline_s: float = 600.0
    """The deadline of a turn whose client sets none."""
    heartbeat_timeout_s: float = 2.0
    """A worker that sends nothing for this long is lost: its turns continue elsewhere, and it gets
    no new ones. Workers send every 0.5 s.
    """
    forget_lost_s: float = 300.0
    """A worker that has been lost for this long is forgotten: it is no longer shown or counted. One
    that shuts down properly sends a last heartbeat, and is forgotten at once.
    """
    min_tokens_per_s: float = 10.0
    """A decode worker that one more turn would push below this rate gets no new turns while another
    can take them; 0 sets no floor.
    """
    local_prefill_max_tokens: int = 256
    """Longest prompt suffix that the decode worker holding the rest may prefill locally, if that is
    expected to be faster; 0 leaves all computing to prefill workers.
    """
    slow_start_s: float = 30.0
    """A worker that joins a serving cluster gets a growing share of turns for this long, instead of
    all of them at once because it is the least loaded; 0: at once.
    """
    max_attempts: int = 3
    """Placements tried for a turn whose workers fail; each new token resets the count. A second
    worker may be lost at the same time, so one retry is too few. A turn that crashes its workers
    must not end many.
    """
    lost_worker_wait_s: float = 30.0
    """How long a turn that has lost its only worker waits for another to start."""
    max_sessions: int = 100_000
    """Sessions whose placement is remembered; the least recently used is forgotten first."""
    history_bytes: int = 512 << 20
    """Memory for the sessions' messages, so that clients send only new ones: enough for some 1,000
    sessions of 50,000 tokens. Evicts the least recently used session, whose client then sends its
    whole history once. 0 keeps none.
    """
    document_bytes: int = 256 << 20
    """Memory for responses that `previous_response_id` may name, which gateways store here for each
    other. Evicts the least recently used ones of the tenant that has most. 0 stores none.
    """
    document_s: float = 86_400.0
    """Responses that have not been used for this long are dropped."""
    max_prompt_bytes: int = 16 << 20
    """Larger requests are refused unread. Counts texts, reasoning, calls and tools of all messages.
    A context of a million tokens takes some 4 MB of English.
    """
    drain_s: float = 30.0
    """How long running turns may take to finish after SIGTERM."""

    @property
    def parsers(self) -> ParserNames:
        return ParserNames(self.tool_call_parser, self.reasoning_parser)

    @property
    def has_keys(self) -> bool:
        """Clients need an API key."""
        return bool(self.api_key_hashes or self.api_keys_file)

    def with_keys(self, texts: Iterable[str]) -> RouterConfig:
        """Adds the hashes of further API keys. Each text has comma-separated keys. Raises
        InvalidRequest."""
        hashes = [key_hash(key) for text in texts for key in split_keys(text)]
        known = [self.api_key_hashes] if self.api_key_hashes else []
        return replace(self, api_key_hashes=",".join([*known, *hashes]))

    def __post_init__(self) -> None:
        try:
            _ = self.parsers
        except InvalidRequest as error:
            raise ValueError(str(error)) from None
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must be in [0, 65536), got {self.port}")
        for name in ("max_turns", "max_attempts", "max_sessions", "max_prompt_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in (
            "forget_lost_s",
            "lost_worker_wait_s",
            "min_tokens_per_s",
            "local_prefill_max_tokens",
            "slow_start_s",
            "history_bytes",
            "document_bytes",
            "max_queued",
            "max_queued_bytes",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("document_s", "default_deadline_s", "heartbeat_timeout_s", "queue_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
