"""Every error Segue raises on purpose, as one tree.

    SegueError
    ├── InvalidRequest        the caller's input cannot be served as it is
    │   └── ContextOverflow   the prompt and the answer do not fit the model's context
    ├── InvalidCheckpoint     a model folder cannot be loaded as it is
    ├── InvalidConfig         a configuration file or option cannot be used
    ├── Unauthenticated       the caller has no API key that is known here
    ├── PermissionDenied      the caller's API key does not allow this call
    ├── NotFound              a session, turn, ticket or worker is unknown, or no longer known
    ├── NotResident           the prefix that a request needs is not in the worker's memory
    ├── UnknownPrefix         a worker lacks the tokens that a turn names: send all of them
    ├── UnknownHistory        the router lacks the history that a turn continues: send all of it
    ├── Overloaded            no room now; retry after `retry_after_s`
    ├── Unavailable           a process is down, starting or draining
    ├── StaleEpoch            a ticket or message names an earlier life of a worker
    ├── LayoutMismatch        two workers have different models or cache layouts
    ├── TransferFailed        bytes did not arrive, or arrived corrupted
    ├── DeadlineExceeded      the caller's deadline has passed
    ├── Cancelled             the caller no longer wants the answer
    └── TakenOver             another call has resumed the turn

`segue.wire.status` maps the tree to gRPC statuses. All classes take one message, so they pickle.
"""

from __future__ import annotations

from typing import Self


class SegueError(Exception):
    """Root of the tree. The message states what was expected, what came, and what to do."""

    retry_is_safe = False
    retry_after_s: float = 0.0
    """When to retry, for an error that passes by itself; 0 for one that does not."""


class InvalidRequest(SegueError, ValueError):
    """`at` returns an error about one field."""

    field = ""
    """The path of the field that cannot be served, such as `output.json_schema.properties.a`."""

    @classmethod
    def at(cls, field: str, message: str) -> Self:
        error = cls(f"{field}: {message}")
        error.field = field
        return error


class ContextOverflow(InvalidRequest):
    pass


class InvalidCheckpoint(SegueError, ValueError):
    pass


class InvalidConfig(SegueError, ValueError):
    pass


class Unauthenticated(SegueError):
    pass


class PermissionDenied(SegueError):
    pass


class NotFound(SegueError, LookupError):
    pass


class NotResident(SegueError):
    pass


class UnknownPrefix(SegueError):
    pass


class UnknownHistory(SegueError):
    pass


class Overloaded(SegueError):
    """No room now. `after` returns an error with its own retry time."""

    retry_is_safe = True
    retry_after_s = 1.0

    @classmethod
    def after(cls, message: str, *, retry_after_s: float) -> Overloaded:
        error = cls(message)
        # An instance attribute travels in __dict__, which pickle carries.
        error.retry_after_s = retry_after_s
        return error


class Unavailable(SegueError):
    retry_is_safe = True
    # A dead process is restarted within a few seconds; a retry costs little.
    retry_after_s = 1.0
    is_unreachable = False
    """Nothing answers at the peer's address, or the connection to it broke."""
    was_sent = True
    """The call may have been carried out. False: there was no connection."""
    lost_worker = ""
    """The worker that is unreachable, if the router has seen it itself."""

    @classmethod
    def unreachable(cls, message: str, *, was_sent: bool = True) -> Unavailable:
        error = cls(message)
        error.is_unreachable, error.was_sent = True, was_sent
        return error


class Draining(Unavailable):
    """A router stops, and takes no more turns: another one serves them, or its successor."""


class StaleEpoch(SegueError):
    retry_is_safe = True


class LayoutMismatch(SegueError):
    pass


class TransferFailed(SegueError):
    retry_is_safe = True


class DeadlineExceeded(SegueError):
    pass


class Cancelled(SegueError):
    pass


class TakenOver(SegueError):
    pass


class IllegalTransition(AssertionError):
    """An event that cannot happen in this state: a bug in Segue."""
