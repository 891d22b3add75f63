"""What a person sees who comes to a wrong door: at the command line, over HTTP, at `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from router.__main__ import running as running_router
from router.config import RouterConfig
from segue.cli.main import main
from segue.gateway.__main__ import running as running_gateway
from segue.gateway.config import GatewayConfig
from segue.security.config import OPEN, Security
from tests.security.conftest import security_in


class Doors:
    """A router and a gateway in a thread; their addresses."""

    def __init__(self, security: Security) -> None:
        self._security = security
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))
        self.router = self.metrics = self.gateway = ""

    async def _run(self) -> None:
        config = RouterConfig(port=0, drain_s=0.0)
        async with (
            running_router(config, "demo", security=self._security) as router,
            running_gateway(GatewayConfig(port=0), router.address, self._security) as gateway,
        ):
            self.router, self.metrics = router.address, router.metrics_address
            self.gateway = gateway.address
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Doors:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def doors(certificates: Path) -> Iterator[Doors]:
    with Doors(security_in(certificates)) as started:
        yield started


@pytest.fixture(scope="module")
def open_doors() -> Iterator[Doors]:
    with Doors(OPEN) as started:
        yield started


@pytest.fixture
def segue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The error line of a command, or what it prints."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["segue", *arguments])
        with contextlib.suppress(SystemExit):
            main()
        shown = capsys.readouterr()
        return shown.out + shown.err

    return run


def files(folder: Path, name: str) -> list[str]:
    return ["--tls-cert", str(folder / f"{name}.pem"), "--tls-key", str(folder / f"{name}.key")]


def test_a_command_says_what_is_missing(
    doors: Doors, open_doors: Doors, certificates: Path, segue: Callable[..., str]
) -> None:
    target, ca = ("--target", doors.router), ("--tls-ca", str(certificates / "ca.pem"))

    plain = segue("status", *target)
    without = segue("status", *target, *ca)
    expired = segue("status", *target, *ca, *files(certificates, "expired"))
    wrong_ca = segue("status", *target, "--tls-ca", str(certificates / "foreign-ca.pem"))
    no_tls = segue("status", "--target", open_doors.router, *ca)
    half = segue("status", *target, *ca, *files(certificates, "client")[:2])
    missing = segue("status", *target, "--tls-ca", "/nowhere.pem")
    served = segue("status", *target, *ca, *files(certificates, "client"))

    assert "it probably uses TLS: name its authority with --tls-ca FILE" in plain
    assert "it probably asks for a certificate: show one with --tls-cert" in without
    assert "it probably refuses this certificate, which has expired" in expired
    assert "not of an authority that is trusted here (--tls-ca FILE)" in wrong_ca
    assert "it does not use TLS" in no_tls
    assert "a certificate is given without its key" in half
    assert "cannot read the ca in /nowhere.pem: No such file" in missing
    assert "not ready" in served
    for error in (plain, without, expired, wrong_ca, no_tls, half, missing):
        assert error.startswith("error "), error
        assert len(error.strip().splitlines()) == 1, error


def test_files_may_be_named_in_the_environment(
    doors: Doors,
    certificates: Path,
    segue: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEGUE_TLS_CA", str(certificates / "ca.pem"))
    monkeypatch.setenv("SEGUE_TLS_CERT", str(certificates / "client.pem"))
    monkeypatch.setenv("SEGUE_TLS_KEY", str(certificates / "client.key"))

    assert "not ready" in segue("status", "--target", doors.router)


def ask(address: str, path: str, context: ssl.SSLContext, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPSConnection(address, context=context, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()


def test_metrics_need_a_certificate_and_probes_none(doors: Doors, certificates: Path) -> None:
    without = ssl.create_default_context(cafile=certificates / "ca.pem")
    with_one = ssl.create_default_context(cafile=certificates / "ca.pem")
    with_one.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    foreign = ssl.create_default_context(cafile=certificates / "ca.pem")
    foreign.load_cert_chain(certificates / "foreign.pem", certificates / "foreign.key")

    status, text = ask(doors.metrics, "/metrics", with_one)
    refused, why = ask(doors.metrics, "/metrics", without)

    assert (status, "segue_build_info" in text) == (200, True)
    assert (refused, why) == (
        403,
        "expected a client certificate of this cluster's authority, got none\n",
    )
    assert ask(doors.metrics, "/livez", without)[0] == 200
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        ask(doors.metrics, "/metrics", foreign)
    plain = http.client.HTTPConnection(doors.metrics, timeout=10)
    plain.request("GET", "/livez")
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        plain.getresponse()
    plain.close()


def test_http_clients_need_only_the_authority(doors: Doors, certificates: Path) -> None:
    context = ssl.create_default_context(cafile=certificates / "ca.pem")

    assert ask(doors.gateway, "/health", context)[0] == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(doors.gateway, "/health", ssl.create_default_context())


def test_no_header_of_a_client_is_in_the_gateways_log(
    doors: Doors, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    # The parser itself refuses other control characters.
    hostile = {
        "x-request-id": "forged\x9b31m",
        "x-session-id": "forged\x9d0;title\x9c",
        "user-agent": "\x85INFO forged",
    }

    def written() -> list[str]:
        records = [one for one in caplog.records if one.name.startswith("segue.gateway")]
        return [f"{one.getMessage()} {vars(one)!r}" for one in records]

    with caplog.at_level(logging.INFO):
        assert ask(doors.gateway, "/", context, **{"x-a": "forged\x1b"})[0] == 400
        assert ask(doors.gateway, "/forged%1b%0aINFO", context, **hostile)[0] == 404
        ends_at = time.monotonic() + 10
        while not (lines := written()) and time.monotonic() < ends_at:
            time.sleep(0.01)

    assert lines
    assert not any("forged" in line for line in lines)
