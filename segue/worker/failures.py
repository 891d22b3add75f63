"""Which errors of an engine end a turn, and which end the process.

An error that concerns one sequence ends that sequence. An error in a pass ends all sequences of
that pass: their part of the cache may be half written. If the next pass fails as well, the engine
is broken and not a sequence: then the process must not continue.
"""

from __future__ import annotations

import logging

from segue.api.errors import SegueError, Unavailable
from segue.parallel.rank import RanksLost

logger = logging.getLogger(__name__)


class Failures:
    """The engine thread owns it."""

    def __init__(self) -> None:
        self._has_failed = False

    def passed(self) -> None:
        """A pass succeeded."""
        self._has_failed = False

    def of_pass(self, error: Exception) -> SegueError:
        """The error for the sequences of the pass, which may be retried elsewhere. Raises `error`
        if the previous pass failed too, or if the other ranks are lost.
        """
        if self._has_failed or isinstance(error, RanksLost):
            raise error
        self._has_failed = True
        logger.error("a pass failed; its turns end", exc_info=error)
        return Unavailable(f"a pass over this turn and others failed: {_described(error)}")

    def of_sequence(self, error: Exception) -> SegueError:
        """The error for a sequence that failed by itself."""
        logger.error("a sequence failed; its turn ends", exc_info=error)
        return SegueError(f"the turn could not be computed: {_described(error)}")


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
