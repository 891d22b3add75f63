"""Values to protobuf and back: turns as the router and the workers exchange them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from segue.api.checks import (
    require,
    require_address,
    require_count,
    require_epoch,
    require_name,
    require_number,
)
from segue.api.prompt import SALT_BYTES, MediaSpan, PrefixName, Prompt, pack_tokens, unpack_tokens
from segue.api.turn import PrefillOutcome, PrefixHolder, ShipReport, TurnResult, TurnSpec, Usage
from segue.api.types import Grammar, SessionId, TurnId
from segue.internal.v1 import transfer_pb2, worker_pb2
from segue.wire.convert.events import (
    finish_reason_from_wire,
    finish_reason_to_wire,
    sampled_from_wire,
    sampled_to_wire,
)
from segue.wire.convert.request import (
    rules_from_wire,
    sampling_from_wire,
    sampling_to_wire,
    stop_to_wire,
)
from segue.wire.convert.same_names import message_of, value_of

_MAX_SECONDS = 1e9

FindPrefix: TypeAlias = "Callable[[PrefixName], Prompt]"


def turn_to_wire(
    turn: TurnSpec, prefix: PrefixName | None = None, *, turn_id: str = ""
) -> worker_pb2.TurnSpec:
    """`prefix` replaces the context's first tokens with their name. `turn_id` replaces the turn's
    own id."""
    sent = turn.context[prefix.num_tokens :] if prefix else turn.context
    return worker_pb2.TurnSpec(
        turn_id=turn_id or turn.turn_id,
        session_id=turn.session_id,
        context=pack_tokens(sent.tokens),
        media=[
            worker_pb2.MediaSpan(start=s.start, num_tokens=s.num_tokens, digest=s.digest)
            for s in sent.media
        ],
        num_answered=turn.num_answered,
        sampling=sampling_to_wire(turn.sampling),
        stop=stop_to_wire(turn.stop),
        branch_points=turn.branch_points,
        prefix=message_of(transfer_pb2.PrefixName, prefix) if prefix else None,
        salt=turn.context.salt,
        grammar=message_of(worker_pb2.Grammar, turn.grammar) if turn.grammar else None,
    )


def turn_from_wire(turn: worker_pb2.TurnSpec, find: FindPrefix) -> TurnSpec:
    """`find` returns the tokens of a named prefix. Raises UnknownPrefix, InvalidRequest."""
    media = [MediaSpan(span.start, span.num_tokens, span.digest) for span in turn.media]
    require(
        len(turn.salt) in (0, SALT_BYTES),
        f"a turn's salt must have {SALT_BYTES} bytes or none, got {len(turn.salt)}",
    )
    context = Prompt(unpack_tokens(turn.context), media, turn.salt)
    if turn.HasField("prefix"):
        known = find(value_of(PrefixName, turn.prefix))
        require(known.salt == turn.salt, "a turn and the prefix that it names must have one salt")
        context = known + context
    return TurnSpec(
        turn_id=TurnId(turn.turn_id),
        session_id=SessionId(turn.session_id),
        context=context,
        sampling=sampling_from_wire(turn.sampling).resolved(),
        stop=rules_from_wire(turn.stop),
        branch_points=tuple(turn.branch_points),
        num_answered=turn.num_answered,
        grammar=value_of(Grammar, turn.grammar) if turn.HasField("grammar") else None,
    )


def holder_from_wire(holder: worker_pb2.PrefixHolder) -> PrefixHolder:
    """Raises InvalidRequest."""
    require_name("the holder's name", holder.worker_id)
    require_epoch("the holder's epoch", holder.epoch)
    require_address("the holder's address", holder.address)
    require_count("the holder's checkpoint_tokens", holder.checkpoint_tokens, low=1)
    return value_of(PrefixHolder, holder)


def report_from_wire(report: transfer_pb2.ShipReport) -> ShipReport:
    """Raises InvalidRequest."""
    for name in ("queue_s", "prefill_s", "transfer_s", "exposed_transfer_s", "pull_s"):
        require_number(f"a report's {name}", getattr(report, name), 0.0, _MAX_SECONDS)
    return value_of(ShipReport, report)


def outcome_to_wire(outcome: PrefillOutcome) -> transfer_pb2.PrefillOutcome:
    first_token = sampled_to_wire(outcome.first_token)
    return message_of(transfer_pb2.PrefillOutcome, outcome, first_token=first_token)


def outcome_from_wire(outcome: transfer_pb2.PrefillOutcome) -> PrefillOutcome:
    """Raises InvalidRequest."""
    return PrefillOutcome(
        first_token=sampled_from_wire(outcome.first_token),
        report=report_from_wire(outcome.report),
    )


def result_to_wire(result: TurnResult) -> worker_pb2.DecodeEnd:
    reason = finish_reason_to_wire(result.finish_reason)
    return message_of(worker_pb2.DecodeEnd, result, finish_reason=reason)


def result_from_wire(end: worker_pb2.DecodeEnd) -> TurnResult:
    """Raises InvalidRequest."""
    require_number("a result's decode_s", end.decode_s, 0.0, _MAX_SECONDS)
    return value_of(
        TurnResult,
        end,
        finish_reason=finish_reason_from_wire(end.finish_reason),
        usage=value_of(Usage, end.usage),
        report=report_from_wire(end.report),
    )
