"""The deadlines in docs/operations.md and the messages in docs/protocol.md, against the code."""

from __future__ import annotations

import re

import pytest

from decode_worker.config import DecodeConfig
from decode_worker.memory import moving
from kv_transfer import exchange
from kv_transfer import worker as handoff_worker
from kv_transfer.config import TransferConfig
from kv_transfer.peers import members
from kv_transfer.reading import fencer
from kv_transfer.ticket import MAX_LIFETIME_S
from prefill_worker.config import PrefillConfig
from router import router
from router.config import RouterConfig
from router.server import MAX_DEADLINE_S
from router.sessions import grammars
from router.turn import links, turn
from segue.gateway.config import GatewayConfig
from segue.internal.v1 import transfer_pb2, worker_pb2
from segue.sdk import client
from segue.v1 import session_pb2
from segue.wire import channel, membership_calls, status
from segue.wire.streams import join
from segue.worker import watchdog
from tests.repo.test_docs import ROOT

ROUTER, TRANSFER = RouterConfig(), TransferConfig()
SECTION = (ROOT / "docs/operations.md").read_text().split("## Deadlines")[1].split("\n## ")[0]


def row_of(step: str) -> str:
    """The one row of the table whose step starts so."""
    found = [line for line in SECTION.splitlines() if f"| {step}" in line]
    assert len(found) == 1, f"{step} has {len(found)} rows"
    return found[0]


def s(seconds: float) -> str:
    return f"{seconds:g} s"


KEEPALIVE_S = channel.KEEPALIVE_MS / 1e3
LIMITS = {
    "a turn |": [s(client.RECONNECT_S)],
    "a message that the client": [s(status.UNREAD_S)],
    "waiting for admission": [s(ROUTER.queue_timeout_s)],
    "waiting for a worker after": [s(ROUTER.lost_worker_wait_s), s(turn._LOOK_AGAIN_S)],
    "waiting for the first workers": [s(router._JOINED_WITHIN_S)],
    "compiling a grammar": [s(grammars.MAX_JOB_S)],
    "`Join`": [s(ROUTER.heartbeat_timeout_s), s(join.REJOIN_AFTER_S)],
    "`LastEpoch`": [s(membership_calls.LAST_EPOCH_S)],
    "`StartTurn`": [s(members.NEWS_WAIT_S)],
    "tokens |": [s(ROUTER.heartbeat_timeout_s)],
    "`Status`": [s(links.STATUS_TIMEOUT_S), s(links.LEASE_TIMEOUT_S)],
    "the ticket": {3600.0: ["at most an hour"]}[MAX_LIFETIME_S],
    "a pass of its engine": [
        s(watchdog._LEAST_S),
        s(watchdog._LEAST_S + watchdog._COMPILING_S["cuda"]),
        f"{watchdog._SLOWEST_FLOPS['cpu'] / 1e9:g} GFLOP/s",
        s(watchdog._LEAST_S + watchdog._HANDSHAKE_S),
        f"{watchdog._MOST_QUEUED_BATCHES} `transfer_timeout_s`",
        f"{s(watchdog.NOTICE_S)} later",
    ],
    "`Meet`": [s(exchange.CALL_TIMEOUT_S)],
    "a write |": [
        f"{s(TRANSFER.progress_timeout_s)} without",
        f"{s(TRANSFER.transfer_timeout_s)} in all",
        s(watchdog._HANDSHAKE_S),
    ],
    "`Commit`": [s(exchange.CALL_TIMEOUT_S), f"{exchange.SLOWEST_BYTES_PER_S / 1e6:g} MB"],
    "`Abort`": [s(exchange.CALL_TIMEOUT_S)],
    "`Fence`": [
        s(exchange._FENCE_TIMEOUT_S),
        f"after {s(fencer.FIRST_RETRY_S)}, growing to {s(fencer.MAX_RETRY_S)}",
    ],
    "a connection whose peer": [f"{s(KEEPALIVE_S)} of silence", s(4 * KEEPALIVE_S)],
    "`DrainWorker`": [f"+ {s(links.DRAIN_SLACK_S)}"],
    "`MoveSessions`": [
        f"{moving._AT_ONCE} sessions",
        f"+ {s(membership_calls._SLACK_S)}",
        s(moving._ROUTER_AWAY_S),
    ],
    "`Adopt`": [f"+ {s(links.LEASE_TIMEOUT_S)}"],
    "`ReadPrefix`": [s(exchange.CALL_TIMEOUT_S)],
    "running turns of one worker": [s(DecodeConfig().drain_s), s(PrefillConfig().drain_s)],
    "running turns |": [s(ROUTER.drain_s), s(GatewayConfig().drain_s)],
    "writes in flight": [s(handoff_worker._SETTLE_S)],
}


@pytest.mark.parametrize("step", LIMITS)
def test_a_limit_is_as_documented(step: str) -> None:
    row = row_of(step)

    assert [limit for limit in LIMITS[step] if limit not in row] == []


def test_the_defaults_named_above_the_table_are_those_of_the_code() -> None:
    assert MAX_DEADLINE_S == 86_400.0
    assert "at most a day" in SECTION
    assert f"default_deadline_s` ({s(ROUTER.default_deadline_s)})" in SECTION


def test_every_call_between_processes_of_the_cluster_has_a_row() -> None:
    methods = {
        method.name
        for file in (worker_pb2, transfer_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    # The commands and events of turns have rows of their own; the calls about leases share one.
    for name in ("RenewLease", "EndLease", "ForkLease"):
        methods.remove(name)
    assert "leases |" in row_of("`Status`")
    methods.remove("Turns")
    methods |= {"StartTurn", "PrefillPrompt"}

    assert [name for name in sorted(methods) if f"`{name}`" not in SECTION] == []


def test_every_message_of_the_protocol_exists() -> None:
    protocol = (ROOT / "docs/protocol.md").read_text()
    named = re.findall(r"^\| `(\w+)`", protocol, re.MULTILINE)
    known = {
        name
        for file in (worker_pb2, transfer_pb2, session_pb2)
        for name in (
            *file.DESCRIPTOR.message_types_by_name,
            *(m.name for s in file.DESCRIPTOR.services_by_name.values() for m in s.methods),
        )
    }

    assert len(named) >= 8
    assert [name for name in named if name not in known] == []
