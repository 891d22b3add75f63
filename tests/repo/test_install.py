"""The wheel in its own environment, without extras: a client that runs a turn."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cli.fake_router import fake_router
from tests.repo.dependencies import ROOT, required

pytestmark = pytest.mark.slow

_NOT_REACHED = ("No matching distribution found", "Failed to establish a new connection")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs without access to this repository and its environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def pip(python: str | Path, *arguments: str | Path, cwd: Path) -> None:
    """Skips the test if no index has the packages."""
    done = run(python, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)
    if any(words in done.stderr for words in _NOT_REACHED):
        pytest.skip(f"no package index has what is needed: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def programs(wheel: Path) -> Path:
    """The folder of programs in an environment with only the wheel."""
    environment = wheel.parent / "environment"
    assert run(sys.executable, "-m", "venv", environment, cwd=wheel.parent).returncode == 0
    pip(environment / "bin" / "python", "install", "--quiet", wheel, cwd=wheel.parent)
    return environment / "bin"


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    packages = ("segue", "router", "prefill_worker", "decode_worker", "kv_transfer")
    tracked = subprocess.run(
        ["git", "ls-files", *packages], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert set(tracked.stdout.splitlines()) <= set(zipfile.ZipFile(wheel).namelist())


def test_the_base_dependencies_are_installed_and_no_server(programs: Path, tmp_path: Path) -> None:
    listed = run(programs / "python", "-m", "pip", "list", "--format", "freeze", cwd=tmp_path)
    installed = {line.partition("==")[0].lower() for line in listed.stdout.splitlines()}

    assert installed >= required() | {"segue"}
    assert not installed & ((required("gateway") | required("server")) - {"segue"})


def test_it_runs_a_turn_and_cannot_serve(programs: Path, tmp_path: Path) -> None:
    with fake_router() as router:
        command = (programs / "segue", "chat", "--target", router.address, "Hello")
        answered = run(*command, cwd=tmp_path)
    refused = run(programs / "segue", "serve", cwd=tmp_path)

    assert (answered.returncode, answered.stderr) == (0, "")
    assert "answer 1" in answered.stdout
    assert refused.returncode == 1
    assert "needs the server" in refused.stderr
    assert "Traceback" not in refused.stderr
