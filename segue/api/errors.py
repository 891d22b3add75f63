"""Every error that Segue raises on purpose, as one tree.

    SegueError
    ├── InvalidRequest
    │   └── ContextOverflow
    ├── InvalidCheckpoint, InvalidConfig
    ├── Unauthenticated, PermissionDenied
    ├── NotFound, NotResident, UnknownPrefix, UnknownHistory
    ├── Overloaded
    ├── Unavailable
    │   └── Draining
    ├── StaleEpoch, LayoutMismatch, TransferFailed
    └── DeadlineExceeded, Cancelled, TakenOver

`segue.wire.error_details` maps the tree to gRPC statuses. All classes take one message, so they
pickle.
"""

from __future__ import annotations

from typing import Self


class SegueError(Exception):
    """The message states what was expected, what came, and what to do."""

    retry_is_safe = False
    retry_after_s: float = 0.0
    """Delay before a retry of an error that passes by itself; 0 for other errors."""

    @classmethod
    def after(cls, message: str, *, retry_after_s: float) -> Self:
        error = cls(message)
        # An instance attribute travels in __dict__, which pickle carries.
        error.retry_after_s = retry_after_s
        return error


class InvalidRequest(SegueError, ValueError):
    """The caller's input cannot be served as it is. `at` returns an error about one field."""

    field = ""
    """The path of the field that cannot be served, such as `output.json_schema.properties.a`."""

    @classmethod
    def at(cls, field: str, message: str) -> Self:
        error = cls(f"{field}: {message}")
        error.field = field
        return error


class ContextOverflow(InvalidRequest):
    """The prompt is too long, in tokens or in bytes.

    Agents compact their conversation when a message says "prompt is too long", and by how much if
    numbers follow as in "9000 tokens > 8191 maximum".
    """


class InvalidCheckpoint(SegueError, ValueError):
    """A model folder cannot be loaded as it is."""


class InvalidConfig(SegueError, ValueError):
    """A configuration file or option cannot be used."""


class Unauthenticated(SegueError):
    """The caller has no API key that is known here."""


class PermissionDenied(SegueError):
    """The caller's API key does not allow this call."""


class NotFound(SegueError, LookupError):
    """A session, turn, ticket or worker is unknown, or no longer known."""


class NotResident(SegueError):
    """The prefix that a request needs is not in the worker's memory."""


class UnknownPrefix(SegueError):
    """A worker lacks the tokens that a turn names: send all of them."""


class UnknownHistory(SegueError):
    """The router lacks the history that a turn continues: send all of it."""


class Overloaded(SegueError):
    """No room now; retry after `retry_after_s`, which `after` sets."""

    retry_is_safe = True
    retry_after_s = 1.0


class Unavailable(SegueError):
    """A process is down, starting or draining."""

    retry_is_safe = True
    # Another process may serve the retry, and it costs little.
    retry_after_s = 1.0
    is_unreachable = False
    """Nothing answers at the peer's address, or the connection to it broke."""
    was_sent = True
    """The call may have been carried out. False if there was no connection."""
    lost_worker = ""
    """The unreachable worker, if the router itself has noticed it."""

    @classmethod
    def unreachable(cls, message: str, *, was_sent: bool = True) -> Unavailable:
        error = cls(message)
        error.is_unreachable, error.was_sent = True, was_sent
        return error


class Draining(Unavailable):
    """A router stops and takes no more turns: another router, or its successor, serves them."""


class StaleEpoch(SegueError):
    """A ticket or message names an earlier life of a worker."""

    retry_is_safe = True


class LayoutMismatch(SegueError):
    """Two workers have different models or cache layouts."""


class TransferFailed(SegueError):
    """Bytes did not arrive, or arrived corrupted."""

    retry_is_safe = True


class DeadlineExceeded(SegueError):
    """The caller's deadline has passed."""


class Cancelled(SegueError):
    """The caller no longer wants the answer."""


class TakenOver(SegueError):
    """Another call has resumed the turn."""


class IllegalTransition(AssertionError):
    """An event that is impossible in this state: a bug in Segue."""
