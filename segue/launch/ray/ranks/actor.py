"""The Ray actor of a rank that follows the leader of its worker."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading

from segue.api.errors import SegueError
from segue.launch.ray.actors import node_address, start_log
from segue.model.checkpoint.source import resolve_model
from segue.parallel.following import Leader
from segue.parallel.network import dial
from segue.wire.addresses import Hosts
from segue.worker.process.options import WorkerOptions
from segue.worker.process.serving import leave_process
from segue.worker.ranks.credentials import credentials_of

logger = logging.getLogger(__name__)

_FOLLOWER = "kv_transfer.ranks.follower"


class RankActor:
    """A process follows one leader and ends with it. Ray then starts another process for the next
    leader."""

    def __init__(self, name: str, options: WorkerOptions) -> None:
        """`options`: the worker's."""
        start_log(name)
        self._options = options
        self._is_asked = threading.Lock()
        self._preparing = threading.Thread(target=self._prepare, name="prepare", daemon=True)
        self._preparing.start()

    def follow(self, host: str, port: int, index: int) -> None:
        """Follows the leader at this address as rank `index`. Does not return: the process ends."""
        if not self._is_asked.acquire(blocking=False):
            logger.warning(
                "called by another leader: the earlier one has ended, and so does this rank"
            )
            os._exit(1)
        try:
            self._follow(host, port, index)
        except BaseException as error:
            leave_process(error)
        os._exit(0)

    def _prepare(self) -> None:
        """Imports and downloads, which takes seconds to minutes, while the leader does the same and
        does not wait yet."""
        importlib.import_module(_FOLLOWER)
        # An error is raised again when it follows.
        with contextlib.suppress(SegueError):
            resolve_model(self._options.model, with_weights=True)

    def _follow(self, host: str, port: int, index: int) -> None:
        from kv_transfer.ranks.follower import follow

        self._preparing.join()
        options = self._options
        hosts = Hosts.of(options.host, options.announce, node_address)
        channel = dial(host, port, index, credentials_of(options.security))
        follow(Leader(channel), hosts.announce)
        # The leader has stopped, but its process has not ended yet. An earlier exit here would only
        # make Ray start another process.
        with contextlib.suppress(EOFError, OSError):
            channel.recv()
