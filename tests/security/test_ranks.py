"""Connections of a worker's ranks inside TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from segue.parallel.network import Credentials, Listener, MessageChannel, dial
from segue.security.config import Security
from segue.security.tls import Tls
from segue.worker.ranks.credentials import credentials_of
from tests.security.conftest import TlsOf, security_in
from tests.security.proxy import PROXY_HOST, seeing

HOST = "127.0.0.1"
PATIENCE_S = 30.0
WORDS = "brillig-and-the-slithy-toves"


def conversation(leader: MessageChannel, follower: MessageChannel) -> None:
    """Both sides send much at the same time, each with one thread that sends and one that
    receives."""
    sent = [[WORDS, list(range(size))] for size in (1, 200_000, 10)] * 3
    ends = (leader, follower)
    received: list[list[object]] = [[], []]
    threads = [threading.Thread(target=lambda end=end: [end.send(m) for m in sent]) for end in ends]
    threads += [
        threading.Thread(target=lambda end=end, into=into: into.extend(end.recv() for _ in sent))
        for end, into in zip(ends, received, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert received == [sent, sent]


async def test_what_ranks_exchange_cannot_be_read_with_tls_and_can_be_without(
    certificates: Path,
) -> None:
    secured = credentials_of(security_in(certificates))
    for credentials, is_secret in ((secured, True), (Credentials(secret=secured.secret), False)):
        with contextlib.closing(Listener(HOST, credentials)) as listener:
            async with seeing(listener.port) as seen:
                follower = await asyncio.to_thread(dial, PROXY_HOST, listener.port, 3, credentials)
                came = await asyncio.to_thread(listener.next, PATIENCE_S)
                assert came is not None
                index, leader = came
                assert index == 3
                await asyncio.to_thread(conversation, leader, follower)

                leader.close()
                with pytest.raises((EOFError, OSError)):
                    await asyncio.to_thread(follower.recv)
                follower.close()
            assert len(seen) > 1_000_000
            assert (WORDS.encode() not in seen) is is_secret


def other_tls(security: Security, tls: Tls | None) -> Credentials:
    """A process that has the secret, with these certificates."""
    return credentials_of(replace(security, tls=tls))


@pytest.mark.parametrize("certificate", ["expired", "foreign", ""])
def test_with_tls_a_follower_needs_a_certificate_of_the_cluster(
    certificate: str, certificates: Path, tls_of: TlsOf
) -> None:
    security = security_in(certificates)
    with contextlib.closing(Listener(HOST, credentials_of(security))) as listener:
        with pytest.raises((EOFError, OSError)):
            # In TLS 1.3 a client learns only with the first answer that it was refused.
            dial(HOST, listener.port, 1, other_tls(security, tls_of(certificate)))
        with pytest.raises((EOFError, OSError)):
            dial(HOST, listener.port, 1, other_tls(security, None))
        assert listener.next(0.0) is None

        dial(HOST, listener.port, 1, credentials_of(security)).close()
        came = listener.next(PATIENCE_S)
        assert came is not None
        came[1].close()


def test_a_follower_asks_the_leader_for_the_certificate_of_its_address(
    certificates: Path, tls_of: TlsOf
) -> None:
    security = security_in(certificates)
    ours = credentials_of(security)
    with contextlib.closing(Listener(HOST, ours)) as listener:
        with pytest.raises(OSError, match="certificate"):
            dial("localhost", listener.port, 1, replace(ours, server_name="elsewhere.example"))
        named = replace(ours, server_name="localhost")
        dial(HOST, listener.port, 1, named).close()

    foreign = replace(ours, server=other_tls(security, tls_of("foreign")).server)
    with (
        contextlib.closing(Listener(HOST, foreign)) as listener,
        pytest.raises(OSError, match="certificate"),
    ):
        dial(HOST, listener.port, 1, ours)


def test_a_process_without_tls_that_keeps_silent_is_no_rank(certificates: Path) -> None:
    security = security_in(certificates)
    with (
        contextlib.closing(Listener(HOST, credentials_of(security))) as listener,
        socket.create_connection((HOST, listener.port)),
    ):
        follower = dial(HOST, listener.port, 1, credentials_of(security))
        came = listener.next(PATIENCE_S)
        assert came is not None, "others need not wait for it"
        came[1].close()
        follower.close()
