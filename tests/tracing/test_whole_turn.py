"""One trace for a turn, over real processes of a cluster, from an HTTP client's own span."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, BadRequestError
from opentelemetry.sdk.trace import ReadableSpan
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from prefill_worker.worker import PrefillWorker
from router.config import RouterConfig
from router.placement.estimate import Decision, Mode, Placement
from router.placement.policy import place
from segue.api.errors import TransferFailed
from segue.api.types import StopConditions, TextInput, TokenInput
from segue.gateway.__main__ import running
from segue.gateway.config import GatewayConfig
from segue.launch.config import Config
from segue.process.tracing.context import TraceContext, within
from tests.cluster.conftest import ENGINE, LocalCluster, local_cluster
from tests.cluster.moving_placement import moving_place, pull_always
from tests.cluster.waiting import wait_until_idle
from tests.tracing.spans import Kept, named, process_of, texts_of, traced_here, tree_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
NOT_SAMPLED = f"00-{TRACE_ID}-00f067aa0ba902b7-00"
SECRET = "Rumpelstilzchen"
LONG = f"My name is {SECRET}. Count from 1 to 60. " * 12


@dataclass(frozen=True)
class Traced:
    cluster: LocalCluster
    openai: AsyncOpenAI
    kept: Kept

    async def spans(self) -> list[ReadableSpan]:
        """Of the turns so far. Workers may be a moment behind the client."""
        await wait_until_idle(self.cluster.client)
        await asyncio.sleep(0.05)
        return self.kept.take()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced() -> AsyncIterator[Traced]:
    config = Config(engine=ENGINE, router=RouterConfig(local_prefill_max_tokens=0))
    with traced_here() as kept:
        async with (
            local_cluster("demo", config, prefill=2, decode=2) as cluster,
            running(GatewayConfig(port=0), cluster.client.target) as gateway,
            AsyncOpenAI(base_url=f"http://{gateway.address}/v1", api_key="none") as openai,
        ):
            yield Traced(cluster, openai, kept)


async def ask(traced: Traced, text: str = LONG, parent: str = PARENT, **fields: Any) -> str:
    answer = await traced.openai.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": text}],
        max_tokens=12,
        extra_headers={"traceparent": parent, "tracestate": "vendor=1"},
        **fields,
    )
    return answer.choices[0].message.content or ""


async def test_a_turn_is_one_trace_below_the_clients_span(traced: Traced) -> None:
    await ask(traced)
    spans = await traced.spans()

    assert tree_of(spans) == [
        "gateway: POST /v1/chat/completions",
        "  router: chat demo",
        "    router: tokenise",
        "    router: place",
        "    decode: answer",
        "      decode: reserve",
        "      decode: receive",
        "      decode: decode",
        "    prefill: prefill",
        "      prefill: queue",
        "      prefill: compute",
        "      prefill: transfer",
        "      prefill: commit",
    ]
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context} == {TRACE_ID}
    request = named(spans, "POST /v1/chat/completions")
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == "00f067aa0ba902b7"
    metrics = openmetrics(traced.cluster.router._metrics.registry)  # type: ignore[no-untyped-call]
    exemplar = f'# {{trace_id="{TRACE_ID}"}}'.encode()
    with_exemplars = {line.partition(b"{")[0] for line in metrics.split(b"\n") if exemplar in line}
    assert with_exemplars == {
        b"segue_time_to_first_token_seconds_bucket",
        b"segue_chat_first_token_seconds_bucket",
        b"segue_turn_seconds_bucket",
        b"gen_ai_server_time_to_first_token_seconds_bucket",
        b"gen_ai_server_request_duration_seconds_bucket",
    }
    for span in spans:
        assert span.start_time is not None
        assert span.end_time is not None
        assert request.start_time <= span.start_time <= span.end_time, span.name


async def test_spans_say_why_and_how_much(traced: Traced) -> None:
    await ask(traced, temperature=0.5, seed=7, extra_body={"prompt_cache_key": "conversation-1"})
    spans = await traced.spans()
    turn = named(spans, "chat demo").attributes or {}
    place = named(spans, "place").attributes or {}
    transfer = named(spans, "transfer").attributes or {}
    decode = named(spans, "decode")
    found = decode.attributes or {}

    assert turn["gen_ai.operation.name"] == "chat"
    assert turn["gen_ai.provider.name"] == "segue"
    assert turn["gen_ai.request.temperature"] == 0.5
    assert turn["gen_ai.request.seed"] == 7
    assert turn["gen_ai.request.max_tokens"] == 12
    assert turn["gen_ai.response.finish_reasons"] == ("length",)
    assert turn["gen_ai.usage.output_tokens"] == found["gen_ai.usage.output_tokens"] == 12
    assert turn["gen_ai.conversation.id"]
    assert turn["segue.turn.id"]
    assert place["segue.place.mode"] == "compute"
    assert place["segue.prefill_worker"] == turn["segue.prefill_worker"]
    assert place["segue.place.expected_s"] > 0  # type: ignore[operator]
    assert transfer["segue.shipped_bytes"] == turn["segue.shipped_bytes"]
    assert 0 <= transfer["segue.hidden_share"] <= 1  # type: ignore[operator]
    assert found["segue.steps"] + found["segue.accepted_tokens"] == 11  # type: ignore[operator]
    assert [event.name for event in decode.events] == ["first token"]
    assert (named(spans, "compute").attributes or {})["segue.chunks"] == 1


async def test_no_text_of_a_user_leaves_the_cluster(traced: Traced) -> None:
    answer = await ask(traced, stop=[f"{SECRET} said"], user="someone")
    spans = await traced.spans()

    assert spans
    for span in spans:
        assert SECRET not in texts_of(span)
        assert answer not in texts_of(span)


async def test_what_the_client_does_not_sample_is_not_recorded(traced: Traced) -> None:
    await ask(traced, parent=NOT_SAMPLED)

    assert await traced.spans() == []


async def test_a_bad_traceparent_starts_a_trace(traced: Traced) -> None:
    await ask(traced, parent="00-zz-1-01")
    spans = await traced.spans()

    assert named(spans, "POST /v1/chat/completions").parent is None
    assert len({span.context.trace_id for span in spans if span.context}) == 1


async def test_a_refused_request_shows_its_error(traced: Traced) -> None:
    with pytest.raises(BadRequestError):
        await traced.openai.completions.create(model="demo", prompt=SECRET, temperature=-1)
    spans = await traced.spans()

    assert (named(spans, "POST /v1/completions").attributes or {})[
        "http.response.status_code"
    ] == 400
    assert all(SECRET not in texts_of(span) for span in spans)


def move_first(*arguments: Any, **options: Any) -> Decision:
    return (place if options["avoid"] else moving_place)(*arguments, **options)


async def test_a_turn_with_a_pull_and_a_retry(
    traced: Traced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second turn moves to other workers, which pull its prefix, and fails there once."""
    stop = StopConditions(max_tokens=4, ignore_eos=True)
    first = await traced.cluster.client.generate(TextInput(LONG), session_id="s", stop=stop)
    await traced.spans()
    monkeypatch.setattr("router.placement.placing.place", move_first)
    pull_always(monkeypatch)
    compute, failures = PrefillWorker._compute, [TransferFailed(f"lost {SECRET}")]

    async def fail_once(*arguments: Any) -> Any:
        computed = await compute(*arguments)
        if failures:
            raise failures.pop()
        return computed

    monkeypatch.setattr(PrefillWorker, "_compute", fail_once)

    with within(TraceContext(PARENT)), caplog.at_level(logging.WARNING):
        second = await traced.cluster.client.generate(
            TextInput(LONG + first.text + LONG), session_id="s", stop=stop
        )
    spans = await traced.spans()

    assert second.end.decode_worker == first.end.decode_worker
    tree = tree_of(spans)
    # The writer's abort and the router's stop reach the decode worker in either order.
    stopped = "cancelled" if "  decode: answer ! cancelled" in tree else "TransferFailed"
    assert tree[0] == "router: text_completion demo"
    assert sorted(tree[1:]) == sorted(
        [
            "  router: tokenise",
            "  router: place",
            "  router: attempt ! TransferFailed",
            "  router: place",
            f"  decode: answer ! {stopped}",
            "    decode: reserve",
            "    decode: receive",
            "  prefill: prefill ! TransferFailed",
            "    prefill: queue",
            "    prefill: pull",
            "    prefill: lend",
            "  decode: answer",
            "    decode: reserve",
            "    decode: receive",
            "    decode: decode",
            "  prefill: prefill",
            "    prefill: queue",
            "    prefill: compute",
            "    prefill: transfer",
            "    prefill: commit",
        ]
    )
    (retry, first_token) = spans[0].events
    assert (retry.name, first_token.name) == ("retry", "first token")
    assert (retry.attributes or {})["error.type"] == "TransferFailed"
    modes = [(s.attributes or {})["segue.place.mode"] for s in spans if s.name == "place"]
    assert modes[0] == "pull"
    assert (named(spans, "pull").attributes or {})["segue.pulled_bytes"] > 0  # type: ignore[operator]
    assert all(SECRET not in texts_of(span) for span in spans)
    assert process_of(named(spans, "lend")) == "prefill"


async def test_a_resumed_turn_shows_where_it_went_on(traced: Traced) -> None:
    from tests.cluster.test_resumed import losing_decode

    stop = StopConditions(max_tokens=20, ignore_eos=True)
    with losing_decode(traced.cluster, [5]):
        await traced.cluster.client.generate(TextInput(LONG), stop=stop)
    spans = await traced.spans()
    (turn,) = (span for span in spans if span.name.startswith("text_completion"))

    assert [event.name for event in turn.events] == ["first token", "resume"]
    assert (turn.attributes or {})["segue.resumed"] == 1
    assert (turn.events[1].attributes or {})["segue.answered_tokens"] >= 5  # type: ignore[operator]
    assert tree_of(spans).count("  router: attempt ! Unavailable") == 1


async def test_a_prompt_that_decode_computes_has_no_handoff(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    placing = traced.cluster.router.placing
    rules = placing.rules._replace(local_prefill_max_tokens=512)
    monkeypatch.setattr(placing, "rules", rules)
    monkeypatch.setattr("router.placement.placing.place", place_here)
    stop = StopConditions(max_tokens=40, ignore_eos=True)
    tokens = tuple(range(20, 120))
    for _ in range(2):
        answer = await traced.cluster.client.generate(
            TokenInput(tokens), session_id="here", stop=stop
        )
        tokens += (*answer.token_ids, 7, 8, 9)
        spans = await traced.spans()

    assert [line.strip() for line in tree_of(spans)] == [
        "router: text_completion demo",
        "router: tokenise",
        "router: place",
        "decode: answer",
        "decode: reserve",
        "decode: decode",
    ]
    assert (named(spans, "decode").attributes or {})["segue.computed_tokens"] > 0  # type: ignore[operator]
    assert (named(spans, "place").attributes or {})["segue.place.mode"] == "local"


def place_here(*arguments: Any, **options: Any) -> Decision:
    decision = place(*arguments, **options)
    here = [one for one in decision.candidates if one.mode is Mode.LOCAL]
    if not here:
        return decision
    (decode,) = (w for w in arguments[1].nodes.values() if w.status.worker_id == here[0].decode)
    placement = Placement(prefill=decode.status, decode=decode.status)
    return decision._replace(chosen=here[0], placement=placement)
