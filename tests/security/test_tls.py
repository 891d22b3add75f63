"""TLS between real gRPC peers: refusals, their messages, and changes of files."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.__main__ import RunningRouter, running
from router.config import RouterConfig
from scripts.test_ca import Authority
from segue.api.errors import InvalidConfig, SegueError, Unauthenticated, Unavailable
from segue.internal.v1 import worker_pb2
from segue.internal.v1.worker_pb2_grpc import MembershipStub
from segue.sdk.client import Client
from segue.security import tls as tls_files
from segue.security.config import OPEN, Security, SecurityConfig
from segue.security.tls import Tls
from segue.wire.channel import channel_to, is_serving
from segue.wire.server import serving
from segue.wire.status import rpc_errors
from tests.security.conftest import TlsOf, security_in


@contextlib.asynccontextmanager
async def router(security: Security) -> AsyncIterator[RunningRouter]:
    config = RouterConfig(port=0, metrics_port=0, drain_s=0.0)
    async with running(config, "demo", security=security) as started:
        yield started


async def refusal(target: str, tls: Tls | None) -> SegueError:
    async with Client(target, tls=tls) as client:
        with pytest.raises(SegueError) as refused:
            await client.status()
    return refused.value


async def test_a_client_with_a_certificate_is_served(certificates: Path, tls_of: TlsOf) -> None:
    async with (
        router(security_in(certificates)) as started,
        Client(started.address, tls=tls_of("client")) as client,
    ):
        assert not (await client.status()).ready


async def test_everybody_else_is_refused_in_words(certificates: Path, tls_of: TlsOf) -> None:
    wrong_authority = Tls(ca=str(certificates / "foreign-ca.pem"))
    async with router(security_in(certificates)) as started:
        plain = await refusal(started.address, None)
        none = await refusal(started.address, tls_of(""))
        expired = await refusal(started.address, tls_of("expired"))
        foreign = await refusal(started.address, tls_of("foreign"))
        distrusts = await refusal(started.address, wrong_authority)

    for error in (plain, none, expired, foreign, distrusts):
        assert isinstance(error, Unavailable)
    assert "it probably uses TLS: name its authority with --tls-ca FILE" in str(plain)
    assert "it probably asks for a certificate" in str(none)
    for error in (expired, foreign):
        assert "it probably refuses this certificate" in str(error)
    assert "not of an authority that is trusted here (--tls-ca FILE)" in str(distrusts)


async def test_a_client_without_tls_and_a_server_without_it_do_not_meet(tls_of: TlsOf) -> None:
    async with router(OPEN) as started:
        error = await refusal(started.address, tls_of("client"))

    assert isinstance(error, Unavailable)
    assert "does not use TLS" in str(error)


async def test_a_clients_certificate_is_not_enough_to_join(
    certificates: Path, tls_of: TlsOf
) -> None:
    security = Security(tls=tls_of("client"))
    async with router(security_in(certificates)) as started:
        async with channel_to(started.address, security) as channel:
            with (
                pytest.raises(Unauthenticated, match="expected its secret, got none"),
                rpc_errors("the router"),
            ):
                await MembershipStub(channel).Join(iter([worker_pb2.Heartbeat()])).read()
        assert started.router.membership.workers() == []


async def test_clients_may_be_without_certificates(certificates: Path, tls_of: TlsOf) -> None:
    security = security_in(certificates, client_certificates=False)
    async with router(security) as started, Client(started.address, tls=tls_of("")) as client:
        assert not (await client.status()).ready


async def test_workers_ask_for_a_certificate_even_then(certificates: Path, tls_of: TlsOf) -> None:
    security = security_in(certificates, client_certificates=False)
    async with serving("127.0.0.1", 0, lambda address: [], security=security) as running:
        async with channel_to(running.address, Security(tls=tls_of("client"))) as channel:
            assert not await is_serving(channel, 5.0)
        async with channel_to(running.address, Security(tls=tls_of(""))) as channel:
            with pytest.raises(Unavailable, match="certificate"), rpc_errors("the worker"):
                await is_serving(channel, 5.0)


async def test_only_the_router_takes_certificates_of_the_clients_authority(
    certificates: Path, tls_of: TlsOf
) -> None:
    security = security_in(certificates, client_ca=str(certificates / "foreign-ca.pem"))
    guest = tls_of("foreign")
    async with router(security) as started, Client(started.address, tls=guest) as client:
        await client.status()
    async with (
        serving("127.0.0.1", 0, lambda address: [], security=security) as running,
        channel_to(running.address, Security(tls=guest)) as channel,
    ):
        with pytest.raises(Unavailable, match="certificate"), rpc_errors("the worker"):
            await is_serving(channel, 5.0)


async def test_a_certificate_of_another_host_needs_its_name(
    certificates: Path, tmp_path: Path
) -> None:
    authority = Authority.make("ca")
    authority.write(tmp_path)
    authority.issue(tmp_path, "server", hosts=["segue.internal"])
    ca = str(tmp_path / "ca.pem")
    async with router(security_in(tmp_path, client_certificates=False)) as started:
        error = await refusal(started.address, Tls(ca=ca))
        named = Tls(ca=ca, server_name="segue.internal")
        async with Client(started.address, tls=named) as client:
            await client.status()

    assert "certificate" in str(error)


async def test_new_files_are_used_for_new_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old authority's client is served before the files change, and refused after it. A client
    whose own files changed too is served, on the channel that it had."""
    monkeypatch.setattr(tls_files, "LOOK_EVERY_S", 0.0)
    old, new = Authority.make("ca"), Authority.make("ca")
    old.write(tmp_path)
    for name in ("server", "client"):
        old.issue(tmp_path, name)
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("ca.pem", "client.pem", "client.key"):
        shutil.copy(tmp_path / name, kept)

    def client_of(folder: Path) -> Tls:
        files = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}
        return Tls(**{field: str(folder / name) for field, name in files.items()})

    async with (
        router(security_in(tmp_path)) as started,
        Client(started.address, tls=client_of(tmp_path)) as client,
    ):
        await client.status()
        async with Client(started.address, tls=client_of(kept)) as other:
            await other.status()
        new.write(tmp_path)
        for name in ("server", "client"):
            new.issue(tmp_path, name)
        await client.status()
        error = await refusal(started.address, client_of(kept))

    assert isinstance(error, Unavailable)


async def test_files_that_cannot_be_used_leave_the_old_ones_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_files, "LOOK_EVERY_S", 0.0)
    authority = Authority.make("ca")
    authority.write(tmp_path)
    for name in ("server", "client"):
        authority.issue(tmp_path, name)
    tls = Tls(
        ca=str(tmp_path / "ca.pem"),
        certificate=str(tmp_path / "client.pem"),
        key=str(tmp_path / "client.key"),
    )
    async with router(security_in(tmp_path)) as started:
        async with Client(started.address, tls=tls) as client:
            await client.status()
        for name in ("server.key", "client.key"):
            (tmp_path / name).write_text("not a key")
        # Also for a client that is made just now: a worker joins again in the middle of a rotation.
        async with Client(started.address, tls=tls) as client:
            await client.status()

    assert "cannot use the new certificates; keeping the old ones" in caplog.text


def test_files_are_checked_before_anything_starts(certificates: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    good = str(certificates / "server.pem")
    cases = {
        "cannot read the ca in /nowhere: No such file": {"ca": "/nowhere"},
        "no CA certificate in .*broken": {"ca": str(broken)},
        "is not the private key": {"certificate": good, "key": str(certificates / "client.key")},
        "cannot read the key": {"certificate": good, "key": "/nowhere"},
    }
    for message, files in cases.items():
        with pytest.raises(InvalidConfig, match=message):
            Tls(**files).read()
    with pytest.raises(InvalidConfig, match="a certificate is given without its key"):
        Tls(certificate=good)
    with pytest.raises(ValueError, match="got only certificate: set all three"):
        SecurityConfig(certificate=good)


def test_without_certificates_of_clients_a_secret_is_needed(certificates: Path) -> None:
    security = security_in(certificates, client_certificates=False)

    with pytest.raises(InvalidConfig, match="needs a cluster secret"):
        Security(tls=security.tls, client_certificates=False).require_for("127.0.0.1")
