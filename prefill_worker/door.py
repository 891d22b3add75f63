"""What a prefill worker asks of a turn, its ticket and its holder before it takes them."""

from __future__ import annotations

from kv_transfer.ticket import Ticket
from segue.checks import require
from segue.engine.door import check_turn
from segue.model.config import ModelConfig
from segue.turn import PrefixHolder, TurnSpec


def check(
    turn: TurnSpec,
    ticket: Ticket,
    holder: PrefixHolder | None,
    *,
    model: ModelConfig,
    page_tokens: int,
) -> None:
    """Raises InvalidRequest."""
    check_turn(turn, model)
    require(
        ticket.turn_id == turn.turn_id,
        f"turn {turn.turn_id} came with a ticket of turn {ticket.turn_id}",
    )
    num_held = holder.checkpoint_tokens if holder else 0
    require(
        num_held % page_tokens == 0,
        f"a holder has {num_held} tokens, which is no page's end: a page has {page_tokens}",
    )
