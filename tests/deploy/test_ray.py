"""Segue on a Ray cluster that others started: deploy/ray."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segue.config import read_file
from segue.launch.config import Config
from segue.launch.ray.demand import NodeRoom, demands_of, shortage

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "ray"


def started() -> list[list[str]]:
    """The words of each `ray start` in the description."""
    lines = re.findall(r"^ray start .*$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def test_the_described_nodes_have_room_for_the_described_cluster() -> None:
    config = Config.from_sections(read_file(FOLDER / "segue.toml"))
    resources = [json.loads(words[words.index("--resources") + 1]) for words in started()]
    head, prefill, decode = (NodeRoom.of(amounts, {}) for amounts in resources)
    nodes = [head, prefill, *(NodeRoom.of(resources[2], {}) for _ in range(config.cluster.decode))]
    free = {"segue_launcher": 1.0, "segue_prefill": 1.0, "segue_decode": 2.0}

    assert shortage(demands_of(config), nodes, free) == ""
    assert shortage(demands_of(config), [head, prefill, decode], free) != ""


@pytest.fixture
def own_ray(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a Ray cluster with a token, on loopback."""
    token = tmp_path / "token"
    token.write_text("a-token-of-this-test-alone-0123456789")
    # Paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as short:
        yield {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TMPDIR": short,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }


def seen_by(module: str, environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """What a process that is in a Ray cluster of its own prints at its end."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    print(done.stderr)  # noqa: T201  # transcripts, with -s
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


@pytest.mark.slow
def test_nodes_are_used_killed_and_added_under_turns(own_ray: dict[str, str]) -> None:
    seen = seen_by("tests.deploy.on_ray", own_ray)

    assert len({*seen["nodes"].values(), seen["router"]}) == 4
    assert (seen["resumed"], seen["tokens"]) == (1, 1_000)
    assert seen["text_without_it"] == seen["text_after"] == seen["text"] != ""


@pytest.mark.slow
def test_rays_autoscaler_adds_and_removes_nodes_for_the_wanted_workers(
    own_ray: dict[str, str], tmp_path: Path
) -> None:
    seen = seen_by("tests.deploy.on_autoscaling_ray", own_ray, str(tmp_path))

    assert seen["before"] == {"segue_launcher": 1}
    assert seen["grown"] == {"segue_launcher": 1, "segue_prefill": 1, "segue_decode": 2}
    assert seen["text_grown"] == seen["text_shrunk"] == seen["text"] != ""
    # A node leaves once it has been idle, not at once; it would stay if it were still asked for.
    assert seen["node_left_after_s"] > 1.0
