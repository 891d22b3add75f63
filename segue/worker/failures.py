"""Which errors of an engine end a turn, and which end the process.

An error in what is one sequence's own ends that sequence. An error in a pass ends the sequences of
that pass: what they have in the cache may be half written. When the next pass fails as well, it is
the engine that is broken, and not a sequence: then the process must not go on.
"""

from __future__ import annotations

import logging

from segue.api.errors import SegueError, Unavailable

logger = logging.getLogger(__name__)


class Failures:
    """The engine thread owns it."""

    def __init__(self) -> None:
        self._has_failed = False

    def passed(self) -> None:
        """A pass went well."""
        self._has_failed = False

    def of_pass(self, error: Exception) -> SegueError:
        """What the sequences of the pass hear; they may be run again elsewhere. Raises `error`
        when the pass before failed too.
        """
        if self._has_failed:
            raise error
        self._has_failed = True
        logger.error("a pass failed; its turns end", exc_info=error)
        return Unavailable(f"a pass over this turn and others failed: {_described(error)}")

    def of_sequence(self, error: Exception) -> SegueError:
        """What the sequence hears whose own affair it was."""
        logger.error("a sequence failed; its turn ends", exc_info=error)
        return SegueError(f"the turn could not be computed: {_described(error)}")


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
