"""The client runs with only the base dependencies; `segue serve` names the missing ones."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from segue.api.errors import InvalidConfig
from segue.cli.serve import MODULES, require_server_part
from tests.cli.fake_router import fake_router
from tests.forked import Imported
from tests.repo.dependencies import blocked_without_extras, required, with_dependencies

PROGRAMS = "tests.cli.without_extras"
VARIABLE = "SEGUE_TEST_BLOCKED"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a program of `without_extras`, forked from a process that has imported the client."""
    outputs = [tmp_path_factory.mktemp("output") / name for name in ("stdout", "stderr")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, ",".join(sorted(blocked_without_extras())))
        imported = Imported(PROGRAMS, "segue", "segue.cli.show", "rich.live", "typer")

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        with (
            open(os.devnull) as nothing,
            outputs[0].open("w") as stdout,
            outputs[1].open("w") as stderr,
        ):
            streams = (nothing.fileno(), stdout.fileno(), stderr.fileno())
            status = imported.start(f"{PROGRAMS}:{program}", arguments, streams=streams).wait(60)
        return subprocess.CompletedProcess(arguments, status, *(one.read_text() for one in outputs))

    with closing(imported):
        yield run


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
def test_the_client_commands_start(run: Run, arguments: list[str], shown: str) -> None:
    done = run("command_line", *arguments)

    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


def test_the_command_line_runs_a_turn(run: Run) -> None:
    with fake_router() as router:
        done = run("command_line", "chat", "--target", router.address, "Hello")

    assert (done.returncode, done.stderr) == (0, "")
    assert "answer 1" in done.stdout


def test_the_status_command_shows_the_cluster(run: Run) -> None:
    with fake_router() as router:
        done = run("command_line", "status", "--target", router.address)

    assert (done.returncode, done.stderr) == (0, "")
    assert "ready · demo" in done.stdout


def test_the_sdk_runs_a_turn(run: Run) -> None:
    with fake_router() as router:
        done = run("sdk", router.address)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "answer 2 demo\n"


def test_serve_names_the_packages_to_install_in_one_line(run: Run) -> None:
    done = run("command_line", "serve", "--print-config")

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
