"""The client runs with only the base dependencies; `segue serve` names the missing ones."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from segue.api.errors import InvalidConfig
from segue.cli.serve import MODULES, require_server_part
from tests.cli.fake_router import fake_router
from tests.repo.dependencies import ROOT, blocked_without_extras, required, with_dependencies

# A module that is blocked cannot be found, as if it were not installed.
WITHOUT = """
import importlib.machinery, sys

blocked = set(sys.argv.pop(1).split(","))

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else super().find_spec(name, path, target)

sys.meta_path = [one for one in sys.meta_path if one is not importlib.machinery.PathFinder]
sys.meta_path.append(Finder)
"""
COMMAND_LINE = "from segue.cli.main import main; main()"
SDK = """
import asyncio, sys
from segue import Client

async def talk():
    async with Client(sys.argv[1]) as client:
        session = client.session(system="Be brief.")
        async for event in session.turn("Hello"):
            pass
        print(session.messages[-1].content, (await client.status()).model)

asyncio.run(talk())
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code as if no extras were installed."""
    blocked = ",".join(sorted(blocked_without_extras()))
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + program, blocked, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_server_is_blocked_in_these_tests() -> None:
    assert blocked_without_extras() >= {*MODULES, "transformers", "triton", "pytest"}


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--version"], f"segue {importlib.metadata.version('segue')}"),
        (["chat", "--help"], "--target"),
        (["generate", "--help"], "--input-ids"),
    ],
)
def test_the_client_commands_start(arguments: list[str], shown: str) -> None:
    done = run(COMMAND_LINE, *arguments)

    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


def test_the_command_line_runs_a_turn() -> None:
    with fake_router() as router:
        done = run(COMMAND_LINE, "chat", "--target", router.address, "Hello")

    assert (done.returncode, done.stderr) == (0, "")
    assert "answer 1" in done.stdout


def test_the_status_command_shows_the_cluster() -> None:
    with fake_router() as router:
        done = run(COMMAND_LINE, "status", "--target", router.address)

    assert (done.returncode, done.stderr) == (0, "")
    assert "ready · demo" in done.stdout


def test_the_sdk_runs_a_turn() -> None:
    with fake_router() as router:
        done = run(SDK, router.address)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "answer 2 demo\n"


def test_serve_names_the_packages_to_install_in_one_line() -> None:
    done = run(COMMAND_LINE, "serve", "--print-config")

    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "error InvalidConfig: `segue serve` needs the server" in done.stderr
    assert "pip install 'segue[cpu]'" in done.stderr


def test_only_missing_packages_are_named() -> None:
    with pytest.raises(InvalidConfig, match=r"\(missing: ray, mooncake\)"):
        require_server_part(
            "segue serve", is_installed=lambda module: module not in ("ray", "mooncake")
        )


def test_the_servers_modules_are_those_of_the_extra_for_cpus() -> None:
    owners = importlib.metadata.packages_distributions()
    extra = (required("gateway") | required("server") | required("cpu")) - {"segue"}

    assert {owner for module in MODULES for owner in owners[module]} == {
        importlib.metadata.metadata(name)["Name"] for name in extra
    }
    assert extra.isdisjoint(with_dependencies(required()))
