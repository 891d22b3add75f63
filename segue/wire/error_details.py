"""Segue's errors as `google.rpc.Status`, which gRPC clients of every language can read.

`segue.v1.Status` is the same message under another name: the public API imports only what every
protoc includes.

Its details are an `ErrorInfo`, whose reason names the error in the domain "segue"; a `RetryInfo`
for an error that passes by itself; and a `BadRequest` for an error about a single field. The table
here is the only list of reasons.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2

from segue.api import errors
from segue.v1 import session_pb2 as pb
from segue.wire.grpc_words import nearest

DOMAIN = "segue"

_CODE = grpc.StatusCode
KINDS: dict[type[errors.SegueError], tuple[str, grpc.StatusCode]] = {
    errors.SegueError: ("INTERNAL", _CODE.INTERNAL),
    errors.InvalidRequest: ("INVALID_REQUEST", _CODE.INVALID_ARGUMENT),
    errors.ContextOverflow: ("CONTEXT_OVERFLOW", _CODE.INVALID_ARGUMENT),
    errors.InvalidCheckpoint: ("INVALID_CHECKPOINT", _CODE.FAILED_PRECONDITION),
    errors.InvalidConfig: ("INVALID_CONFIG", _CODE.FAILED_PRECONDITION),
    errors.Unauthenticated: ("UNAUTHENTICATED", _CODE.UNAUTHENTICATED),
    errors.PermissionDenied: ("PERMISSION_DENIED", _CODE.PERMISSION_DENIED),
    errors.NotFound: ("NOT_FOUND", _CODE.NOT_FOUND),
    errors.NotResident: ("NOT_RESIDENT", _CODE.FAILED_PRECONDITION),
    errors.UnknownPrefix: ("UNKNOWN_PREFIX", _CODE.FAILED_PRECONDITION),
    errors.UnknownHistory: ("UNKNOWN_HISTORY", _CODE.FAILED_PRECONDITION),
    errors.Overloaded: ("OVERLOADED", _CODE.RESOURCE_EXHAUSTED),
    errors.Unavailable: ("UNAVAILABLE", _CODE.UNAVAILABLE),
    errors.Draining: ("DRAINING", _CODE.UNAVAILABLE),
    errors.StaleEpoch: ("STALE_EPOCH", _CODE.FAILED_PRECONDITION),
    errors.LayoutMismatch: ("LAYOUT_MISMATCH", _CODE.FAILED_PRECONDITION),
    errors.TransferFailed: ("TRANSFER_FAILED", _CODE.UNAVAILABLE),
    errors.DeadlineExceeded: ("DEADLINE_EXCEEDED", _CODE.DEADLINE_EXCEEDED),
    errors.Cancelled: ("CANCELLED", _CODE.CANCELLED),
    errors.TakenOver: ("TAKEN_OVER", _CODE.ABORTED),
}
"""The reason and the status code of each error."""

_KIND_OF = {reason: kind for kind, (reason, _) in KINDS.items()}
_CODE_OF = {code.value[0]: code for code in grpc.StatusCode}


def status_of(error: errors.SegueError) -> grpc.StatusCode:
    return _reason_and_code(error)[1]


def error_to_wire(error: errors.SegueError, message: str | None = None) -> pb.Status:
    """`message` replaces the error's own message, which may be too long."""
    reason, code = _reason_and_code(error)
    status = pb.Status(code=code.value[0], message=str(error) if message is None else message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    if isinstance(error, errors.InvalidRequest) and error.field:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=error.field, description=status.message)
        status.details.add().Pack(bad)
    if error.retry_after_s:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(timedelta(seconds=error.retry_after_s))
        status.details.add().Pack(retry)
    return status


def error_from_wire(status: pb.Status) -> errors.SegueError:
    """The error that was sent. With an unknown reason, the nearest kind for the status code."""
    kind = nearest(_CODE_OF.get(status.code))
    return named_error(status.details, status.message) or kind(status.message)


def named_error(details: Iterable[Any], message: str) -> errors.SegueError | None:
    """The error that was sent; None if its reason is unknown."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    bad = error_details_pb2.BadRequest()
    for detail in details:
        # Unpack ignores a message of another type.
        detail.Unpack(info)
        detail.Unpack(retry)
        detail.Unpack(bad)
    kind = _KIND_OF.get(info.reason) if info.domain == DOMAIN else None
    if kind is None:
        return None
    error: errors.SegueError = kind(message)
    if retry.HasField("retry_delay"):
        error.retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    if isinstance(error, errors.InvalidRequest) and bad.field_violations:
        error.field = bad.field_violations[0].field
    return error


def _reason_and_code(error: errors.SegueError) -> tuple[str, grpc.StatusCode]:
    return next(KINDS[kind] for kind in type(error).__mro__ if kind in KINDS)
