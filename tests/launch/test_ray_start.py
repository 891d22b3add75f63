"""How Ray's errors and hangs are reported. Ray is imported here, and not started."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
import ray
from ray._private.node import Node

from segue.api.errors import Unavailable
from segue.api.types import Role
from segue.launch.ray import start as ray_start
from segue.launch.ray.demand import Demand
from segue.launch.ray.start import require_room

LOCAL = {"address": "local"}


class FakeRay:
    """Ray's functions as this module calls them, with the behaviour that a test chooses."""

    def __init__(self, mood: Any) -> None:
        self.mood = mood
        self.free_gpus: list[float] = []
        """The numbers of unused resources to return, in order; the last one is repeated."""

    def init(self, **options: Any) -> None:
        self.mood()

    def nodes(self) -> list[dict[str, Any]]:
        dead = {"Alive": False, "Resources": {"GPU": 8.0}, "Labels": {}}
        return [{"Alive": True, "Resources": {"GPU": 2.0}, "Labels": {}}, dead]

    def available_resources(self) -> dict[str, float]:
        free = self.free_gpus.pop(0) if len(self.free_gpus) > 1 else self.free_gpus[0]
        # Ray omits resources that are used up.
        return {"GPU": free} if free else {}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay(lambda: None)
    monkeypatch.setattr(ray_start, "_LOOK_EVERY_S", 0.05)
    for name in ("init", "nodes", "available_resources"):
        monkeypatch.setattr(ray, name, getattr(fake, name))
    return fake


def start(fake: FakeRay, mood: Any, *, address: str = "local", timeout_s: float = 5.0) -> list[str]:
    """The reports during the start."""
    reported: list[str] = []
    may_end = threading.Event()
    fake.mood = mood
    try:
        ray_start._init({"address": address}, timeout_s, reported.append, may_end)
    finally:
        may_end.set()
    return reported


def test_an_error_of_ray_becomes_one_line(fake: FakeRay) -> None:
    def fails() -> None:
        raise RuntimeError("The current node timed out\nduring startup.\n  This could happen ...")

    with pytest.raises(Unavailable) as failed:
        start(fake, fails)

    assert str(failed.value) == (
        "Ray did not start here: The current node timed out during startup. This could happen ..."
    )


def test_parts_of_ray_that_one_machine_does_not_need_stay_off(fake: FakeRay) -> None:
    node = Node.__new__(Node)
    own = Node.start_monitor

    # They would fail: this node has no ports, folders or addresses.
    def starts_parts() -> None:
        node.start_monitor()
        node.start_log_monitor()
        node.start_api_server(include_dashboard=False, raise_on_failure=False)

    assert start(fake, starts_parts) == []
    assert Node.start_monitor is own


def test_an_error_without_a_message_is_named_by_its_type(fake: FakeRay) -> None:
    def fails() -> None:
        raise TimeoutError

    with pytest.raises(Unavailable, match=r"cannot join Ray at head:1: TimeoutError\(\)"):
        start(fake, fails, address="head:1")


def test_a_refused_token_is_recognized_in_the_native_output(fake: FakeRay) -> None:
    def fails() -> None:
        os.write(2, b"E gcs_client.cc:210: Unauthenticated: InvalidAuthToken: token is missing\n")
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")

    with pytest.raises(Unavailable, match="cannot join Ray at head:1: the token is missing or wr"):
        start(fake, fails, address="head:1")


def test_a_hanging_start_is_given_up(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    silenced: list[bool] = []
    monkeypatch.setattr(ray_start, "silence_native_stderr", lambda: silenced.append(True))
    hangs = threading.Event()

    with pytest.raises(Unavailable, match=r"Ray did not start here: no answer for 0\.2 s"):
        start(fake, hangs.wait, timeout_s=0.2)
    hangs.set()
    assert silenced == [True]


def test_a_slow_start_is_reported_once(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start, "_SLOW_AFTER_S", 0.1)
    is_up = threading.Event()
    threading.Timer(0.3, is_up.set).start()

    (line,) = start(fake, is_up.wait, timeout_s=60.0)

    assert "Ray is slow to start (load" in line
    assert line.endswith("; will give up at 60 s")


def test_signal_handlers_are_restored(fake: FakeRay) -> None:
    """Ray's native part installs its own, unnoticed by Python; here it is done openly."""
    before = signal.getsignal(signal.SIGTERM)
    keep = ray_start._signal_keeper()

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    keep()

    assert signal.getsignal(signal.SIGTERM) == before


def worker(index: int) -> Demand:
    return Demand(role=Role.DECODE, index=index, gpus=1.0)


def silent(stage: str) -> None:
    pass


def test_a_dead_node_has_no_room(fake: FakeRay) -> None:
    fake.free_gpus = [2.0]

    require_room([worker(0), worker(1)], 0.0, silent)
    with pytest.raises(
        Unavailable, match=r"no room for this cluster: it needs 3 GPU.*has 2 GPU on 1"
    ):
        require_room([worker(0), worker(1), worker(2)], 0.0, silent)


def test_resources_in_use_a_moment_ago_are_waited_for(fake: FakeRay) -> None:
    fake.free_gpus = [0.0, 1.0, 2.0]

    require_room([worker(0), worker(1)], 5.0, silent)

    assert fake.free_gpus == [2.0]


def test_a_long_wait_for_nodes_says_what_is_missing_once(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_start, "_SLOW_AFTER_S", 0.1)
    fake.free_gpus = [0.0, 0.0, 0.0, 2.0]
    lines: list[str] = []

    require_room([worker(0), worker(1)], 60.0, lines.append)

    (line,) = lines
    assert line.startswith("waiting for nodes of the Ray cluster: it needs 2 GPU")


def test_rays_own_messages_are_reported_but_for_ended_processes() -> None:
    passed: list[str] = []
    lines = ["A worker died or was killed while\n…", "No room for a worker: add nodes\nmore"]

    ray_start._pass_on({"lines": lines}, passed.append)

    assert passed == ["Ray: No room for a worker: add nodes"]
