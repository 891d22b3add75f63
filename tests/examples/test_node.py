"""A client in another language, written from the contract alone: `examples/node`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.fake_router import REFUSED, fake_router

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages, in a folder with the repository's layout."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "proto", folder / "proto")
    ignored = shutil.ignore_patterns("node_modules")
    shutil.copytree(ROOT / "examples" / "node", folder / "examples" / "node", ignore=ignored)
    installed = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"],
        cwd=folder / "examples" / "node",
        capture_output=True,
        text=True,
        timeout=300,
    )
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install the packages of the example: {installed.stderr[-300:]}")
    return folder / "examples" / "node" / "client.js"


def run(example: Path, target: str, question: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", str(example), target, question], capture_output=True, text=True, timeout=60
    )


def test_it_runs_a_turn(example: Path) -> None:
    with fake_router() as router:
        done = run(example, router.address, "Hello")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "answer 1\nFINISH_REASON_STOP, 2 tokens\n"
    assert router.asked == ["Hello"]


def test_it_reads_the_error_and_the_retry_hint_of_a_turn(example: Path) -> None:
    with fake_router() as router:
        done = run(example, router.address, REFUSED)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "OVERLOADED: no room for another turn (try again in 2.5 s)\n"
