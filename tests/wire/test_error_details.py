"""Errors as clients in other languages read them: `google.rpc.Status` with its details."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from segue.api import errors
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import (
    SessionsServicer,
    SessionsStub,
    add_SessionsServicer_to_server,
)
from segue.wire.channel import channel_to
from segue.wire.error_details import KINDS, error_from_wire
from segue.wire.server import serving
from segue.wire.status import rpc_errors

REASONS = {
    "SegueError": "INTERNAL",
    "InvalidRequest": "INVALID_REQUEST",
    "ContextOverflow": "CONTEXT_OVERFLOW",
    "InvalidCheckpoint": "INVALID_CHECKPOINT",
    "InvalidConfig": "INVALID_CONFIG",
    "Unauthenticated": "UNAUTHENTICATED",
    "PermissionDenied": "PERMISSION_DENIED",
    "NotFound": "NOT_FOUND",
    "NotResident": "NOT_RESIDENT",
    "UnknownPrefix": "UNKNOWN_PREFIX",
    "UnknownHistory": "UNKNOWN_HISTORY",
    "Overloaded": "OVERLOADED",
    "Unavailable": "UNAVAILABLE",
    "Draining": "DRAINING",
    "StaleEpoch": "STALE_EPOCH",
    "LayoutMismatch": "LAYOUT_MISMATCH",
    "TransferFailed": "TRANSFER_FAILED",
    "DeadlineExceeded": "DEADLINE_EXCEEDED",
    "Cancelled": "CANCELLED",
    "TakenOver": "TAKEN_OVER",
}
"""Clients in other languages compare with these: they are part of the API."""


class Refusing(SessionsServicer):
    def __init__(self, error: errors.SegueError) -> None:
        self._error = error

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        raise self._error


class Garbled(SessionsServicer):
    """Answers with details that are no Status, or have another code."""

    def __init__(self, details: bytes) -> None:
        self._details = details

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        trailers = (("grpc-status-details-bin", self._details),)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no turn 7", trailers)
        raise AssertionError("unreachable")


@contextlib.asynccontextmanager
async def stub_of(servicer: SessionsServicer) -> AsyncIterator[SessionsStub]:
    """Calls the servicer over a real connection."""
    service = ("segue.v1.Sessions", lambda server: add_SessionsServicer_to_server(servicer, server))
    async with (
        serving("127.0.0.1", 0, lambda address: [service]) as running,
        channel_to(running.address) as channel,
    ):
        yield SessionsStub(channel)


@pytest.mark.parametrize("kind", KINDS)
async def test_any_client_finds_the_error_in_googles_details(
    kind: type[errors.SegueError],
) -> None:
    async with stub_of(Refusing(kind("expected this, got that"))) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Cancel(pb.CancelRequest())

    trailers = dict(failed.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.code == failed.value.code().value[0]
    assert status.message == failed.value.details() == "expected this, got that"
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("segue", REASONS[kind.__name__])
    assert len(status.details) == 1 + bool(kind.retry_after_s)
    if kind.retry_after_s:
        assert status.details[1].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 1000 * kind.retry_after_s


@pytest.mark.parametrize(
    ("domain", "reason"), [("segue", "FROM_THE_FUTURE"), ("elsewhere", "OVERLOADED"), ("", "")]
)
def test_an_unknown_reason_becomes_the_nearest_error_for_the_code(domain: str, reason: str) -> None:
    status = status_pb2.Status(code=5, message="no turn 7")
    status.details.add().Pack(error_details_pb2.ErrorInfo(domain=domain, reason=reason))

    error = error_from_wire(status)

    assert (type(error), str(error)) == (errors.NotFound, "no turn 7")


def test_an_unknown_reason_does_not_look_up_names_of_the_errors_module() -> None:
    for reason in ("NotFound", "__name__", "annotations"):
        status = status_pb2.Status(code=13, message="?")
        status.details.add().Pack(error_details_pb2.ErrorInfo(domain="segue", reason=reason))

        assert type(error_from_wire(status)) is errors.SegueError


@pytest.mark.parametrize("details", [b"\xff\xff", status_pb2.Status(code=8).SerializeToString()])
async def test_details_that_do_not_match_the_status_are_ignored(details: bytes) -> None:
    async with stub_of(Garbled(details)) as stub:
        with pytest.raises(errors.NotFound, match=r"^peer: no turn 7$"), rpc_errors("peer"):
            await stub.Cancel(pb.CancelRequest())


def test_every_error_has_its_own_reason() -> None:
    kinds = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SegueError)
    }

    assert set(KINDS) == kinds
    assert {kind.__name__: reason for kind, (reason, _) in KINDS.items()} == REASONS
    assert len(set(REASONS.values())) == len(REASONS)
