"""Errors as HTTP statuses and as each API's own error object."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

from pydantic import ValidationError

from segue.api import errors
from segue.api.checks import how_much, what_came

logger = logging.getLogger(__name__)

Json: TypeAlias = dict[str, Any]

HUNG_UP = 499
"""The client disconnected before the answer: nginx's number, since HTTP has none."""


class UnknownModel(errors.NotFound):
    pass


class UnknownResponse(errors.NotFound):
    pass


class UnknownPreviousResponse(errors.InvalidRequest):
    pass


class BodyTooLarge(errors.InvalidRequest):
    pass


class BodyEncoded(errors.InvalidRequest):
    pass


# Values' own checks start with the field's path.
_NAMED = re.compile(r"([a-z_]+(?:\[\d+\]|\.[a-z_]+)*) must ")
# pydantic's commonest errors, in the words of our own.
_EXPECTED = {
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "bool_type": "true or false",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "literal_error": "{expected}",
}
# The same for values that have the right type.
_EXPECTED_RANGE = {
    "too_short": "a list with {min_length} or more items",
    "too_long": "a list with at most {max_length} items",
    "string_too_short": "a text with {min_length} or more characters",
    "string_too_long": "a text with at most {max_length} characters",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}
_KINDS: tuple[tuple[type[errors.SegueError], int, str | None], ...] = (
    (BodyTooLarge, 413, None),
    (BodyEncoded, 415, None),
    (errors.ContextOverflow, 400, "context_length_exceeded"),
    (UnknownPreviousResponse, 400, "previous_response_not_found"),
    (errors.InvalidRequest, 400, None),
    (errors.Unauthenticated, 401, "invalid_api_key"),
    (errors.PermissionDenied, 403, None),
    (UnknownModel, 404, "model_not_found"),
    (errors.NotFound, 404, None),
    (errors.TakenOver, 409, None),
    (errors.Overloaded, 429, "rate_limit_exceeded"),
    (errors.Unavailable, 503, None),
    (errors.TransferFailed, 503, None),
    (errors.StaleEpoch, 503, None),
    (errors.DeadlineExceeded, 504, None),
    (errors.Cancelled, HUNG_UP, None),
    (errors.SegueError, 500, None),
)
"""The status and OpenAI's code of each error: those of the first kind that it is an instance of."""
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_OPENAI_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as its client sees it."""

    status: int
    message: str
    code: str | None = None
    """OpenAI's error code; some clients act on it."""
    param: str | None = None
    retry_after_s: float = 0.0

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """An error that is not Segue's is a bug: it is logged, and its text is not sent."""
        if not isinstance(error, errors.SegueError):
            logger.error("unexpected error", exc_info=error)
            return cls(status=500, message="unexpected error: see the gateway's log")
        status, code = next(
            (status, code) for kind, status, code in _KINDS if isinstance(error, kind)
        )
        return cls(
            status=status,
            message=str(error),
            code=code,
            param=_param(error),
            retry_after_s=error.retry_after_s,
        )

    @property
    def headers(self) -> dict[str, str]:
        if self.status == HTTPStatus.UNAUTHORIZED:
            return {"WWW-Authenticate": "Bearer"}
        # HTTP has only whole seconds.
        after = math.ceil(self.retry_after_s)
        return {"Retry-After": str(after)} if after and self.status in (429, 503) else {}

    def openai(self) -> Json:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": self.message,
                "type": _OPENAI_TYPES.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    def anthropic(self, request_id: str) -> Json:
        kind = "invalid_request_error" if self.status < 500 else "api_error"
        return {
            "type": "error",
            "error": {"type": _ANTHROPIC_TYPES.get(self.status, kind), "message": self.message},
            "request_id": request_id,
        }


def _param(error: errors.SegueError) -> str | None:
    """The path of the field that cannot be served."""
    if not isinstance(error, errors.InvalidRequest):
        return None
    named = _NAMED.match(str(error))
    return error.field or (named[1] if named else None)


def failure_of_status(status: int, method: str, path: str, allowed: Sequence[str]) -> Failure:
    """For requests that match no route. `allowed`: the methods of the path."""
    if status == HTTPStatus.NOT_FOUND:
        message = f"no route {path!r:.200}: see /docs for those that are served"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"expected {' or '.join(allowed)} for {path!r:.200}, got {method:.20}: see /docs"
    else:
        message = HTTPStatus(status).phrase
    return Failure(status=status, message=message)


def bad_field(error: ValidationError) -> errors.InvalidRequest:
    """The first mistake in a body, in a sentence."""
    first = error.errors(include_url=False)[0]
    message = str(first["msg"])
    if first["type"] == "json_invalid":
        return errors.InvalidRequest(
            f"the body must be a JSON object in UTF-8: {message[0].lower() + message[1:]}"
        )
    if isinstance(cause := first.get("ctx", {}).get("error"), errors.InvalidRequest):
        return cause
    path = path_of(first["loc"])
    if not path:
        return errors.InvalidRequest(
            f"the body must be a JSON object, got {what_came(first['input'])}"
        )
    if first["type"] == "missing":
        return errors.InvalidRequest.at(path, "expected a value, got none: send it")
    if first["type"] == "value_error":
        return errors.InvalidRequest.at(path, str(first["ctx"]["error"]))
    expected, came = message[0].lower() + message[1:], what_came(first["input"])
    if words := _EXPECTED.get(first["type"]):
        expected = "expected " + words.format(**first.get("ctx", {}))
    elif words := _EXPECTED_RANGE.get(first["type"]):
        expected = "expected " + words.format(**first.get("ctx", {}))
        came = how_much(first["input"])
    return errors.InvalidRequest.at(path, f"{expected}, got {came}")


def path_of(loc: tuple[int | str, ...]) -> str:
    """`messages[0].role`."""
    path = ""
    for step in loc:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path
