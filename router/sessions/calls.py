"""Clients' calls apart from turns: list, renew, release and fork sessions; tokenise and detokenise
texts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from router.membership.membership import Membership
from router.sessions.prompt import PromptBuilder
from router.sessions.table import SessionTable
from router.turn.links import DecodeLink, Links
from segue.api.checks import require_name
from segue.api.cluster.status import SessionInfo, WorkerHealth
from segue.api.errors import InvalidRequest, NotFound
from segue.api.types import ChatInput, Detokenized, SessionId, TurnInput
from segue.text.limits import SizeLimits, validate_prompt
from segue.text.prompt import IdEncoder

_PAGE, _MAX_PAGE = 1_000, 10_000
_TOKEN = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class SessionDesk:
    """Changes the table's record and the decode worker's lease together."""

    table: SessionTable
    membership: Membership
    links: Links

    def list(
        self, page_size: int, page_token: str, scope: str = ""
    ) -> tuple[list[SessionInfo], str]:
        """A page of the remembered sessions whose names start with `scope`, least recently used
        first, and the next page's token, which is empty after the last page. A `page_size` of 0
        means 1,000. Raises InvalidRequest.
        """
        after = _after(page_token)
        sessions, last_use = self.table.page(after, min(page_size, _MAX_PAGE) or _PAGE, scope)
        return sessions, "" if last_use is None else str(last_use)

    async def renew(
        self, session_id: SessionId, lease_s: float | None, pause_s: float | None
    ) -> float:
        """Returns the seconds until its lease expires. Raises NotFound, InvalidRequest."""
        return await self._decode_of(session_id).renew_lease(session_id, lease_s, pause_s)

    async def release(self, session_id: SessionId) -> bool:
        """Returns whether the session was known."""
        # If its worker is gone, so is the leased memory.
        with contextlib.suppress(NotFound):
            await self._decode_of(session_id).end_lease(session_id)
        return self.table.release(session_id)

    async def fork(self, parent_id: SessionId, child_id: SessionId) -> None:
        """Raises NotFound, and InvalidRequest for a child that exists."""
        require_name("the child's session_id", child_id)
        if child_id in self.table:
            raise InvalidRequest("a fork needs the name of a new session, got a known one")
        # The router may have the messages even if no worker has pages.
        self.table.fork_history(parent_id, child_id)
        await self._decode_of(parent_id).fork_lease(parent_id, child_id)
        if parent_id not in self.table:
            raise NotFound("the parent was released in the meantime")
        self.table.fork(parent_id, child_id)

    def _decode_of(self, session_id: SessionId) -> DecodeLink:
        kept = self.table.of(session_id).kept
        worker = self.membership.find(kept.worker_id) if kept else None
        if kept and worker and kept.is_on(worker) and worker.health is not WorkerHealth.LOST:
            return self.links.decode(worker)
        raise NotFound("nothing is kept of this session: its next turn computes the whole prompt")


def _after(page_token: str) -> int:
    """Raises InvalidRequest for a malformed token."""
    if not page_token:
        return 0
    if _TOKEN.fullmatch(page_token) is None:
        raise InvalidRequest(
            f"page_token must be the next_page_token of a response, got {page_token!r:.80}: omit "
            "it for the first page"
        )
    return int(page_token)


@dataclass(frozen=True, slots=True)
class TokenDesk:
    prompts: PromptBuilder
    limits: SizeLimits

    async def tokenize(self, turn_input: TurnInput) -> Sequence[int]:
        """The prompt that a turn with this input would have. Raises InvalidRequest, ContextOverflow
        and Overloaded."""
        if isinstance(turn_input, ChatInput) and turn_input.continues is not None:
            raise InvalidRequest("expected all messages to tokenise, got a continued history")
        self.limits.validate(turn_input)
        return await self.prompts.encode(turn_input)

    def detokenize(self, token_ids: Sequence[int]) -> Detokenized:
        """Raises InvalidRequest."""
        if isinstance(self.prompts.encoder, IdEncoder):
            raise InvalidRequest(
                "expected a model with a tokenizer, but this one is served without "
                "([checkpoint] skip_tokenizer): detokenise on your side"
            )
        if len(token_ids) > self.limits.max_context:
            raise InvalidRequest(
                f"expected at most {self.limits.max_context} token ids, which is the model's "
                f"context, got {len(token_ids)}: send fewer at a time"
            )
        tokenizer = self.prompts.encoder.tokenizer
        if token_ids:
            validate_prompt(token_ids, self.prompts.config.vocab_size, "tokens")
        return Detokenized(
            text=tokenizer.decode(token_ids),
            tokens=tuple(map(tokenizer.token_name, token_ids)),
        )
