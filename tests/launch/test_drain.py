"""The messages and the order of a cluster's end. Ray is imported here, and not started."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayActorError

from segue.launch.drain import await_done, draining_words, leave_in_order


class Call:
    """A call that ends after a number of polls."""

    def __init__(self, looks: float, dies: bool = False) -> None:
        self.looks, self.dies = looks, dies

    def wait(
        self, refs: list[Call], num_returns: int, timeout: float
    ) -> tuple[list[Call], list[Call]]:
        self.looks -= 1
        return (refs, []) if self.looks <= 0 else ([], refs)

    def get(self, refs: list[Call]) -> None:
        if self.dies:
            raise RayActorError


def stop(monkeypatch: pytest.MonkeyPatch, call: Call, hurry: Any, timeout_s: float) -> float:
    """The number of polls that were left."""
    monkeypatch.setattr(ray, "wait", call.wait)
    monkeypatch.setattr(ray, "get", call.get)
    await_done([call], timeout_s, hurry)
    return call.looks


@pytest.mark.parametrize("dies", [False, True])
def test_the_router_is_waited_for(monkeypatch: pytest.MonkeyPatch, dies: bool) -> None:
    assert stop(monkeypatch, Call(3, dies), threading.Event(), 60.0) == 0


class Actor:
    """Records its calls."""

    def __init__(self, name: str, asked: list[str]) -> None:
        def method(what: str) -> SimpleNamespace:
            return SimpleNamespace(remote=lambda: asked.append(f"{name} {what}"))

        self.drain, self.stop = method("drain"), method("stop")


def test_turns_end_before_workers_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def wait(refs: list[None], num_returns: int, timeout: float) -> tuple[list[None], list[None]]:
        asked.append(f"wait for {num_returns}")
        return refs, []

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda refs: None)
    workers = [Actor("decode-0", asked), Actor("prefill-0", asked)]

    leave_in_order([Actor("router", asked)], workers, 30.0, threading.Event())

    assert asked == [
        "router drain",
        "wait for 1",
        "decode-0 stop",
        "prefill-0 stop",
        "wait for 2",
    ]


def test_a_gateway_drains_with_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(ray, "wait", lambda refs, num_returns, timeout: (refs, []))
    monkeypatch.setattr(ray, "get", lambda refs: None)

    leave_in_order(
        [Actor("router", asked), Actor("router-1", asked)],
        [],
        30.0,
        threading.Event(),
        gateways=[Actor("gateway", asked)],
    )

    assert asked == ["router drain", "router-1 drain", "gateway stop"]


def test_a_second_signal_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry = threading.Event()
    hurry.set()

    assert stop(monkeypatch, Call(3), hurry, 60.0) == 3


def test_the_wait_for_a_router_that_does_not_stop_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop(monkeypatch, Call(float("inf")), threading.Event(), 0.05)

    assert "did not stop within 0.05 s" in caplog.text


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        (0, "draining: no turn is running"),
        (1, "draining: 1 turn running, waiting 30 s at most; Ctrl-C again stops now"),
        (2, "draining: 2 turns running, waiting 30 s at most; Ctrl-C again stops now"),
    ],
)
def test_the_number_of_running_turns_and_the_time_are_reported(
    turns: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = SimpleNamespace(router=SimpleNamespace(running_turns=turns))
    monkeypatch.setattr(ray, "get", lambda call, timeout: call())
    router = SimpleNamespace(status=SimpleNamespace(remote=lambda: lambda: status))

    assert draining_words([router], 30.0) == words


def test_an_unreachable_router_does_not_prevent_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(call: object, timeout: float) -> None:
        raise GetTimeoutError

    monkeypatch.setattr(ray, "get", get)
    router = SimpleNamespace(status=SimpleNamespace(remote=lambda: None))

    assert draining_words([router], 5.0).startswith("draining: some turns running, waiting 5 s")
