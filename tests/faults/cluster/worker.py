"""A prefill or decode worker that a test can hold at a point, or whose writes and passes it can
break.

The worker is the real one. Only its transport is wrapped, and its forward pass may be made to wait
or to deadlock. The test controls it through files in a folder of the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kv_transfer.config import TransferConfig
from kv_transfer.transport.mooncake import open_mooncake
from kv_transfer.transport.transport import Transport
from kv_transfer.writing.plan import Fragment
from segue.api.errors import TransferFailed
from segue.api.types import Role
from segue.engine.config import EngineConfig
from segue.engine.runner import ModelRunner
from segue.worker.process.command import run_worker

PASS, WRITE = "pass", "write"
"""Points: before a forward pass, and before a batch of a handoff is written."""
FAIL, CORRUPT = "fail", "corrupt"
STUCK = "stuck"

_LOOK_EVERY_S = 0.005
_BUFFER_BYTES = 4096
_MUTEX_BYTES = 128
"""More than any platform's `pthread_mutex_t`. One of zeros is unlocked."""


class Hold:
    """The test's end of a worker's folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def arm(self, point: str, *, num_skipped: int = 0) -> None:
        """The worker will wait at the point the next time that it gets there, or later."""
        (self._folder / f"held-{point}").unlink(missing_ok=True)
        (self._folder / f"hold-{point}").write_text(str(num_skipped))

    def held(self, point: str) -> str | None:
        """The text that the worker wrote when it arrived; None before."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / f"held-{point}").read_text()
        return None

    def break_next(self, how: str) -> None:
        """The next write (FAIL, CORRUPT) or pass (STUCK)."""
        (self._folder / how).touch()

    def has_broken(self) -> bool:
        """Whether everything that was to be broken has been."""
        return not any((self._folder / how).exists() for how in (FAIL, CORRUPT, STUCK))

    def release(self) -> None:
        """Lets the worker continue. Faults that have not struck remain."""
        for point in (PASS, WRITE):
            (self._folder / f"hold-{point}").unlink(missing_ok=True)

    def clear(self) -> None:
        for file in self._folder.iterdir():
            file.unlink(missing_ok=True)


class Held:
    """The worker's end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def wait_at(self, point: str, words: str = "") -> None:
        """Blocks for as long as the test holds this point."""
        hold = self._folder / f"hold-{point}"
        try:
            num_skipped = int(hold.read_text() or 0)
            if num_skipped:
                hold.write_text(str(num_skipped - 1))
                return
        except FileNotFoundError:
            return
        (self._folder / f"held-{point}").write_text(words)
        while hold.exists():
            time.sleep(_LOOK_EVERY_S)

    def take(self, how: str) -> bool:
        """Whether this write or pass is to be broken in this way."""
        try:
            (self._folder / how).unlink()
        except FileNotFoundError:
            return False
        return True


class BreakableTransport:
    """Satisfies `Transport`."""

    def __init__(self, transport: Transport, held: Held) -> None:
        self._transport = transport
        self._held = held
        self._buffer = (ctypes.c_ubyte * _BUFFER_BYTES)()
        transport.register(ctypes.addressof(self._buffer), _BUFFER_BYTES)

    @property
    def segment(self) -> str:
        return self._transport.segment

    def register(self, address: int, num_bytes: int) -> None:
        self._transport.register(address, num_bytes)

    def write(self, target_segment: str, fragments: Sequence[Fragment]) -> None:
        self._held.wait_at(WRITE, target_segment)
        if self._held.take(FAIL):
            if half := fragments[: len(fragments) // 2]:
                self._transport.write(target_segment, half)
            raise TransferFailed(f"a write to {target_segment} failed on command")
        self._transport.write(target_segment, fragments)
        if self._held.take(CORRUPT):
            self._transport.write(target_segment, [self._changed(fragments[0])])

    def _changed(self, fragment: Fragment) -> Fragment:
        """The start of a fragment with its first byte changed."""
        num_bytes = min(fragment.num_bytes, _BUFFER_BYTES)
        address = ctypes.addressof(self._buffer)
        ctypes.memmove(address, fragment.source_address, num_bytes)
        self._buffer[0] ^= 0xFF
        return Fragment(address, fragment.target_address, num_bytes)

    def disconnect(self, target_segment: str) -> None:
        self._transport.disconnect(target_segment)

    def close(self) -> None:
        self._transport.close()


def main(role: Role, arguments: Sequence[str], folder: Path) -> None:
    """Runs until SIGTERM, as `python -m prefill_worker` and `python -m decode_worker` do."""
    held = Held(folder)

    def open_transport(config: TransferConfig, *, host: str, device: str) -> Transport:
        return BreakableTransport(open_mooncake(config, host=host, device=device), held)

    _hold_passes(held)
    running, settings = _parts(role)
    run_worker(
        role,
        partial(running, open_transport=open_transport),
        arguments,
        engine=EngineConfig,
        transfer=TransferConfig,
        **{role.value: settings},
    )


def _hold_passes(held: Held) -> None:
    forward = ModelRunner.forward

    def waiting(self: ModelRunner, *arguments: Any, **options: Any) -> Any:
        held.wait_at(PASS)
        if held.take(STUCK):
            _deadlock()
        return forward(self, *arguments, **options)

    ModelRunner.forward = waiting  # type: ignore[method-assign]  # in this process only


def _deadlock() -> None:
    """Never returns, and does not hold the interpreter's lock: other threads go on."""
    lock = ctypes.CDLL(None).pthread_mutex_lock
    mutex = ctypes.create_string_buffer(_MUTEX_BYTES)
    lock(mutex)
    lock(mutex)


def _parts(role: Role) -> tuple[Callable[..., Any], type]:
    """A role's worker, and the section of its settings. A process imports only its own role."""
    if role is Role.PREFILL:
        from prefill_worker.__main__ import running as running_prefill
        from prefill_worker.config import PrefillConfig

        return running_prefill, PrefillConfig
    from decode_worker.__main__ import running as running_decode
    from decode_worker.config import DecodeConfig

    return running_decode, DecodeConfig
