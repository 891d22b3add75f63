"""A follower's side of its connection to the leader."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from segue.parallel.followers import TELL, Channel

logger = logging.getLogger(__name__)

Handler = Callable[..., Any]
"""Called on the receiving thread. May return a future of its answer."""


class Leader:
    """The connection to the leader. Any thread may answer."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._sending = threading.Lock()

    def setup(self) -> Any:
        """The first object that the leader sends."""
        return self._channel.recv()

    def serve(self, handlers: Mapping[str, Handler]) -> None:
        """Handles messages until the leader closes the connection or is gone. If a message without
        an answer fails, the process exits: the ranks would no longer compute the same."""
        try:
            while (message := self._channel.recv()) is not None:
                number, name, arguments = message
                try:
                    result = handlers[name](*arguments)
                except Exception as error:
                    self._failed(number, name, error)
                    continue
                if isinstance(result, Future):
                    result.add_done_callback(partial(self._done, number, name))
                else:
                    self._answer(number, False, result)
        except (EOFError, OSError):
            logger.warning("exiting: the leader is gone")

    def _done(self, number: int, name: str, future: Future[Any]) -> None:
        if (error := future.exception()) is not None:
            self._failed(number, name, error)
        else:
            self._answer(number, False, future.result())

    def _failed(self, number: int, name: str, error: BaseException) -> None:
        if number == TELL:
            logger.critical("exiting: a rank cannot follow", extra={"call": name}, exc_info=error)
            os._exit(1)
        self._answer(number, True, error)

    def _answer(self, number: int, is_error: bool, value: object) -> None:
        if number != TELL:
            with self._sending:
                self._channel.send((number, is_error, value))
