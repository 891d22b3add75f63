"""Ray's view of the processes: thin shells around what `python -m …` builds."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import ray.util

from segue.launch.config import Config
from segue.launch.shell import Shell
from segue.telemetry import setup_logging
from segue.types import Role
from segue.worker_process import WorkerOptions

NODE_ADDRESS = "node"
"""As a worker's host: the address of whichever Ray node it was placed on."""


class RouterActor:
    def __init__(self, config: Config, model: str) -> None:
        from router.__main__ import running

        setup_logging("router")
        self._shell = Shell(
            "router",
            lambda: running(
                config.router,
                model,
                model_name=config.cluster.model,
                checkpoint=config.checkpoint,
            ),
        )

    def address(self) -> str:
        address: str = self._shell.wait_started().address
        return address

    def pid(self) -> int:
        return os.getpid()

    def stop(self) -> None:
        self._shell.stop()


class WorkerActor:
    """One prefill or decode worker. Ray starts it again when its process dies."""

    def __init__(self, role: Role, options: WorkerOptions, config: Config) -> None:
        setup_logging(options.worker_id)
        if options.host == NODE_ADDRESS:
            options = replace(options, host=ray.util.get_node_ip_address())
        self._shell = Shell(options.worker_id, lambda: _worker(role, options, config))

    def address(self) -> str:
        address: str = self._shell.wait_started().address
        return address

    def pid(self) -> int:
        return os.getpid()


def _worker(role: Role, options: WorkerOptions, config: Config) -> Any:
    # Each process imports its own role only.
    if role is Role.PREFILL:
        from prefill_worker.__main__ import running as running_prefill

        return running_prefill(
            options, engine=config.engine, prefill=config.prefill, transfer=config.transfer
        )
    from decode_worker.__main__ import running as running_decode

    return running_decode(
        options,
        engine=config.engine,
        decode=config.decode,
        transfer=config.transfer,
        checkpoint=config.checkpoint,
    )
