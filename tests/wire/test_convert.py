"""Every value survives the wire."""

from __future__ import annotations

import math
from array import array
from dataclasses import replace

import pytest

from segue.api.cluster.explanation import (
    CostLine,
    Explanation,
    RecentTurn,
    WeighedCandidate,
    WorkerSpeed,
)
from segue.api.cluster.status import (
    ClusterStatus,
    RouterStatus,
    UnitCounts,
    WorkerHealth,
    WorkerLoad,
    WorkerStatus,
)
from segue.api.errors import InvalidRequest
from segue.api.prompt import PrefixName, Prompt, salt_of
from segue.api.turn import (
    FinishReason,
    PromptLogprobs,
    ShipReport,
    Timings,
    TokenDelta,
    TurnEnd,
    TurnEvent,
    TurnResult,
    TurnSpec,
    TurnStarted,
    Usage,
)
from segue.api.types import (
    ChatInput,
    Continuation,
    Epoch,
    Message,
    Resume,
    Role,
    SampledToken,
    Sampling,
    SamplingParams,
    SessionId,
    StopConditions,
    StopRules,
    TextInput,
    TokenInput,
    TokenLogprob,
    ToolCall,
    TurnId,
    TurnInput,
    TurnRequest,
    WorkerId,
)
from segue.v1 import session_pb2 as pb
from segue.wire.convert.events import (
    events_from_wire,
    events_to_wire,
    prompt_logprobs_from_wire,
    prompt_logprobs_to_wire,
)
from segue.wire.convert.explanation import (
    explanation_from_wire,
    explanation_to_wire,
    recent_from_wire,
    recent_to_wire,
)
from segue.wire.convert.request import (
    request_from_wire,
    request_to_wire,
    tokenized_from_wire,
    tokenized_to_wire,
)
from segue.wire.convert.turns import (
    result_from_wire,
    result_to_wire,
    turn_from_wire,
    turn_to_wire,
)
from segue.wire.convert.worker import cluster_from_wire, cluster_to_wire

# Values that float32, which the wire uses, holds exactly.
SAMPLING = SamplingParams(
    temperature=0.75,
    top_k=40,
    top_p=0.5,
    min_p=0.125,
    repetition_penalty=1.25,
    presence_penalty=-0.5,
    frequency_penalty=0.25,
    logit_bias={7: -2.0},
    seed=2**62,
    logprobs=0,
    prompt_logprobs=2,
)
STOP = StopConditions(
    max_tokens=9, stop_strings=("\n\n", "Ende"), stop_token_ids=(3,), ignore_eos=True
)
USAGE = Usage(
    prompt_tokens=1,
    cached_tokens=2,
    resident_tokens=3,
    completion_tokens=4,
    shipped_bytes=2**40,
    rerendered_tokens=5,
)
CHAT = ChatInput(
    messages=(
        Message(role="system", content="be brief"),
        Message(
            role="assistant",
            reasoning="hm",
            tool_calls=(ToolCall(call_id="1", name="f", arguments="{}"),),
        ),
        Message(role="tool", content="5", tool_call_id="1", name="f"),
        Message(role="user", content_parts=("a", "", "b")),
        Message(role="assistant", content="a", reasoning=""),
    ),
    tools=('{"name": "f"}',),
    enable_thinking=True,
    chat_template_kwargs='{"reasoning_effort": "low"}',
    continue_final_message=True,
)
UNTHINKING = replace(CHAT, enable_thinking=False, continue_final_message="reasoning")
BARE = replace(CHAT, continue_final_message=False, add_generation_prompt=False)
UNSET = ChatInput(messages=(Message(role="assistant", content="a"),))
CONTINUED = ChatInput(
    messages=(Message(role="user", content="go on"),),
    continues=Continuation(num_messages=3, digest=bytes(range(32))),
)
TOKEN = SampledToken(
    token_id=5, logprob=-0.5, top_logprobs=(TokenLogprob(token_id=6, logprob=-1.5),)
)
WORKER = WorkerStatus(
    worker_id=WorkerId("decode-0"),
    role=Role.DECODE,
    epoch=Epoch(2**60),
    address="a:1",
    metrics_address="a:2",
    health=WorkerHealth.DRAINING,
    load=WorkerLoad(
        pages=UnitCounts(total=15, free=1, working=2, cached=3, reserved=4, quarantined=5),
        slots=UnitCounts(total=1, free=1),
        host_pages=UnitCounts(total=12, free=3, working=4, cached=5),
        host_slots=UnitCounts(total=2, cached=2),
        running_turns=1,
        waiting_turns=2,
        waiting_tokens=3,
        tokens_per_s=4.5,
        page_tokens=64,
    ),
    pid=77,
    host="h",
)


@pytest.mark.parametrize(
    "turn_input",
    [CHAT, UNTHINKING, BARE, UNSET, CONTINUED, TextInput("hello"), TokenInput((1, 2**31))],
)
def test_a_request_survives_the_wire(turn_input: TurnInput) -> None:
    request = TurnRequest(
        session_id=SessionId("s"),
        turn_id=TurnId("t"),
        input=turn_input,
        sampling=SAMPLING,
        stop=STOP,
    )

    back = request_from_wire(
        request_to_wire(request), default_turn_id=TurnId("other"), default_seed=1
    )

    assert back == request


@pytest.mark.parametrize(
    "resume",
    [
        Resume(),
        Resume(token_ids=(7, 0), resumed=2, prefill_worker="prefill-1", decode_worker="decode-0"),
    ],
)
def test_a_resumed_turn_survives_the_wire(resume: Resume) -> None:
    request = TurnRequest(
        session_id=SessionId("found"),
        session_hint="mine",
        turn_id=TurnId("t"),
        input=CHAT,
        sampling=SAMPLING,
        resume=resume,
    )

    back = request_from_wire(
        request_to_wire(request), default_turn_id=TurnId("other"), default_seed=1
    )

    assert back == request


@pytest.mark.parametrize("turn_input", [CHAT, BARE, TextInput("hello")])
def test_an_input_to_tokenise_survives_the_wire(turn_input: ChatInput | TextInput) -> None:
    assert tokenized_from_wire(tokenized_to_wire(turn_input)) == turn_input


def test_nothing_to_tokenise_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="got none"):
        tokenized_from_wire(pb.TokenizeRequest())


def test_absent_fields_stay_open_and_only_the_seed_is_chosen() -> None:
    request = request_from_wire(
        pb.GenerateRequest(text="x"), default_turn_id=TurnId("t"), default_seed=11
    )

    assert request.sampling == SamplingParams(seed=11)
    assert request.stop == StopConditions()
    assert (request.session_id, request.turn_id) == ("", "t")


def test_zero_is_not_the_same_as_absent() -> None:
    wire = pb.GenerateRequest(text="x", sampling=pb.Sampling(top_p=0.0))

    with pytest.raises(InvalidRequest, match="top_p must be above 0"):
        request_from_wire(wire, default_turn_id=TurnId("t"), default_seed=0)


def test_a_request_without_input_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="needs an input"):
        request_from_wire(pb.GenerateRequest(), default_turn_id=TurnId("t"), default_seed=0)


PROMPT_LOGPROBS = PromptLogprobs(
    token_ids=array("I", [5, 0, 2**32 - 1]),
    logprobs=array("f", [-0.5, -math.inf]),
    ranks=array("I", [1, 300_000]),
    num_top=2,
    top_ids=array("I", [1, 2, 3, 0]),
    top_logprobs=array("f", [-0.25, -0.5, 0.0, -1.5]),
)


@pytest.mark.parametrize(
    "event",
    [
        PROMPT_LOGPROBS,
        TurnStarted(
            session_id=SessionId("s"),
            turn_id=TurnId("t"),
            prompt_tokens=3,
            prefill_worker="p",
            decode_worker="d",
            tool_call_parser="hermes",
            reasoning_parser="none",
            seed=2**63 - 1,
            max_tokens=7,
        ),
        TokenDelta(token_ids=(5, 0), text="ä", logprobs=(TOKEN, SampledToken(token_id=0))),
        TurnEnd(
            finish_reason=FinishReason.LENGTH,
            usage=USAGE,
            timings=Timings(queue_s=1.5, router_s=0.25, exposed_transfer_s=2.0),
            prefill_worker="p",
            decode_worker="d",
            stop_match="x",
            kept_messages=3,
        ),
    ],
)
def test_an_event_survives_the_wire(event: TurnEvent) -> None:
    assert list(events_from_wire(events_to_wire([event]))) == [event]


def test_events_that_share_a_message_survive_the_wire() -> None:
    events = [
        TurnStarted(
            session_id=SessionId("s"),
            turn_id=TurnId("t"),
            prompt_tokens=3,
            prefill_worker="p",
            decode_worker="d",
        ),
        PROMPT_LOGPROBS,
        TokenDelta(token_ids=(1, 2), text="ab"),
        TurnEnd(finish_reason=FinishReason.STOP, usage=Usage()),
    ]

    assert list(events_from_wire(events_to_wire(events))) == events


@pytest.mark.parametrize("name", ["logprobs", "ranks", "top_ids", "top_logprobs"])
def test_log_probabilities_that_do_not_fit_their_prompt_are_refused(name: str) -> None:
    wire = prompt_logprobs_to_wire(PROMPT_LOGPROBS)
    setattr(wire, name, getattr(wire, name) + bytes(4))
    with pytest.raises(InvalidRequest, match=f"must have . {name}, got"):
        prompt_logprobs_from_wire(wire)

    setattr(wire, name, getattr(wire, name)[:-1])
    with pytest.raises(InvalidRequest, match=f"a number in {name} has four bytes"):
        prompt_logprobs_from_wire(wire)


def test_log_probabilities_of_a_prompt_as_tokens() -> None:
    first, second, third = PROMPT_LOGPROBS.tokens(num_top=1)

    assert first == SampledToken(token_id=5)
    best = (TokenLogprob(token_id=1, logprob=-0.25),)
    assert second == SampledToken(token_id=0, logprob=-0.5, top_logprobs=best)
    assert (third.logprob, third.top_logprobs[0].token_id) == (-math.inf, 3)
    assert PROMPT_LOGPROBS.tokens()[1].top_logprobs[1].token_id == 2


def test_fields_that_a_client_leaves_open_are_not_sent() -> None:
    request = TurnRequest(
        session_id=SessionId(""),
        turn_id=TurnId("t"),
        input=TextInput("x"),
        sampling=SamplingParams(),
    )

    wire = request_to_wire(request)

    assert [field.name for field, _ in wire.sampling.ListFields()] == []
    assert [field.name for field, _ in wire.stop.ListFields()] == []


@pytest.mark.parametrize("name", ["temperature", "top_k", "min_p", "seed", "presence_penalty"])
def test_a_zero_that_a_client_gives_is_sent(name: str) -> None:
    sampling = SamplingParams(**{name: 0})
    request = TurnRequest(
        session_id=SessionId(""), turn_id=TurnId("t"), input=TextInput("x"), sampling=sampling
    )

    wire = request_to_wire(request)

    assert wire.sampling.HasField(name)  # type: ignore[arg-type]  # of the five above
    back = request_from_wire(wire, default_turn_id=TurnId("t"), default_seed=9)
    assert getattr(back.sampling, name) == 0


def test_a_turn_for_workers_survives_the_wire() -> None:
    turn = TurnSpec(
        turn_id=TurnId("t"),
        session_id=SessionId("s"),
        context=Prompt((1, 2, 3)),
        sampling=SAMPLING.resolved(),
        stop=RULES,
        branch_points=(1, 2),
    )

    assert turn_from_wire(turn_to_wire(turn), nothing_known) == turn


SALTED = TurnSpec(
    turn_id=TurnId("t"),
    session_id=SessionId("s"),
    context=Prompt(range(40), salt=salt_of("acme")),
    sampling=Sampling(),
    stop=StopRules(max_tokens=9),
)


def test_a_turns_salt_survives_the_wire_with_and_without_a_named_prefix() -> None:
    name = PrefixName(32, b"0123456789abcdef")
    known = {name: Prompt(range(32), salt=salt_of("acme"))}

    assert turn_from_wire(turn_to_wire(SALTED), nothing_known) == SALTED
    assert turn_from_wire(turn_to_wire(SALTED, name), known.__getitem__) == SALTED


@pytest.mark.parametrize("salt", [b"", salt_of("blue")])
def test_a_prefix_with_another_salt_is_no_part_of_a_turn(salt: bytes) -> None:
    name = PrefixName(32, b"0123456789abcdef")
    known = {name: Prompt(range(32), salt=salt)}

    with pytest.raises(InvalidRequest, match="must have one salt"):
        turn_from_wire(turn_to_wire(SALTED, name), known.__getitem__)


@pytest.mark.parametrize("num_bytes", [1, 15, 17])
def test_a_salt_of_another_length_is_refused(num_bytes: int) -> None:
    wire = turn_to_wire(SALTED)
    wire.salt = bytes(num_bytes)

    with pytest.raises(InvalidRequest, match="16 bytes or none"):
        turn_from_wire(wire, nothing_known)


def test_a_worker_that_knows_the_named_prefix_completes_the_turn() -> None:
    turn = TurnSpec(
        turn_id=TurnId("t"),
        session_id=SessionId("s"),
        context=Prompt(tuple(range(40))),
        sampling=SAMPLING.resolved(),
        stop=RULES,
    )
    name = PrefixName(32, b"0123456789abcdef")

    wire = turn_to_wire(turn, name)

    assert len(wire.context) == 4 * 8
    assert turn_from_wire(wire, {name: Prompt(range(32))}.__getitem__) == turn


RULES = StopRules(max_tokens=9, stop_strings=("Ende",), stop_token_ids=(3, 4))


def nothing_known(prefix: PrefixName) -> Prompt:
    raise AssertionError("no prefix was named")


def test_a_turn_for_workers_without_a_limit_is_refused() -> None:
    wire = turn_to_wire(
        TurnSpec(
            turn_id=TurnId("t"),
            session_id=SessionId("s"),
            context=Prompt((1, 2, 3)),
            sampling=Sampling(),
            stop=StopRules(max_tokens=9),
        )
    )
    wire.stop.ClearField("max_tokens")

    with pytest.raises(InvalidRequest, match="needs max_tokens"):
        turn_from_wire(wire, nothing_known)


def test_a_result_survives_the_wire() -> None:
    result = TurnResult(
        finish_reason=FinishReason.STOP,
        usage=USAGE,
        report=ShipReport(
            shipped_bytes=1,
            cached_tokens=2,
            queue_s=0.5,
            prefill_s=1.0,
            kept_tokens=3,
            kept_states=(1, 3),
        ),
        decode_s=3.0,
        kept_states=(1, 3, 5),
        stop_match="\n\n",
    )

    assert result_from_wire(result_to_wire(result)) == result


def test_the_cluster_survives_the_wire() -> None:
    cluster = ClusterStatus(
        ready=True,
        model="demo",
        model_id="abc",
        workers=(WORKER,),
        router=RouterStatus(
            address="r:1", sessions=1, running_turns=2, completion_tokens_per_s=0.5, draining=True
        ),
    )

    assert cluster_from_wire(cluster_to_wire(cluster)) == cluster


@pytest.mark.parametrize("actual_s", [None, 0.0, 1.5])
def test_an_explanation_survives_the_wire(actual_s: float | None) -> None:
    prefill, decode = WorkerId("prefill-0"), WorkerId("decode-0")
    line = CostLine(fixed=0.1, per_unit=1e-12)
    explanation = Explanation(
        session_id=SessionId("s"),
        turn_id=TurnId("t"),
        prompt_tokens=1,
        max_tokens=2,
        candidates=(
            WeighedCandidate(
                mode="pull",
                prefill_worker=prefill,
                decode_worker=decode,
                source_worker=decode,
                chosen=True,
                computed_tokens=3,
                moved_tokens=4,
                queue_s=0.1,
                pull_s=0.2,
                compute_s=0.3,
                move_s=0.4,
                hidden_s=-0.5,
                interference_s=0.6,
                overhead_s=0.7,
                total_s=1.8,
            ),
            WeighedCandidate(
                mode="compute", prefill_worker=prefill, decode_worker=decode, excluded="memory"
            ),
        ),
        speeds=(WorkerSpeed(worker_id=prefill, compute=line, link=line, step=line),),
        decision_s=1e-5,
        estimated_s=1.8,
        actual_s=actual_s,
    )

    assert explanation_from_wire(explanation_to_wire(explanation)) == explanation
    running = RecentTurn(explanation=explanation, num_candidates=7, age_s=2.5, outcome="running")
    ended = replace(running, outcome="stop", end=TurnEnd(finish_reason=FinishReason.STOP))
    for turn in (running, ended):
        assert recent_from_wire(recent_to_wire(turn)) == turn
