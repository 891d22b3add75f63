"""The longest turn that a worker can hold, and the resulting limit of an answer.

A decode worker takes pages for the prompt and the longest answer before a turn starts. So an answer
needs a limit even if the client sets none, or a single turn would take a whole worker:

    max_tokens set      max_tokens, limited by the context and by the largest pool
    max_tokens unset    the rest of the context, limited to an eighth of the largest pool (but at
                        least 1,024 tokens if those fit), so that eight such turns run at once
"""

from __future__ import annotations

from typing import NamedTuple

from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.errors import ContextOverflow
from segue.api.types import Role, WorkerId

OPEN_SHARE = 8
"""Turns without `max_tokens` that fit the largest pool at once."""
OPEN_MIN_TOKENS = 1024


class Pools(NamedTuple):
    """Tokens that fit the largest pool of each role; 0 if no worker of that role is known."""

    prefill: int = 0
    decode: int = 0


class LargestPools:
    """Follows the workers' heartbeats. One event loop owns it."""

    def __init__(self) -> None:
        self.now = Pools()
        self._tokens: dict[WorkerId, tuple[Role, int]] = {}

    def update_worker(self, worker: WorkerStatus) -> None:
        """Takes a worker's status. Only ready workers count."""
        is_ready = worker.health is WorkerHealth.READY
        num_tokens = worker.load.pages.total * worker.load.page_tokens if is_ready else 0
        entry = worker.role, num_tokens
        if self._tokens.get(worker.worker_id) == entry:
            return
        self._tokens[worker.worker_id] = entry
        if not num_tokens:
            del self._tokens[worker.worker_id]
        self.now = Pools(prefill=self._largest(Role.PREFILL), decode=self._largest(Role.DECODE))

    def _largest(self, role: Role) -> int:
        return max((tokens for of, tokens in self._tokens.values() if of is role), default=0)


def answer_tokens(num_prompt: int, asked: int | None, *, max_context: int, pools: Pools) -> int:
    """The most tokens that the answer may have. `num_prompt` leaves room for one in the context.

    Raises ContextOverflow for a prompt that no worker can hold.
    """
    # A decode worker also holds the answer's first token.
    for role, pool, most in (
        ("prefill", pools.prefill, pools.prefill),
        ("decode", pools.decode, pools.decode - 1),
    ):
        if pool and num_prompt > most:
            raise ContextOverflow(
                f"the prompt is too long: {num_prompt} tokens > {most} maximum, since the largest "
                f"{role} worker here holds {pool} tokens of prompt and answer: shorten the prompt, "
                "or raise the worker's [engine] cache_bytes (the model's context is "
                f"{max_context})"
            )
    room = max_context - num_prompt
    if pools.decode:
        room = min(room, pools.decode - num_prompt)
    if asked is not None:
        return min(asked, room)
    if pools.decode:
        room = min(room, max(pools.decode // OPEN_SHARE, OPEN_MIN_TOKENS))
    return room
