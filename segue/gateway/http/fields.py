"""Reads request bodies. Each field states whether it is honoured, ignored or refused.

`docs/http.md` and `/openapi.json` show the same. Unknown fields are ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from starlette.requests import Request

from segue.api.checks import what_came
from segue.api.errors import InvalidRequest
from segue.api.types import MAX_STOP_STRING_CHARS
from segue.gateway.http.errors import BodyEncoded, BodyTooLarge, bad_field

Member = TypeVar("Member")
Value = TypeVar("Value")

_STATUS = "x-segue"
_NEUTRAL = "x-segue-accepts"
# Converting so much takes 40 ms at worst.
_LARGE_BYTES = 256 << 10
_EXPECTED: dict[type, str] = {str: "a text", dict: "an object"}


def honoured(note: str, default: Any = None, **limits: Any) -> Any:
    return Field(default, description=note, json_schema_extra={_STATUS: "honoured"}, **limits)


def ignored(note: str) -> Any:
    return Field(None, description=note, json_schema_extra={_STATUS: "ignored"})


def refused(why: str, *neutral: Any) -> Any:
    """Any value is an error, except null and the `neutral` ones, which ask for nothing."""
    extra: dict[str, Any] = {_STATUS: "refused", _NEUTRAL: list(neutral)}
    return Field(None, description=why, json_schema_extra=extra)


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_STRING_CHARS)]


class FieldRow(NamedTuple):
    name: str
    status: str
    note: str


class Body(BaseModel):
    """A request's body. Types are exact: "5" is no number."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    _num_bytes: int = PrivateAttr(0)

    model: str | None = honoured("The served model, by its name in /v1/models, or absent.")

    _refused: ClassVar[dict[str, tuple[str, list[Any]]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        cls._refused = {
            name: (field.description or "", [None, *neutral])
            for name, field in cls.model_fields.items()
            if isinstance(extra := field.json_schema_extra, dict)
            and isinstance(neutral := extra.get(_NEUTRAL), list)
        }

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        for name in self.model_fields_set & self._refused.keys():
            why, neutral = self._refused[name]
            if (value := getattr(self, name)) not in neutral:
                raise InvalidRequest.at(name, f"expected none, got {what_came(value)}: {why}")
        return self

    @classmethod
    def table(cls) -> Iterator[FieldRow]:
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            assert isinstance(extra, dict), f"{cls.__name__}.{name} has no description"
            yield FieldRow(name, str(extra[_STATUS]), field.description or "")


class TurnBody(Body):
    """A body that asks for an answer."""

    stream: bool | None = honoured("Server-sent events.")
    temperature: float | None = honoured("0 is greedy. Absent: the checkpoint's.")
    top_p: float | None = honoured("Absent: the checkpoint's, as for all fields of sampling.")
    priority: int | None = honoured(
        "Requests that have to wait are served by ascending priority; 0 by default."
    )
    cache_salt: str | None = honoured(
        "Only requests with the same one share cached prefixes, within a tenant."
    )
    service_tier: Any = ignored("")


Kind = TypeVar("Kind", bound=Body)


async def read(request: Request, kind: type[Kind], max_bytes: int) -> Kind:
    """Raises InvalidRequest."""
    content = await _bytes_of(request, max_bytes)
    try:
        body = kind.model_validate_json(content)
    except ValidationError as error:
        raise bad_field(error) from None
    body._num_bytes = len(content)
    return body


async def converted(body: Body, convert: Callable[[], Value], *, more_bytes: int = 0) -> Value:
    """`convert()`, in a thread if the body is so large that other requests would wait for it: 17 MB
    of small messages take three seconds. `more_bytes`: of what is converted besides the body."""
    if body._num_bytes + more_bytes > _LARGE_BYTES:
        return await asyncio.to_thread(convert)
    return convert()


async def _bytes_of(request: Request, max_bytes: int) -> bytes:
    """Holds at most `max_bytes` and one more piece. Raises BodyTooLarge and BodyEncoded."""
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        raise BodyEncoded(
            f"expected a body without content-encoding, got {encoding!r:.40}: send it as it is"
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(declared, max_bytes)
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > max_bytes:
            raise _too_large(f"at least {size}", max_bytes)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(size: str, max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body has {size:.20} bytes, but the gateway accepts at most {max_bytes}: shorten the "
        "messages, or raise [gateway] max_body_bytes"
    )


def typed(value: object, kind: type[Member], where: str) -> Member:
    """The value, if it has this type. Raises InvalidRequest with its path."""
    if not isinstance(value, kind):
        raise InvalidRequest.at(where, f"expected {_EXPECTED[kind]}, got {what_came(value)}")
    return value


def member(found: Mapping[str, Any], name: str, kind: type[Member], where: str) -> Member:
    """A required member of the object at `where`. Raises InvalidRequest with its path."""
    return typed(found.get(name), kind, f"{where}.{name}")


def objects(value: object, where: str, expected: str = "a list of objects") -> list[dict[str, Any]]:
    """Raises InvalidRequest with the path of what is no object."""
    if not isinstance(value, list):
        raise InvalidRequest.at(where, f"expected {expected}, got {what_came(value)}")
    return [typed(one, dict, f"{where}[{index}]") for index, one in enumerate(value)]
