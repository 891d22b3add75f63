"""Values to protobuf and back: turns as the router and the workers exchange them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from segue.checks import (
    require_address,
    require_count,
    require_epoch,
    require_name,
    require_number,
)
from segue.internal.v1 import transfer_pb2, worker_pb2
from segue.prompt import MediaSpan, PrefixName, Prompt, pack_tokens, unpack_tokens
from segue.turn import PrefixHolder, ShipReport, TurnResult, TurnSpec
from segue.types import Epoch, SessionId, TurnId, WorkerId
from segue.wire.convert_events import (
    finish_reason_from_wire,
    finish_reason_to_wire,
    usage_from_wire,
    usage_to_wire,
)
from segue.wire.convert_request import (
    rules_from_wire,
    sampling_from_wire,
    sampling_to_wire,
    stop_to_wire,
)

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
        prefix=prefix_to_wire(prefix) if prefix else None,
    )


def turn_from_wire(turn: worker_pb2.TurnSpec, find: FindPrefix) -> TurnSpec:
    """`find` returns the tokens of a named prefix. Raises UnknownPrefix, InvalidRequest."""
    media = [MediaSpan(span.start, span.num_tokens, span.digest) for span in turn.media]
    context = Prompt(unpack_tokens(turn.context), media)
    if turn.HasField("prefix"):
        context = find(prefix_from_wire(turn.prefix)) + context
    return TurnSpec(
        turn_id=TurnId(turn.turn_id),
        session_id=SessionId(turn.session_id),
        context=context,
        sampling=sampling_from_wire(turn.sampling).resolved(),
        stop=rules_from_wire(turn.stop),
        branch_points=tuple(turn.branch_points),
        num_answered=turn.num_answered,
    )


def prefix_to_wire(prefix: PrefixName) -> worker_pb2.PrefixName:
    return worker_pb2.PrefixName(num_tokens=prefix.num_tokens, digest=prefix.digest)


def prefix_from_wire(prefix: worker_pb2.PrefixName) -> PrefixName:
    return PrefixName(num_tokens=prefix.num_tokens, digest=prefix.digest)


def holder_to_wire(holder: PrefixHolder) -> worker_pb2.PrefixHolder:
    return worker_pb2.PrefixHolder(
        worker_id=holder.worker_id,
        epoch=holder.epoch,
        address=holder.address,
        checkpoint_tokens=holder.checkpoint_tokens,
    )


def holder_from_wire(holder: worker_pb2.PrefixHolder) -> PrefixHolder:
    """Raises InvalidRequest."""
    require_name("the holder's name", holder.worker_id)
    require_epoch("the holder's epoch", holder.epoch)
    require_address("the holder's address", holder.address)
    require_count("the holder's checkpoint_tokens", holder.checkpoint_tokens, low=1)
    return PrefixHolder(
        worker_id=WorkerId(holder.worker_id),
        epoch=Epoch(holder.epoch),
        address=holder.address,
        checkpoint_tokens=holder.checkpoint_tokens,
    )


def report_to_wire(report: ShipReport) -> transfer_pb2.ShipReport:
    return transfer_pb2.ShipReport(
        shipped_bytes=report.shipped_bytes,
        cached_tokens=report.cached_tokens,
        queue_s=report.queue_s,
        prefill_s=report.prefill_s,
        transfer_s=report.transfer_s,
        exposed_transfer_s=report.exposed_transfer_s,
        computed_tokens=report.computed_tokens,
        pulled_tokens=report.pulled_tokens,
        pulled_bytes=report.pulled_bytes,
        pull_s=report.pull_s,
        kept_tokens=report.kept_tokens,
        kept_states=report.kept_states,
    )


def report_from_wire(report: transfer_pb2.ShipReport) -> ShipReport:
    """Raises InvalidRequest."""
    for name in ("queue_s", "prefill_s", "transfer_s", "exposed_transfer_s", "pull_s"):
        require_number(f"a report's {name}", getattr(report, name), 0.0, _MAX_SECONDS)
    return ShipReport(
        shipped_bytes=report.shipped_bytes,
        cached_tokens=report.cached_tokens,
        queue_s=report.queue_s,
        prefill_s=report.prefill_s,
        transfer_s=report.transfer_s,
        exposed_transfer_s=report.exposed_transfer_s,
        computed_tokens=report.computed_tokens,
        pulled_tokens=report.pulled_tokens,
        pulled_bytes=report.pulled_bytes,
        pull_s=report.pull_s,
        kept_tokens=report.kept_tokens,
        kept_states=tuple(report.kept_states),
    )


def result_to_wire(result: TurnResult) -> worker_pb2.DecodeEnd:
    return worker_pb2.DecodeEnd(
        finish_reason=finish_reason_to_wire(result.finish_reason),
        usage=usage_to_wire(result.usage),
        report=report_to_wire(result.report),
        decode_s=result.decode_s,
        stop_match=result.stop_match,
        kept_tokens=result.kept_tokens,
        kept_checkpoint_tokens=result.kept_checkpoint_tokens,
        kept_states=result.kept_states,
    )


def result_from_wire(end: worker_pb2.DecodeEnd) -> TurnResult:
    """Raises InvalidRequest."""
    require_number("a result's decode_s", end.decode_s, 0.0, _MAX_SECONDS)
    return TurnResult(
        finish_reason=finish_reason_from_wire(end.finish_reason),
        usage=usage_from_wire(end.usage),
        report=report_from_wire(end.report),
        decode_s=end.decode_s,
        stop_match=end.stop_match,
        kept_tokens=end.kept_tokens,
        kept_checkpoint_tokens=end.kept_checkpoint_tokens,
        kept_states=tuple(end.kept_states),
    )
