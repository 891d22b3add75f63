"""A router finds what it did not compute itself: workers report what they keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from router.placement.estimate import Mode
from router.placement.placing import Placing, TurnPlacing
from router.sessions.record import Keeping, with_report
from segue.api.cluster.kept import KeptChanges, KeptSession
from segue.api.cluster.status import WorkerHealth, WorkerStatus
from segue.api.prompt import PageDigests, Prompt
from segue.api.types import Epoch, SessionId, StopRules, WorkerId
from tests.router.placed import AGENT, ManualClock, held, placing_of, result, serve, spec, worker

PAGE = 64
DECODE_1 = worker("decode-1")
# Every `spec` has the same tokens.
TOKENS = Prompt((7,) * 20_000)


def digest(num_tokens: int) -> bytes:
    return PageDigests(PAGE).name(TOKENS, num_tokens // PAGE).digest


def report(
    placing: Placing,
    status: WorkerStatus,
    *,
    states: Sequence[int] = (),
    pages: Sequence[int] = (),
    gone: Sequence[int] = (),
    session: tuple[SessionId, int] | None = None,
    ended: Sequence[SessionId] = (),
) -> None:
    changes = KeptChanges(
        with_state=tuple(digest(at) for at in states),
        without_state=tuple(digest(at) for at in pages),
        gone=tuple(digest(at) for at in gone),
        sessions=(KeptSession(*session, session[1]),) if session else (),
        ended=tuple(ended),
    )
    placing.kept.take(status, changes)


@pytest.fixture
def placing() -> Placing:
    return placing_of(ManualClock(), local_prefill_max_tokens=256)


async def looked_up(placing: Placing, session_id: SessionId, num_tokens: int) -> TurnPlacing:
    turn = placing.turn(spec(num_tokens, session_id=session_id))
    await turn.look_up()
    return turn


@pytest.mark.parametrize("session_id", [AGENT, SessionId("other-name"), SessionId("")])
async def test_a_prompt_goes_where_the_start_of_it_is(
    placing: Placing, session_id: SessionId
) -> None:
    """The session's own name does not matter, and neither does having none."""
    report(placing, DECODE_1, states=[6_400], session=(AGENT, 6_400))

    turn = await looked_up(placing, session_id, 6_500)
    decision = turn.place(())

    assert (decision.chosen.mode, decision.chosen.decode) == (Mode.LOCAL, "decode-1")
    assert decision.chosen.plan.computed_tokens == 100
    name = turn.known_prefix(DECODE_1)
    assert name is not None
    assert (name.num_tokens, name.digest) == (6_400, digest(6_400))


async def test_a_long_prompts_digests_are_computed_in_a_thread_and_are_the_same(
    placing: Placing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.membership.kept._MANY_PAGES", 10)
    report(placing, DECODE_1, states=[6_400])

    turn = await looked_up(placing, AGENT, 6_500)

    assert turn.place(()).chosen.decode == "decode-1"


async def test_an_answer_that_is_resumed_goes_where_its_pages_are(placing: Placing) -> None:
    """Its client comes from another router, whose turn the worker has stopped."""
    report(placing, DECODE_1, states=[6_464])
    turn = placing.turn(spec(6_400))
    rest = replace(spec(6_500), num_answered=100, stop=StopRules(max_tokens=200))
    turn.resume(rest)
    await turn.look_up()

    decision = turn.place(())

    assert (decision.chosen.mode, decision.chosen.decode) == (Mode.LOCAL, "decode-1")
    assert decision.chosen.plan.computed_tokens == 36


async def test_pages_without_a_state_need_not_be_moved(placing: Placing) -> None:
    report(placing, DECODE_1, pages=[6_400])

    decision = (await looked_up(placing, SessionId(""), 6_500)).place(())

    on_decode_1 = [c for c in decision.candidates if c.decode == "decode-1"]
    assert {c.target.moved_tokens for c in on_decode_1 if c.mode is Mode.COMPUTE} == {100}


async def test_a_session_whose_later_turn_ran_at_another_router_is_found_there(
    placing: Placing,
) -> None:
    serve(placing, kept=6_400)
    assert placing.table.of(AGENT).kept is not None
    report(placing, DECODE_1, states=[12_800], session=(AGENT, 12_800))

    decision = (await looked_up(placing, AGENT, 12_900)).place(())

    assert (decision.chosen.mode, decision.chosen.decode) == (Mode.LOCAL, "decode-1")


async def test_a_session_known_by_report_only_is_not_taken_on_trust(placing: Placing) -> None:
    """Its prompt is another one now: a name tells nothing about tokens."""
    report(placing, DECODE_1, session=(AGENT, 6_400))
    placing.kept.take(DECODE_1, KeptChanges(with_state=(b"\1" * 16,)))

    decision = (await looked_up(placing, AGENT, 6_500)).place(())

    assert decision.chosen.plan.computed_tokens == 6_500


@pytest.mark.parametrize(
    "status",
    [
        worker("decode-1", epoch=2),
        worker("decode-1", health=WorkerHealth.LOST),
    ],
    ids=["later life", "lost"],
)
async def test_what_a_past_life_or_a_lost_worker_held_does_not_count(
    placing: Placing, status: WorkerStatus
) -> None:
    report(placing, DECODE_1, states=[6_400])
    placing.update_worker(status)

    decision = (await looked_up(placing, AGENT, 6_500)).place(())

    assert decision.chosen.plan.computed_tokens == 6_500


async def test_what_is_gone_or_forgotten_is_not_found(placing: Placing) -> None:
    prefixes = placing.kept.prefixes
    report(placing, DECODE_1, states=[6_400], pages=[12_800])
    report(placing, worker("decode-0"), states=[6_400])

    report(placing, DECODE_1, gone=[6_400, 64])
    nodes = placing.cluster.nodes
    assert set(prefixes.held([digest(6_400)], PAGE, nodes)) == {"decode-0"}

    # It joins again, and starts with all that it keeps.
    placing.kept.prefixes.forget(WorkerId("decode-0"))
    assert prefixes.held([digest(6_400)], PAGE, nodes) == {}
    placing.gone(DECODE_1)
    assert len(prefixes) == 0


def test_a_state_that_comes_or_goes_changes_the_report(placing: Placing) -> None:
    prefixes, nodes = placing.kept.prefixes, placing.cluster.nodes
    for states, pages, expected in (([64], [], 64), ([], [64], 0), ([64], [], 64)):
        report(placing, DECODE_1, states=states, pages=pages)
        assert prefixes.held([digest(64)], PAGE, nodes) == {"decode-1": (64, expected)}


def test_a_worker_cannot_fill_the_memory(placing: Placing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.membership.kept._MAX_OF_WORKER", 3)

    report(placing, DECODE_1, states=[64, 128, 192, 256])
    report(placing, worker("decode-0"), states=[64])

    assert len(placing.kept.prefixes) == 3


def test_a_reported_session_is_listed_until_its_lease_ends(placing: Placing) -> None:
    report(placing, DECODE_1, session=(AGENT, 6_400))
    (listed,), _ = placing.table.page(0, 10)
    assert (listed.session_id, listed.decode_worker, listed.kept_tokens) == (
        AGENT,
        "decode-1",
        6_400,
    )

    report(placing, DECODE_1, ended=[AGENT])

    assert len(placing.table) == 0


def test_a_session_that_ran_here_stays_known_without_a_lease(placing: Placing) -> None:
    serve(placing)

    report(placing, worker("decode-0"), ended=[AGENT])

    assert held(placing)[WorkerId("decode-0")] == (6_400, 6_400)


def test_prefill_workers_lease_nothing(placing: Placing) -> None:
    report(placing, worker("prefill-0"), session=(AGENT, 6_400))

    assert len(placing.table) == 0


def test_a_report_keeps_the_states_that_a_turn_here_left(placing: Placing) -> None:
    turn = placing.turn(spec())
    turn.place(())
    turn.reserved(0, 0)
    turn.first_token()
    turn.ended(result(6_400))
    turn.leave()
    before = placing.table.of(AGENT).decodes

    report(placing, worker("decode-0"), session=(AGENT, 6_400))

    assert placing.table.of(AGENT).decodes is before


def keeping(name: str, tokens: int, *states: int, epoch: int = 1) -> Keeping:
    return Keeping(worker_id=WorkerId(name), epoch=Epoch(epoch), tokens=tokens, states=states)


ZERO, ONE = keeping("d0", 100, 32, 96), keeping("d1", 80, 64)


@pytest.mark.parametrize(
    ("known", "reported", "after"),
    [
        ((), ONE, (ONE,)),
        # A repeated report has less detail: a lease has one state.
        ((ZERO,), keeping("d0", 100, 96), (ZERO,)),
        ((ZERO, ONE), keeping("d1", 80, 64), (ZERO, ONE)),
        # Another router ran a later turn there.
        ((ZERO,), keeping("d0", 200, 192), (keeping("d0", 200, 192),)),
        ((ZERO, ONE), keeping("d1", 200, 192), (keeping("d1", 200, 192), ZERO)),
        # The rest of an earlier turn.
        ((ZERO,), ONE, (ZERO, ONE)),
        ((ZERO, ONE), keeping("d2", 50), (ZERO, keeping("d2", 50))),
        # Turns shorter than a page: the deeper state is more recent, and a late report is not.
        ((ZERO,), keeping("d1", 100, 99), (keeping("d1", 100, 99), ZERO)),
        ((ZERO,), keeping("d1", 100, 96), (ZERO, keeping("d1", 100, 96))),
        ((ZERO, ONE), keeping("d1", 100, 64), (ZERO, keeping("d1", 100, 64))),
        # A later epoch holds what it reports, and nothing of the earlier one's.
        ((ZERO,), keeping("d0", 100, 96, epoch=2), (keeping("d0", 100, 96, epoch=2),)),
    ],
)
def test_a_report_takes_its_place_among_what_is_known(
    known: tuple[Keeping, ...], reported: Keeping, after: tuple[Keeping, ...]
) -> None:
    assert with_report(known, reported) == after
