"""Ranks of one worker on two nodes of a Ray cluster, each too small for both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from scripts.test_ca import write_all
from segue.api.turn import TokenDelta, TurnEnd, TurnEvent, TurnStarted
from segue.api.types import TokenInput
from segue.sdk.client import Client
from segue.security.tls import Tls
from tests.cluster.oracle import Oracle
from tests.cluster.serving import Serving, is_whole, serving, wait_until
from tests.cluster.test_ranks import LONG, prompt_of, wait_until_gone, wait_until_whole
from tests.cluster.waiting import is_idle, wait_until_idle
from tests.faults.cluster.ray_nodes import RayNodes, environment, ray_nodes

pytestmark = pytest.mark.slow

SECRET = "the-secret-of-this-cluster"
SETTINGS = """
[cluster]
router_on = "resource:head=0.1"
prefill_on = "resource:prefill=1"
# A node has one of these, and each rank asks for half of them.
decode_on = "resource:decode=2"
room_timeout_s = 30.0
[engine]
num_threads = 1
cache_bytes = 67108864
max_running = 8
[decode]
tensor_parallel = 2
"""
PLACEMENT_GROUPS = """
import json, sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR")
groups = ray.util.placement_group_table().values()
print("groups:", json.dumps([[group["state"], group["strategy"]] for group in groups]))
"""
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes(2) as nodes:
        yield nodes


@contextlib.contextmanager
def two_nodes(nodes: RayNodes, folder: Path, more: str = "") -> Iterator[Serving]:
    settings = folder / "ranks.toml"
    settings.write_text(SETTINGS + more)
    given = {**environment(), "SEGUE_CLUSTER_SECRET": SECRET}
    address = ("--ray-address", nodes.address)
    with serving(folder, *address, "--config", str(settings), environment=given) as cluster:
        yield cluster


def placement_groups(nodes: RayNodes) -> list[list[str]]:
    """State and strategy of all that there ever were."""
    done = subprocess.run(
        [sys.executable, "-c", PLACEMENT_GROUPS, nodes.address],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = (one for one in done.stdout.splitlines() if one.startswith("groups: "))
    found: list[list[str]] = json.loads(line.removeprefix("groups: "))
    return found


def raylet_of(pid: int) -> int:
    """Ray's process of the node that a process is on."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])


def wait_until_ended(pids: list[int]) -> None:
    deadline_at = time.monotonic() + PATIENCE_S
    while left := [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists()]:
        assert time.monotonic() < deadline_at, left
        time.sleep(0.1)


@contextlib.contextmanager
def one_more_worker(address: str, demo: Path, folder: Path) -> Iterator[None]:
    """Of one rank, started by hand."""
    command = ["-m", "decode_worker", "--id", "decode-9", "--model", str(demo)]
    settings = folder / "one.toml"
    settings.write_text("[engine]\nnum_threads = 1\ncache_bytes = 67108864\nmax_running = 8\n")
    with (folder / "worker.log").open("w") as log:
        worker = subprocess.Popen(
            [sys.executable, *command, "--router", address, "--config", str(settings)],
            stdout=log,
            stderr=log,
            env={**os.environ, "SEGUE_CLUSTER_SECRET": SECRET},
        )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait()


async def turn_on(worker: str, client: Client, prompt: TokenInput) -> AsyncIterator[TurnEvent]:
    """A turn that has started there. New turns go to either worker."""
    others = []
    for _ in range(8):
        turn = client.stream(prompt, stop=LONG)
        started = await anext(turn)
        assert isinstance(started, TurnStarted)
        if started.decode_worker == worker:
            return turn
        others.append(turn)
    raise AssertionError(f"no turn went to {worker}")


async def test_ranks_on_two_nodes_serve_and_live_and_die_together(
    nodes: RayNodes, demo: Path, tmp_path: Path
) -> None:
    prompt = TokenInput(prompt_of(70, seed=1))
    expected = Oracle(demo).greedy(prompt.token_ids, LONG.max_tokens)
    with two_nodes(nodes, tmp_path) as cluster:
        address = await asyncio.to_thread(cluster.address)
        names = ("decode-0", "decode-0-rank-1")
        leader, follower = map(cluster.pid, names)
        assert {raylet_of(leader), raylet_of(follower)} == set(nodes.raylet_pids)
        assert ["CREATED", "PACK"] in await asyncio.to_thread(placement_groups, nodes)
        async with Client(address) as client:
            await wait_until_whole(client, 2)
            alone = await client.generate(prompt, stop=LONG)
            assert list(alone.token_ids) == expected

            with one_more_worker(address, demo, tmp_path):
                await wait_until_whole(client, 3)
                turn = await turn_on("decode-0", client, prompt)
                events = [await anext(turn), await anext(turn)]
                os.kill(follower, signal.SIGKILL)
                events += [event async for event in turn]
                await wait_until_gone(leader)
                await wait_until_whole(client, 3)
            tokens = [t for e in events if isinstance(e, TokenDelta) for t in e.token_ids]
            assert tokens == expected
            (end,) = [event for event in events if isinstance(event, TurnEnd)]
            assert (end.usage.resumed, end.decode_worker) == (1, "decode-9")

            leader, follower = map(cluster.pid, names)
            os.kill(leader, signal.SIGKILL)
            await wait_until_gone(follower)
            await wait_until_back(client, leader)
            again = await client.generate(prompt, stop=LONG)
            assert list(again.token_ids) == expected
            assert is_idle(await wait_until_idle(client))
        leader, follower = map(cluster.pid, names)
        assert {raylet_of(leader), raylet_of(follower)} == set(nodes.raylet_pids)

        assert await asyncio.to_thread(cluster.end) == 0
        wait_until_ended([leader, follower])
    left = await asyncio.to_thread(placement_groups, nodes)
    assert {state for state, _ in left} == {"REMOVED"}


async def wait_until_back(client: Client, before: int) -> None:
    """Until decode-0 is another process than `before`, and decode-9 has left."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            workers = (await client.status()).workers
            if {w.worker_id for w in workers if w.pid != before} == {"prefill-0", "decode-0"}:
                break
            await asyncio.sleep(0.2)
    await wait_until_whole(client, 2)


async def test_ranks_on_two_nodes_serve_inside_tls(
    nodes: RayNodes, demo: Path, tmp_path: Path
) -> None:
    write_all(tmp_path, ("localhost", "127.0.0.1"))
    files = {"certificate": "server.pem", "key": "server.key", "ca": "ca.pem"}
    lines = [f'{name} = "{tmp_path / file}"' for name, file in files.items()]
    client_files = {"certificate": "client.pem", "key": "client.key", "ca": "ca.pem"}
    tls = Tls(**{name: str(tmp_path / file) for name, file in client_files.items()})
    prompt = TokenInput(prompt_of(70, seed=2))
    with two_nodes(nodes, tmp_path, "\n".join(["[security]", *lines])) as cluster:
        address = await asyncio.to_thread(cluster.address)
        pids = map(cluster.pid, ("decode-0", "decode-0-rank-1"))
        assert {raylet_of(pid) for pid in pids} == set(nodes.raylet_pids)
        async with Client(address, tls=tls) as client:
            await wait_until_whole(client, 2)
            answer = await client.generate(prompt, stop=LONG)
            assert is_idle(await wait_until_idle(client))

    assert list(answer.token_ids) == Oracle(demo).greedy(prompt.token_ids, LONG.max_tokens)


def test_a_launcher_that_is_killed_leaves_no_rank_and_no_group(
    nodes: RayNodes, tmp_path: Path
) -> None:
    with two_nodes(nodes, tmp_path) as cluster:
        cluster.address()
        pids = [cluster.pid(name) for name in ("decode-0", "decode-0-rank-1", "prefill-0")]

        cluster.process.send_signal(signal.SIGKILL)

        wait_until_ended(pids)
    deadline_at = time.monotonic() + PATIENCE_S
    while {state for state, _ in placement_groups(nodes)} != {"REMOVED"}:
        assert time.monotonic() < deadline_at


def test_a_node_that_is_lost_takes_the_whole_worker_to_another(
    nodes: RayNodes, demo: Path, tmp_path: Path
) -> None:
    with two_nodes(nodes, tmp_path) as cluster:
        address = cluster.address()
        prefill = raylet_of(cluster.pid("prefill-0"))
        before = [cluster.pid(name) for name in ("decode-0", "decode-0-rank-1")]
        (lost,) = set(nodes.raylet_pids) - {prefill}
        os.kill(lost, signal.SIGKILL)
        nodes.raylet_pids.remove(lost)
        wait_until_ended(before)
        nodes.add()

        asyncio.run(answers_again(address, demo, {*before}))
        after = [cluster.pid(name) for name in ("decode-0", "decode-0-rank-1")]
        assert {raylet_of(pid) for pid in after} == set(nodes.raylet_pids)


async def answers_again(address: str, demo: Path, before: set[int]) -> None:
    prompt = TokenInput(prompt_of(70, seed=1))
    async with Client(address) as client:
        async with asyncio.timeout(PATIENCE_S):
            while before & {w.pid for w in (await client.status()).workers}:
                await asyncio.sleep(0.2)
        await wait_until_whole(client, 2)
        answer = await client.generate(prompt, stop=LONG)
    assert list(answer.token_ids) == Oracle(demo).greedy(prompt.token_ids, LONG.max_tokens)


ON_ONE_NODE = """
[engine]
num_threads = 1
cache_bytes = 33554432
max_running = 4
[decode]
tensor_parallel = 2
cores = "1"
"""


def test_ranks_come_and_go_with_their_worker(demo: Path, tmp_path: Path) -> None:
    """`segue scale` and `segue drain`, and the cores that its ranks keep to."""
    settings = tmp_path / "ranks.toml"
    settings.write_text(ON_ONE_NODE)
    with serving(tmp_path, "--config", str(settings)) as cluster:
        address = cluster.address()
        first = [cluster.pid(name) for name in ("decode-0", "decode-0-rank-1")]
        assert [os.sched_getaffinity(pid) for pid in first] == [{1}, {1}]

        segue("scale", "--decode", "2", "--target", address)
        wait_until(address, lambda status: is_whole(status) and len(status.workers) == 3)
        second = [cluster.pid(name) for name in ("decode-1", "decode-1-rank-1")]

        segue("scale", "--decode", "1", "--target", address)
        wait_until_ended(second)
        segue("drain", "decode-0", "--may-interrupt", "--target", address)
        wait_until_ended(first)
        asyncio.run(answers_again(address, demo, {*first}))
        assert cluster.num_lives("decode-0-rank-1") == 2
        last = [cluster.pid(name) for name in ("decode-0", "decode-0-rank-1")]

        assert cluster.end() == 0
        wait_until_ended(last)
        # Nothing was started in place of what had stopped.
        assert cluster.num_lives("decode-0-rank-1") == 2
        assert cluster.num_lives("decode-1-rank-1") == 1


def segue(*arguments: str) -> None:
    command = [str(Path(sys.executable).parent / "segue"), *arguments]
    deadline_at = time.monotonic() + PATIENCE_S
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        # The launcher speaks to its routers once a second.
        if "has no launcher" not in done.stderr or time.monotonic() > deadline_at:
            break
        time.sleep(0.2)
    assert done.returncode == 0, done.stdout + done.stderr
