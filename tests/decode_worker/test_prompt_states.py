"""The states of a prompt that a decode worker keeps when it prefills the suffix itself."""

from __future__ import annotations

from decode_worker.engine.sequence import DecodeSequence
from decode_worker.memory.residency import with_kept
from segue.api.prompt import Prompt
from segue.api.turn import FinishReason, ShipReport, TurnResult, TurnSpec, Usage
from segue.api.types import PageId, Sampling, SessionId, SlotId, StopRules, TurnId
from segue.cache.prefix.cache import Hold
from segue.cache.unit_pool import UnitState
from segue.engine.answer import AnswerState
from segue.engine.batch import PrefillChunk
from segue.engine.sampler import SequenceSampler
from segue.engine.speculation.acceptance import SlotRing
from tests.cache.prefix_world import PAGE_TOKENS, prompt
from tests.decode_worker.test_spare_slots import NUM_SLOTS, Desk

STOP = StopRules(max_tokens=8)
TOKENS = tuple(prompt(1, 60))


def spec_of(tokens: tuple[int, ...], *points: int, session: str = "a") -> TurnSpec:
    return TurnSpec(
        turn_id=TurnId("turn"),
        session_id=SessionId(session),
        context=Prompt(tokens),
        sampling=Sampling(seed=0),
        stop=STOP,
        branch_points=points,
    )


class Local(Desk):
    """Turns with local prefill, without a model: the memory that they take and leave."""

    def start(self, spec: TurnSpec) -> tuple[DecodeSequence, tuple[PageId, ...], Hold]:
        hold, positions = self.residency.hold_checkpoint(spec)
        num_pages = -(-(len(spec.context) + STOP.max_tokens) // PAGE_TOKENS) - len(hold.pages)
        pages, slot = self.residency.take(hold, num_pages, spec.turn_id)
        spare = self.residency.spare_slots(0, spec.turn_id)
        checkpoint = hold.checkpoint
        sequence = DecodeSequence(
            turn=spec,
            pages=(*hold.pages, *pages),
            resident_tokens=hold.num_tokens,
            ring=SlotRing(slots=(slot, *spare), state=slot, num_tokens=hold.num_tokens),
            answer=AnswerState(stop=STOP, tokenizer=None),
            sampler=SequenceSampler(spec.sampling, vocab_size=9, prompt_ids=(1,)),
            report=ShipReport(),
            resume_slot=checkpoint.slot if checkpoint else None,
            prompt_states=self.residency.slots_for_states(positions, spec.turn_id),
        )
        return sequence, pages, hold

    def end(self, sequence: DecodeSequence, pages: tuple[PageId, ...], hold: Hold) -> TurnResult:
        self.residency.keep(sequence.turn.session_id, sequence, pages, hold)
        result = TurnResult(
            finish_reason=FinishReason.STOP, usage=Usage(), report=ShipReport(), decode_s=0.0
        )
        result = with_kept(result, sequence.turn, hold)
        self.cache.release(hold)
        return result

    def turn(self, spec: TurnSpec, num_answered: int = 0) -> tuple[int, TurnResult]:
        """Returns the position it resumed from, and the states that it left."""
        sequence, pages, hold = self.start(spec)
        start = hold.num_tokens
        chunk = sequence.next_chunk(PAGE_TOKENS)
        assert isinstance(chunk, PrefillChunk)
        assert chunk.positions_kept == sorted(chunk.positions_kept)
        sequence.prompt_computed(PAGE_TOKENS)
        for _ in range(num_answered):
            sequence.answer_ids.append(7)
            sequence.stepped(0, 1, 1, PAGE_TOKENS)
        return start, self.end(sequence, pages, hold)


async def test_a_re_rendered_history_resumes_before_the_difference() -> None:
    desk = Local()
    desk.turn(spec_of(TOKENS[:21], 18), num_answered=8)

    start, _ = desk.turn(spec_of((*TOKENS[:18], *range(500, 520))))

    assert start == 16
    await desk.close()


async def test_the_kept_states_include_every_position_to_resume_from() -> None:
    desk = Local()

    _, result = desk.turn(spec_of(TOKENS[:24], 10, 18), num_answered=6)

    # Before each branch point, before the prompt's last token, and in the answer.
    assert result.kept_states == (8, 16, 20, 28)
    assert (result.kept_tokens, result.kept_checkpoint_tokens) == (28, 28)
    await desk.close()


async def test_a_state_is_kept_where_another_prompt_branched_off() -> None:
    desk = Local()
    desk.turn(spec_of(TOKENS[:41]))
    others = [(*TOKENS[:30], *range(500 + i, 508 + i)) for i in (0, 20, 40)]

    starts = [desk.turn(spec_of(other, session=f"s{i}"))[0] for i, other in enumerate(others)]

    assert starts == [0, 28, 28]
    await desk.close()


async def test_a_turn_dropped_during_its_prompt_leaves_no_state_and_no_slot() -> None:
    desk = Local()
    sequence, pages, hold = desk.start(spec_of(TOKENS[:24], 10, 18))
    assert len(sequence.prompt_states) == 3

    result = desk.end(sequence, pages, hold)

    assert result.kept_states == ()
    assert desk.slots.counts().free == NUM_SLOTS
    await desk.close()


async def test_without_room_the_ring_keeps_the_last_state() -> None:
    desk = Local()
    taken = desk.slots.take(NUM_SLOTS - 2, UnitState.WORKING)

    _, result = desk.turn(spec_of(TOKENS[:23], 10, 18))

    assert result.kept_states == (20,)
    await desk.close(*taken)


async def test_with_room_for_one_state_it_is_at_the_next_turns_branch_point() -> None:
    desk = Local()
    taken: tuple[SlotId, ...] = desk.slots.take(NUM_SLOTS - 3, UnitState.WORKING)

    _, result = desk.turn(spec_of(TOKENS[:27], 10, 18))

    assert result.kept_states == (16, 24)
    await desk.close(*taken)


async def test_no_lease_is_revoked_for_prompt_states() -> None:
    desk = Local()
    for number in range(4):
        desk.turn(spec_of(tuple(prompt(number + 1, 9)), session=f"s{number}"))
    taken = desk.slots.take(desk.slots.counts().free, UnitState.WORKING)

    assert desk.residency.slots_for_states((4, 8), TurnId("t")) == {}
    assert len(desk.cache.leases.all()) == 4
    await desk.close(*taken)
