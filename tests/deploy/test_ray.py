"""Segue on a Ray cluster that others started: deploy/ray."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.slow
def test_nodes_are_used_killed_and_added_under_turns(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-this-test-alone-0123456789")
    short = Path("/tmp") / f"r{os.getpid()}"
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(short),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    short.mkdir()

    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.on_ray"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )

    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len({*seen["nodes"].values(), seen["router"]}) == 4
    assert (seen["resumed"], seen["tokens"]) == (1, 120)
    assert seen["text_without_it"] == seen["text_after"] == seen["text"] != ""
