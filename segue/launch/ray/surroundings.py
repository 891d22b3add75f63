"""Checks and prepares this machine for Ray, without importing it.

Ray itself would report these errors late, in the middle of a traceback, or not at all.
"""

from __future__ import annotations

import os
import resource
import secrets
import socket
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from segue.api.errors import InvalidConfig, Unavailable

_REACH_TIMEOUT_S = 5.0
# Per process. Ray's own processes and an idle worker have about 70 open files; connections add to
# that.
_MIN_OPEN_FILES = 256
_OPEN_FILES_PER_WORKER = 16
_WANTED_OPEN_FILES = 65_536
# In it Ray creates ray/session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store, and a
# socket's path has at most 107 bytes.
_MAX_TEMP_DIR_BYTES = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


def ray_address(setting: str) -> str:
    """The Ray cluster to join; empty to start Ray here. If the setting is empty, Ray's own variable
    counts.
    """
    address = setting or os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def require_surroundings(address: str, num_processes: int) -> None:
    """Checks for a Ray that is joined at `address`, or started here. Raises InvalidConfig,
    Unavailable.
    """
    if address:
        require_listener(address)
    else:
        raise_open_files(num_processes)
        require_temp_dir(ray_temp_dir())


def ray_temp_dir() -> Path:
    """The folder for Ray's sockets and logs, from the variables that Ray reads itself."""
    root = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return Path(root) / "ray"


def require_listener(address: str) -> None:
    """Raises Unavailable if nothing listens there, InvalidConfig if it is not an address."""
    if address == "auto":
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidConfig(
            f"a Ray cluster's address is host:port, got {address!r} "
            "(--ray-address, [cluster] ray_address or RAY_ADDRESS)"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_TIMEOUT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise Unavailable(
            f"nothing answers at {address}, where Ray should be ({error}); check --ray-address, "
            "[cluster] ray_address or RAY_ADDRESS, or start Ray there"
        ) from None


def require_temp_dir(folder: Path) -> None:
    """Raises InvalidConfig if Ray could not keep its sockets and logs there."""
    hint = "set RAY_TMPDIR to a folder that is writable and has a short path"
    if len(os.fsencode(folder)) > _MAX_TEMP_DIR_BYTES:
        raise InvalidConfig(
            f"the path of Ray's temporary folder {folder} is too long for its sockets "
            f"(at most {_MAX_TEMP_DIR_BYTES} bytes); {hint}"
        )
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidConfig(
            f"Ray's temporary folder {folder} cannot be written ({error.strerror}); {hint}"
        ) from None


def raise_open_files(num_processes: int) -> None:
    """Raises the limit of open files as far as this user may. Raises InvalidConfig if that is too
    few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else hard
    wanted = max(soft, min(allowed, _WANTED_OPEN_FILES))
    needed = _MIN_OPEN_FILES + _OPEN_FILES_PER_WORKER * num_processes
    if soft != resource.RLIM_INFINITY and wanted < needed:
        raise InvalidConfig(
            f"a process may open {wanted} files here, but {num_processes} processes need at least "
            f"{needed}: raise the limit (`ulimit -n 4096`), then start again"
        )
    if soft not in (resource.RLIM_INFINITY, wanted):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def keep_token_private(environment: MutableMapping[str, str], home: Path) -> None:
    """Creates the token that a Ray started here asks of its callers, in a file that only its owner
    may read: Ray itself would create one that every user of the machine may read.

    Does nothing if the environment names another token or turns tokens off. If the folder cannot be
    written, sets the token in the environment, which Ray's processes inherit.
    """
    if environment.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = home / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+") as file:
            os.fchmod(descriptor, 0o600)
            if not file.read().strip():
                file.write(secrets.token_hex(32))
    except OSError:
        if not _readable(path):
            environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_text().strip())
    except OSError:
        return False
