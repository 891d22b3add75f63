"""The checks of this machine before Ray starts on it."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.api.errors import InvalidConfig, Unavailable
from segue.launch.ray.surroundings import (
    raise_open_files,
    ray_address,
    ray_temp_dir,
    require_listener,
    require_temp_dir,
)


def test_rays_own_variable_counts_if_the_setting_is_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")

    assert ray_address("") == "head:6379"
    assert ray_address("other:6379") == "other:6379"
    assert ray_address("local") == ""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert ray_address("") == ""
    monkeypatch.delenv("RAY_ADDRESS")
    assert ray_address("") == ""


def test_the_folder_of_rays_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/fast")
    assert ray_temp_dir() == Path("/fast/ray")

    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    assert ray_temp_dir() == Path("/var/tmp/ray")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path that is short enough for sockets."""
    folder = Path(f"/tmp/segue-{os.getpid()}")
    folder.mkdir()
    yield folder
    for path in (*folder.iterdir(), folder):
        path.rmdir()


def test_a_missing_temporary_folder_is_created(short: Path) -> None:
    require_temp_dir(short / "ray")

    assert (short / "ray").is_dir()


def test_a_temporary_folder_that_is_not_writable_is_named() -> None:
    # No user can create a folder there, including root.
    with pytest.raises(
        InvalidConfig, match=r"temporary folder /proc/ray cannot be written.*RAY_TM"
    ):
        require_temp_dir(Path("/proc/ray"))


def test_a_temporary_folder_is_not_made_where_its_parent_is_missing() -> None:
    with pytest.raises(InvalidConfig, match=r"cannot be written \(No such file or directory\)"):
        require_temp_dir(Path("/nonexistent/ray"))
    assert not Path("/nonexistent").exists()


def test_a_temporary_folder_whose_socket_paths_would_be_too_long_is_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"is too long for its sockets \(at most \d+ bytes"):
        require_temp_dir(Path("/tmp", "x" * 60, "ray"))


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_too_few_open_files_are_refused_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (64, 64))

    with pytest.raises(
        InvalidConfig, match=r"may open 64 files here, but 3 processes need at least 30"
    ):
        raise_open_files(3)


def test_the_limit_of_open_files_is_raised_as_far_as_allowed(limits: tuple[int, int]) -> None:
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))

    raise_open_files(3)

    soft, still = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))
    assert still == hard


def test_an_address_where_something_listens_is_accepted() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        require_listener(f"127.0.0.1:{listener.getsockname()[1]}")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "ray://127.0.0.1:1"])
def test_an_address_where_nothing_listens_is_named(address: str) -> None:
    with pytest.raises(Unavailable, match=f"nothing answers at {address}"):
        require_listener(address)


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port", "127.0.0.1:99999999"])
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises((InvalidConfig, Unavailable), match=address):
        require_listener(address)
