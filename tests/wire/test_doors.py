"""Invalid messages: each is refused with its field's name, before anything is done."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.api.errors import InvalidRequest
from segue.api.prompt import PrefixName, Prompt, pack_tokens
from segue.api.types import SamplingParams
from segue.internal.v1 import transfer_pb2, worker_pb2
from segue.v1 import session_pb2 as pb
from segue.wire.convert.events import finish_reason_from_wire, sampled_from_wire
from segue.wire.convert.request import as_typed, sampling_from_wire
from segue.wire.convert.turns import (
    holder_from_wire,
    report_from_wire,
    result_from_wire,
    turn_from_wire,
)
from segue.wire.convert.worker import worker_from_wire

NAN, INF = math.nan, math.inf
_SINGLE = struct.Struct("<f")


def nothing_known(prefix: PrefixName) -> Prompt:
    raise AssertionError("no prefix was named")


def turn(**changed: object) -> worker_pb2.TurnSpec:
    fields = {
        "turn_id": "a/1",
        "session_id": "s",
        "context": pack_tokens([1, 2, 3]),
        "branch_points": [1, 3],
        "stop": pb.Stop(max_tokens=9),
    }
    return worker_pb2.TurnSpec(**(fields | changed))  # type: ignore[arg-type]  # a test's values


def sampling(**fields: float) -> worker_pb2.TurnSpec:
    return turn(sampling=pb.Sampling(**fields))  # type: ignore[arg-type]


BAD_TURNS: dict[str, tuple[worker_pb2.TurnSpec, str]] = {
    "no name": (turn(turn_id=""), "turn_id must not be empty"),
    "a name that is too long": (turn(turn_id="t" * 513), "turn_id must have at most 512"),
    "a name that cannot be shown": (turn(turn_id="a\nb"), "turn_id must be printable"),
    "a session that is too long": (turn(session_id="s" * 513), "session_id must have at most 512"),
    "no prompt": (turn(context=b""), "prompt of at least one token"),
    "branch points out of order": (turn(branch_points=[3, 1]), "must be ascending"),
    "a branch point twice": (turn(branch_points=[2, 2]), "must be ascending"),
    "a branch point behind the prompt": (turn(branch_points=[4]), "must be between 0 and 3"),
    "too many branch points": (
        turn(context=pack_tokens([1] * 2000), branch_points=range(1500)),
        "at most 1024 branch points",
    ),
    "no tokens wanted": (turn(stop=pb.Stop(max_tokens=0)), "max_tokens must be between 1 and"),
    "a stop string of a book's length": (
        turn(stop=pb.Stop(max_tokens=9, strings=["x" * 1025])),
        r"stop_strings\[0\]: expected 1 to 1024 characters, got 1025",
    ),
    "temperature NaN": (sampling(temperature=NAN), "temperature must be between"),
    "temperature without end": (sampling(temperature=INF), "temperature must be between"),
    "top_p NaN": (sampling(top_p=NAN), "top_p must be between"),
    "min_p below": (sampling(min_p=-0.001), "min_p must be between 0 and 1, got -0.001"),
    "a penalty below its limit": (
        sampling(repetition_penalty=0.0099),
        r"repetition_penalty must be between 0.01 and 100, got 0.0099",
    ),
    "a penalty without end": (sampling(presence_penalty=-INF), "presence_penalty must be between"),
    "a bias that is no number": (
        turn(sampling=pb.Sampling(logit_bias={3: NAN})),
        r"logit_bias\[3\] must be between",
    ),
}


@pytest.mark.parametrize("case", BAD_TURNS)
def test_a_turn_that_no_model_could_serve_is_refused(case: str) -> None:
    wire, reason = BAD_TURNS[case]

    with pytest.raises(InvalidRequest, match=reason):
        turn_from_wire(wire, nothing_known)


def status(**changed: object) -> pb.WorkerStatus:
    fields = {
        "worker_id": "decode-0",
        "role": pb.WORKER_ROLE_DECODE,
        "epoch": 5,
        "address": "127.0.0.1:7000",
        "health": pb.WORKER_HEALTH_READY,
        "load": pb.WorkerLoad(page_tokens=16, pages=pb.UnitCounts(total=3, free=1, working=2)),
    }
    return pb.WorkerStatus(**(fields | changed))  # type: ignore[arg-type]


def load(**changed: object) -> pb.WorkerStatus:
    return status(load=pb.WorkerLoad(**({"page_tokens": 16} | changed)))  # type: ignore[arg-type]


BAD_WORKERS: dict[str, tuple[pb.WorkerStatus, str]] = {
    "no name": (status(worker_id=""), "worker_id must not be empty"),
    "a long name": (status(worker_id="w" * 257), "worker_id must have at most 256"),
    "no role": (status(role=pb.WORKER_ROLE_UNSPECIFIED), "the role of decode-0 must be one of"),
    "a role of the future": (status(role=99), "the role of decode-0 must be one of"),
    "no health": (status(health=pb.WORKER_HEALTH_UNSPECIFIED), "the health of decode-0"),
    "a health of the future": (status(health=77), "the health of decode-0"),
    "no epoch": (status(epoch=0), "epoch of decode-0 must be an epoch"),
    "an epoch beyond all": (status(epoch=2**63), "epoch of decode-0 must be an epoch"),
    "no address": (status(address=""), "address of decode-0 must be host:port"),
    "an address without a port": (status(address="localhost"), "must be host:port"),
    "a port that cannot be": (status(address="h:70000"), "must be host:port"),
    "port 0": (status(address="h:0"), "must be host:port"),
    "a path for an address": (status(address="unix:/tmp/x:1"), "must be host:port"),
    "a metrics address that is a book": (status(metrics_address="m" * 257), "metrics_address"),
    "a host that cannot be shown": (status(host="\x00"), "host of decode-0 must be printable"),
    "pages of no tokens": (load(page_tokens=0), "page_tokens must be between 1 and"),
    "absurd pages": (load(page_tokens=2**31), "page_tokens must be between 1 and"),
    "absurd waiting": (load(waiting_tokens=2**63), "waiting_tokens must be between"),
    "a rate that is no number": (load(tokens_per_s=NAN), "tokens_per_s must be between"),
    "a rate below zero": (load(tokens_per_s=-1), "tokens_per_s must be between"),
    "units that do not add up": (
        load(pages=pb.UnitCounts(total=3, free=2**32 - 1)),
        "must add up to the total of 3",
    ),
    "more strays than units": (
        load(slots=pb.UnitCounts(total=1, free=1, stray=2)),
        "stray units must be between 0 and 1",
    ),
}


@pytest.mark.parametrize("case", BAD_WORKERS)
def test_an_invalid_worker_is_refused(case: str) -> None:
    wire, reason = BAD_WORKERS[case]

    with pytest.raises(InvalidRequest, match=reason):
        worker_from_wire(wire)


def test_the_messages_are_valid_without_the_changes() -> None:
    assert turn_from_wire(turn(), nothing_known).context == Prompt((1, 2, 3))
    assert worker_from_wire(status()).worker_id == "decode-0"


OTHERS: dict[str, tuple[Callable[[], object], str]] = {
    "a holder without a name": (
        lambda: holder_from_wire(worker_pb2.PrefixHolder(epoch=1, address="h:1")),
        "the holder's name must not be empty",
    ),
    "a holder of nothing": (
        lambda: holder_from_wire(worker_pb2.PrefixHolder(worker_id="a", epoch=1, address="h:1")),
        "checkpoint_tokens must be between 1",
    ),
    "a report that took no time at all": (
        lambda: report_from_wire(transfer_pb2.ShipReport(queue_s=NAN)),
        "a report's queue_s must be between",
    ),
    "a report that ended before it began": (
        lambda: report_from_wire(transfer_pb2.ShipReport(transfer_s=-1)),
        "a report's transfer_s must be between",
    ),
    "a result that never ends": (
        lambda: result_from_wire(worker_pb2.DecodeEnd(decode_s=INF)),
        "a result's decode_s must be between",
    ),
    "an end for a reason of the future": (
        lambda: finish_reason_from_wire(99),  # type: ignore[arg-type]
        "finish_reason must be one of",
    ),
    "more best tokens than may be asked for": (
        lambda: sampled_from_wire(pb.SampledToken(top=[pb.TokenLogprob()] * 21)),
        "the number of best tokens must be between 0 and 20",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_invalid_messages_are_refused(case: str) -> None:
    convert, reason = OTHERS[case]

    with pytest.raises(InvalidRequest, match=reason):
        convert()


def single(value: float) -> float:
    """The value as it is on the wire."""
    return float(_SINGLE.unpack(_SINGLE.pack(value))[0])


def test_a_limit_in_single_precision_is_still_within_bounds() -> None:
    params = sampling_from_wire(
        pb.Sampling(repetition_penalty=0.01, temperature=0.7, top_p=0.1, logit_bias={1: 0.3}),
    )

    assert params == SamplingParams(
        repetition_penalty=0.01, temperature=0.7, top_p=0.1, logit_bias={1: 0.3}
    )


@given(st.integers(-999_999, 999_999), st.integers(-6, 2))
def test_a_decimal_in_single_precision_arrives_as_it_was_written(
    digits: int, exponent: int
) -> None:
    written = float(f"{digits}e{exponent}")

    assert as_typed(single(written)) == written


@given(st.floats(width=32))
def test_no_number_changes_on_the_wire(value: float) -> None:
    typed = as_typed(value)

    assert single(typed) == value or (math.isnan(typed) and math.isnan(value))
