"""What can be set about the router: section `[router]`."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_PORT = 7411


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    host: str = "127.0.0.1"
    """Address to listen on. Loopback unless told otherwise: the router authenticates nobody."""
    announce: str = ""
    """Address that workers and clients use to reach the router; empty is `host`, or the machine's
    own address where that is a wildcard such as 0.0.0.0.
    """
    port: int = DEFAULT_PORT
    metrics_port: int = 0
    """0 lets the system choose; `segue status` shows which."""
    max_turns: int = 256
    """Turns in flight, running or waiting. One more is refused with a hint when to come back."""
    default_deadline_s: float = 600.0
    """For clients that bring no deadline: nothing runs for ever."""
    heartbeat_timeout_s: float = 5.0
    """A worker that is silent for so long gets no new turns: it is lost."""
    forget_lost_s: float = 300.0
    """A worker that has been lost for so long is forgotten: it is no longer shown or counted. One
    that stops in order says so, and is forgotten at once.
    """
    min_tokens_per_s: float = 10.0
    """A decode worker on which a turn more would make answers slower than that gets none while
    another can take it; 0 sets no floor.
    """
    local_prefill_max_tokens: int = 256
    """So short an end of a prompt may be computed by the decode worker that holds the rest, where
    that is expected to be faster; 0 leaves all computing to prefill workers.
    """
    max_attempts: int = 2
    """Placements tried for a turn whose worker failed before its first token."""
    max_sessions: int = 100_000
    """Sessions whose placement is remembered; the least recently used is forgotten first."""
    history_bytes: int = 512 << 20
    """For what was said in sessions, so that clients send only what is new: some 1,000 sessions of
    50,000 tokens. The least recently used goes first; its client then sends all once. 0 keeps none.
    """
    max_prompt_bytes: int = 16 << 20
    """A request with more is refused unread: texts, reasoning, calls and tools of all its messages.
    A context of a million tokens takes some 4 MB of English.
    """
    drain_s: float = 30.0
    """How long running turns may take to end after SIGTERM."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must be in [0, 65536), got {self.port}")
        for name in ("max_turns", "max_attempts", "max_sessions", "max_prompt_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in (
            "forget_lost_s",
            "min_tokens_per_s",
            "local_prefill_max_tokens",
            "history_bytes",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("default_deadline_s", "heartbeat_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
