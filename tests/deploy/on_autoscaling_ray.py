"""`python -m tests.deploy.on_autoscaling_ray FOLDER`: `segue serve` on a Ray cluster that starts
with a head alone. Prints one JSON object of the nodes that it had.

A process of its own, because a process can be in one Ray cluster only.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from segue.api.types import SamplingParams, StopConditions, TextInput
from segue.launch.ray.surroundings import require_listener
from segue.sdk.client import Client
from tests.cluster.serving import serving
from tests.deploy.autoscaling_ray import autoscaling_ray

PATIENCE_S = 240.0
HEAD = {"segue_launcher": 1.0}
KINDS = {
    role: {
        "resources": {"CPU": 0, "object_store_memory": 100_000_000, f"segue_{role}": 1},
        "min_workers": 0,
        "max_workers": 2,
    }
    for role in ("prefill", "decode")
}
SETTINGS = """
[cluster]
router_on = "resource:segue_launcher=0.01"
prefill_on = "resource:segue_prefill=1"
decode_on = "resource:segue_decode=1"
ray_autoscales = true
room_timeout_s = 240.0
http = false

[engine]
num_threads = 1
cache_bytes = 67108864
max_running = 4
"""


def roles_of_nodes() -> dict[str, int]:
    """How many live nodes there are for each role."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    names = (name for amounts in alive for name in amounts if name.startswith("segue_"))
    return dict(sorted(collections.Counter(names).items()))


def wait_for_nodes(**wanted: int) -> float:
    """How long it took, in seconds."""
    started_at = time.monotonic()
    named = {"segue_launcher": 1, **{f"segue_{role}": n for role, n in wanted.items() if n}}
    named = dict(sorted(named.items()))
    while (found := roles_of_nodes()) != named:
        if time.monotonic() - started_at > PATIENCE_S:
            raise AssertionError(f"{found} and not {named} after {PATIENCE_S:g} s")
        time.sleep(0.2)
    return time.monotonic() - started_at


def segue(*arguments: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "segue"), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    print(f"$ segue {' '.join(arguments)}\n{done.stdout}{done.stderr}", file=sys.stderr)  # noqa: T201
    assert done.returncode == 0, done.stderr
    return done.stdout


async def answer(target: str) -> str:
    stop = StopConditions(max_tokens=60, ignore_eos=True)
    async with Client(target) as client:
        sampling = SamplingParams(temperature=0.0)
        return (await client.generate(TextInput("1, 2, 3,"), sampling=sampling, stop=stop)).text


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    deadline_at = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(Exception):
            require_listener(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            break
        assert time.monotonic() < deadline_at, "Ray's head does not start"
        time.sleep(0.5)
    try:
        yield
    finally:
        ray.shutdown()


def watch(folder: Path, address: str) -> dict[str, Any]:
    seen: dict[str, Any] = {"before": roles_of_nodes()}
    settings = folder / "autoscaled.toml"
    settings.write_text(SETTINGS)
    options = ("--config", str(settings), "--ray-address", address)
    with serving(folder, *options) as cluster:
        seen["first_nodes_s"] = wait_for_nodes(prefill=1, decode=1)
        for stage in ("logs are in", "loading the model in prefill-0", "in decode-0", "to join"):
            cluster.wait_for(stage)
        target = cluster.address()
        try:
            seen["text"] = asyncio.run(answer(target))
            segue("scale", "--target", target, "--decode", "2")
            seen["grown"] = roles_of_nodes()
            seen["text_grown"] = asyncio.run(answer(target))
            segue("scale", "--target", target, "--decode", "1")
            seen["node_left_after_s"] = wait_for_nodes(prefill=1, decode=1)
            seen["text_shrunk"] = asyncio.run(answer(target))
        finally:
            print(cluster.text(), file=sys.stderr)  # noqa: T201
        assert cluster.end() == 0
    seen["all_left_after_s"] = wait_for_nodes()
    return seen


def main() -> None:
    folder = Path(sys.argv[1])
    with autoscaling_ray(folder, HEAD, KINDS) as address, joined(address):
        seen = watch(folder, address)
    print(json.dumps(seen))  # noqa: T201


if __name__ == "__main__":
    main()
