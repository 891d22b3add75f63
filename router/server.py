"""The router's gRPC services: convert the request, call the router, convert the result."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.message import Message

from router.router import Router
from router.tenants.keys import Keyring
from router.tenants.tenant import Tenant
from segue.api.api_key import METADATA, bearer_key
from segue.api.cluster.fleet import ReloadOrder, ScaleOrder
from segue.api.types import SessionId, TurnId, WorkerId
from segue.process.tracing.context import from_metadata, within
from segue.text.limits import validate_length
from segue.v1 import session_pb2 as pb
from segue.v1.session_pb2_grpc import SessionsServicer
from segue.wire.convert.drain import drain_report_to_wire
from segue.wire.convert.events import events_to_wire
from segue.wire.convert.explanation import explanation_to_wire, recent_to_wire
from segue.wire.convert.request import (
    num_items,
    request_from_wire,
    require_few_values,
    tokenized_from_wire,
)
from segue.wire.convert.same_names import message_of, value_of
from segue.wire.convert.worker import cluster_to_wire
from segue.wire.streams.generate_many import generate_many
from segue.worker.drain import WorkerDrain

MAX_DEADLINE_S = 86_400.0
"""Longest deadline of a turn: no client waits longer."""

# Converting more takes longer than other turns should wait: it runs in a thread.
_MANY_ITEMS = 1_000

Context = grpc.aio.ServicerContext[Any, Any]


class Sessions(SessionsServicer):
    def __init__(
        self,
        router: Router,
        keys: Keyring,
        draining: WorkerDrain,
        *,
        address: str,
        metrics_address: str,
    ) -> None:
        self._router = router
        self._keys = keys
        self._draining = draining
        self._address = address
        self._metrics_address = metrics_address

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateEvent]:
        tenant = self._tenant(context)
        with within(from_metadata(context.invocation_metadata())):
            async with contextlib.aclosing(
                self._events(request, context.time_remaining(), tenant)
            ) as answering:
                async for event in answering:
                    yield event

    async def GenerateMany(
        self, request_iterator: AsyncIterator[pb.GenerateManyCommands], context: Context
    ) -> AsyncIterator[pb.GenerateManyEvents]:
        # The stream may be opened without a key, but then each of its turns needs one.
        own_key = key_in(context)

        def answer(
            request: pb.GenerateRequest, deadline_s: float | None, api_key: str
        ) -> AsyncGenerator[pb.GenerateEvent, None]:
            return self._events(request, deadline_s, self._keys.tenant_of(api_key or own_key))

        with within(from_metadata(context.invocation_metadata())):
            async with contextlib.aclosing(generate_many(request_iterator, answer)) as messages:
                async for message in messages:
                    yield message

    def _tenant(self, context: Context) -> Tenant:
        """The caller. Raises Unauthenticated."""
        return self._keys.tenant_of(key_in(context))

    async def _events(
        self, request: pb.GenerateRequest, deadline_s: float | None, tenant: Tenant
    ) -> AsyncGenerator[pb.GenerateEvent, None]:
        limits = self._router.limits
        if request.WhichOneof("input") == "token_ids":
            validate_length(len(request.token_ids.ids), limits.max_context)
        num = num_items(request.chat)
        limits.validate_num_items(num)
        require_few_values(request, limits.max_context)
        read = functools.partial(
            request_from_wire,
            request,
            default_turn_id=TurnId("" if request.turn_id else secrets.token_hex(16)),
            default_seed=secrets.randbits(63),
        )
        turn = await asyncio.to_thread(read) if num > _MANY_ITEMS else read()
        if deadline_s is not None:
            deadline_s = min(deadline_s, MAX_DEADLINE_S)
        answering = self._router.generate(
            turn, deadline_s=deadline_s, tenant=tenant, size_bytes=request.ByteSize()
        )
        async with contextlib.aclosing(answering):
            async for events in answering:
                yield events_to_wire(events)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        tenant = self._tenant(context)
        was_running = self._router.cancel(TurnId(request.turn_id), tenant)
        return pb.CancelResponse(was_running=was_running)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        max_turns = self._tenant(context).limits.max_turns
        return message_of(pb.GetModelResponse, replace(self._router.model(), max_turns=max_turns))

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        self._tenant(context)
        self._router.limits.validate_num_items(num_items(request.chat))
        token_ids = await self._router.tokens.tokenize(tokenized_from_wire(request))
        return pb.TokenizeResponse(token_ids=token_ids)

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        self._tenant(context)
        return message_of(pb.DetokenizeResponse, self._router.tokens.detokenize(request.token_ids))

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        is_operator = self._tenant(context).is_operator
        cluster = await self._router.status.cluster(self._address, self._metrics_address)
        return pb.GetStatusResponse(cluster=cluster_to_wire(cluster), is_operator=is_operator)

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        tenant = self._tenant(context)
        sessions, next_page_token = self._router.sessions.list(
            request.page_size, request.page_token, tenant.scope
        )
        own = (replace(one, session_id=tenant.shown(one.session_id)) for one in sessions)
        return pb.ListSessionsResponse(
            sessions=[message_of(pb.SessionInfo, session) for session in own],
            next_page_token=next_page_token,
        )

    async def RenewSession(
        self, request: pb.RenewSessionRequest, context: Context
    ) -> pb.RenewSessionResponse:
        tenant = self._tenant(context)
        expires_in_s = await self._router.sessions.renew(
            tenant.owned(SessionId(request.session_id)),
            _optional(request, "lease_s"),
            _optional(request, "pause_s"),
        )
        return pb.RenewSessionResponse(expires_in_s=expires_in_s)

    async def ReleaseSession(
        self, request: pb.ReleaseSessionRequest, context: Context
    ) -> pb.ReleaseSessionResponse:
        tenant = self._tenant(context)
        session_id = tenant.owned(SessionId(request.session_id))
        was_known = await self._router.sessions.release(session_id)
        return pb.ReleaseSessionResponse(was_known=was_known)

    async def ForkSession(
        self, request: pb.ForkSessionRequest, context: Context
    ) -> pb.ForkSessionResponse:
        tenant = self._tenant(context)
        parent_id = tenant.owned(SessionId(request.parent_id))
        child_id = tenant.owned(SessionId(request.child_id))
        await self._router.sessions.fork(parent_id, child_id)
        return pb.ForkSessionResponse()

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        tenant = self._tenant(context)
        session_id = SessionId(request.session_id)
        explanation = self._router.table.explain(tenant.owned(session_id))
        shown = replace(explanation, session_id=session_id)
        return pb.ExplainResponse(explanation=explanation_to_wire(shown))

    async def ListTurns(
        self, request: pb.ListTurnsRequest, context: Context
    ) -> pb.ListTurnsResponse:
        tenant = self._tenant(context)
        turns = self._router.recent.of(tenant, request.max_turns)
        return pb.ListTurnsResponse(turns=[recent_to_wire(turn) for turn in turns])

    async def DrainWorker(
        self, request: pb.DrainWorkerRequest, context: Context
    ) -> pb.DrainWorkerResponse:
        self._tenant(context).require_operator()
        report = await self._router.drains.drain(
            WorkerId(request.worker_id),
            _optional(request, "timeout_s"),
            move_sessions=request.move_sessions if request.HasField("move_sessions") else True,
        )
        return pb.DrainWorkerResponse(report=drain_report_to_wire(report))

    async def DrainRouter(
        self, request: pb.DrainRouterRequest, context: Context
    ) -> pb.DrainRouterResponse:
        self._tenant(context).require_operator()
        report = await self._draining.ask(_optional(request, "timeout_s"), move_sessions=False)
        return pb.DrainRouterResponse(ended_turns=report.ended_turns, cut_turns=report.moved_turns)

    async def ScaleWorkers(
        self, request: pb.ScaleWorkersRequest, context: Context
    ) -> pb.ScaleWorkersResponse:
        self._tenant(context).require_operator()
        order = value_of(ScaleOrder, request)
        await self._router.launcher.give(order)
        return pb.ScaleWorkersResponse(
            fleet=message_of(pb.FleetStatus, self._router.launcher.fleet)
        )

    async def ReloadConfig(
        self, request: pb.ReloadConfigRequest, context: Context
    ) -> pb.ReloadConfigResponse:
        self._tenant(context).require_operator()
        answer = await self._router.launcher.give(ReloadOrder())
        return message_of(pb.ReloadConfigResponse, answer.reloaded)


def _optional(request: Message, field: str) -> Any:
    """The field's value; None if it is not set."""
    return getattr(request, field) if request.HasField(field) else None


def key_in(context: Context) -> str:
    """The API key of the call; empty if it has none."""
    metadata = context.invocation_metadata() or ()
    return bearer_key(value for name, value in metadata if name == METADATA)
