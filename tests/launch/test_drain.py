"""What is said and done while a cluster ends. Ray is imported here, and not started."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from segue.launch.drain import draining_words, stop_router
from tests.cli.fake_router import fake_router


class Actor:
    """A router that stops after so many looks, and what was looked for."""

    def __init__(self, looks: float, dies: bool = False) -> None:
        self.looks, self.dies = looks, dies
        self.stop = self

    def remote(self) -> Actor:
        return self

    def wait(self, refs: list[Actor], timeout: float) -> tuple[list[Actor], list[Actor]]:
        self.looks -= 1
        return (refs, []) if self.looks <= 0 else ([], refs)

    def get(self, ref: Actor) -> None:
        if self.dies:
            raise RayActorError


def stop(monkeypatch: pytest.MonkeyPatch, actor: Actor, hurry: Any, timeout_s: float) -> float:
    """How many more looks it would have taken."""
    monkeypatch.setattr(ray, "wait", actor.wait)
    monkeypatch.setattr(ray, "get", actor.get)
    stop_router(actor, timeout_s, hurry)
    return actor.looks


@pytest.mark.parametrize("dies", [False, True])
def test_the_router_is_waited_for(monkeypatch: pytest.MonkeyPatch, dies: bool) -> None:
    assert stop(monkeypatch, Actor(3, dies), threading.Event(), 60.0) == 0


def test_somebody_in_a_hurry_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry = threading.Event()
    hurry.set()

    assert stop(monkeypatch, Actor(3), hurry, 60.0) == 3


def test_a_router_that_does_not_stop_is_waited_for_so_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop(monkeypatch, Actor(float("inf")), threading.Event(), 0.05)

    assert "did not stop in 0.05 s" in caplog.text


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        (0, "draining: no turn is running"),
        (1, "draining: 1 turn running, waiting 30 s at most; Ctrl-C again stops now"),
        (2, "draining: 2 turns running, waiting 30 s at most; Ctrl-C again stops now"),
    ],
)
def test_it_is_said_how_many_turns_run_and_for_how_long(turns: int, words: str) -> None:
    with fake_router() as router:
        router.running_turns = turns

        assert draining_words(router.address, 30.0) == words


def test_a_router_that_is_away_is_no_obstacle() -> None:
    assert draining_words("127.0.0.1:1", 5.0).startswith(
        "draining: some turns running, waiting 5 s"
    )
