"""Drafting and verifying draws from the target's distribution: counted, over many seeds.

All continuations start from one prompt, each with its own seed. The law that they should follow is
computed from transformers' logits and from the definitions of the options, in numpy; a chi-square
test compares the two over the first three tokens together, in which drafts that were accepted and
corrections both take part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from segue.api.types import Sampling
from segue.engine.batch import PrefillChunk
from segue.engine.runner import ModelRunner
from tests.checkpoints import Variant, add_mtp_layer
from tests.conftest import MakeCheckpoint
from tests.engine.answer_law import Floats, Law, Tokens, chi_square, law_of, next_probs, p_value
from tests.engine.drafting import DraftingSequence, draft, target_ids
from tests.runners import new_runner

VOCAB_SIZE = 12
PAGE_TOKENS = 16
# One full page, shared, and a token that is not in the cache yet. Only half of the ids, so that
# penalties on the prompt treat ids differently.
PROMPT = [i * i % 7 for i in range(PAGE_TOKENS + 1)]
NUM_TOKENS = 3
NUM_DRAFTS = 2
MAX_DRAFTS = 4
MAX_BATCH = 500
MIN_P_VALUE = 1e-4

KINDS = {
    "temperature": Sampling(temperature=0.5),
    "top-k": Sampling(temperature=0.8, top_k=5),
    "top-p": Sampling(temperature=0.8, top_p=0.75),
    "min-p": Sampling(temperature=0.8, min_p=0.2),
    "repetition": Sampling(temperature=0.5, repetition_penalty=2.5),
    "presence and frequency": Sampling(
        temperature=0.5, presence_penalty=0.9, frequency_penalty=0.6
    ),
    "all of them": Sampling(
        temperature=0.9,
        top_k=9,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.3,
        presence_penalty=0.2,
        frequency_penalty=0.3,
    ),
}
NUM_ANSWERS = {
    "temperature": 6_000,
    "top-k": 4_000,
    "top-p": 2_000,
    "min-p": 3_000,
    "repetition": 2_000,
    "presence and frequency": 2_000,
    "all of them": 1_500,
}
"""Fewer where an option makes sampling slow. `-m slow` draws 20,000 of each."""
assert sum(NUM_ANSWERS.values()) >= 20_000
NUM_WRONG = 1_000

Rule = Callable[[DraftingSequence, Sequence[int], Sequence[int]], Sequence[int]]
"""From a sequence, its drafts and the trunk's own tokens to those that count as the trunk's."""


@pytest.fixture(scope="module")
def trunk(make_checkpoint: MakeCheckpoint) -> Path:
    changes: dict[str, object] = {
        "vocab_size": VOCAB_SIZE,
        "initializer_range": 0.1,
        # One of each kind.
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
    }
    return make_checkpoint(Variant(changes=changes))


@pytest.fixture(scope="module")
def runner(trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    """Page 0 and slot 0 hold the prompt without its last token."""
    runner = new_runner(
        add_mtp_layer(trunk, tmp_path_factory.mktemp("law") / "mtp"),
        page_tokens=PAGE_TOKENS,
        num_pages=1 + MAX_BATCH,
        num_slots=1 + MAX_BATCH * (MAX_DRAFTS + 1),
    )
    prompt = PrefillChunk(token_ids=PROMPT[:-1], start=0, page_ids=[0], slot_in=None, slot_out=0)
    runner.forward([prompt])
    return runner


@pytest.fixture(scope="module")
def logits(trunk: Path) -> dict[Tokens, Floats]:
    """transformers' logits after the prompt and each prefix of an answer."""
    oracle = AutoModelForCausalLM.from_pretrained(trunk, dtype=torch.float32).eval()
    after = {}
    for length in range(NUM_TOKENS):
        answers = list(product(range(VOCAB_SIZE), repeat=length))
        with torch.inference_mode():
            output = oracle(torch.tensor([[*PROMPT, *answer] for answer in answers]))
        after |= zip(answers, output.logits[:, -1].double().numpy(), strict=True)
    return after


@pytest.fixture(scope="module")
def drawn(runner: ModelRunner) -> Callable[[str], Drawn]:
    """Answers of a kind; the same when asked again."""
    known: dict[str, Drawn] = {}

    def of(kind: str) -> Drawn:
        if kind not in known:
            known[kind] = draw(runner, KINDS[kind], NUM_ANSWERS[kind], first_seed=first_seed(kind))
        return known[kind]

    return of


def first_seed(kind: str) -> int:
    """Kinds share no seed, so their statistics are independent."""
    return 1_000_000 * list(KINDS).index(kind)


@dataclass(frozen=True, slots=True)
class Drawn:
    counts: Counter[Tokens]
    num_accepted: int
    num_corrected: int


def forks(
    runner: ModelRunner, params: Sequence[Sampling], num_drafts: int
) -> list[DraftingSequence]:
    """Each continues from the prompt, with its own page and slots."""
    num_slots = num_drafts + 1
    sequences = []
    for i, each in enumerate(params):
        slots = range(1 + i * num_slots, 1 + (i + 1) * num_slots)
        sequence = DraftingSequence(runner, [0, 1 + i], slots, PROMPT, each)
        sequence.fork(slot=0)
        sequences.append(sequence)
    return sequences


def answer(
    runner: ModelRunner,
    sequences: Sequence[DraftingSequence],
    num_tokens: int,
    num_drafts: int,
    rule: Rule,
) -> Iterator[tuple[int, int]]:
    """Until all have so many tokens: drafts and how many of them were accepted, chunk by chunk."""
    running = list(sequences)
    while running:
        nums = [min(num_drafts, num_tokens - s.num_answered - 1) for s in running]
        drafts = draft(runner, running, nums)
        targets = target_ids(runner, running, drafts)
        for sequence, some, own in zip(running, drafts, targets, strict=True):
            yield len(some), sequence.verified(some, rule(sequence, some, own))
        # Those that draft most come first.
        running = sorted(
            (s for s in running if s.num_answered < num_tokens), key=lambda s: s.num_answered
        )


def as_they_are(_: DraftingSequence, __: Sequence[int], targets: Sequence[int]) -> Sequence[int]:
    return targets


def draw(
    runner: ModelRunner,
    params: Sampling,
    num: int,
    *,
    first_seed: int,
    rule: Rule = as_they_are,
) -> Drawn:
    counts: Counter[Tokens] = Counter()
    num_accepted = num_corrected = 0
    for start in range(0, num, MAX_BATCH):
        seeds = range(first_seed + start, first_seed + min(start + MAX_BATCH, num))
        sequences = forks(runner, [replace(params, seed=seed) for seed in seeds], NUM_DRAFTS)
        for drafted, accepted in answer(runner, sequences, NUM_TOKENS, NUM_DRAFTS, rule):
            num_accepted += accepted
            num_corrected += accepted < drafted
        counts.update(tuple(s.tokens[len(PROMPT) :]) for s in sequences)
    return Drawn(counts, num_accepted, num_corrected)


def check(drawn: Drawn, law: Law) -> None:
    assert set(drawn.counts) <= set(law), "an answer that cannot be"
    statistic, degrees = chi_square(drawn.counts, law)
    assert degrees >= 25
    assert p_value(statistic, degrees) > MIN_P_VALUE, f"chi-square {statistic} of {degrees}"
    num = drawn.counts.total()
    assert drawn.num_accepted > num / 10
    assert drawn.num_corrected > num / 10


@pytest.mark.parametrize("kind", KINDS)
def test_answers_follow_the_targets_law(
    drawn: Callable[[str], Drawn], logits: dict[Tokens, Floats], kind: str
) -> None:
    check(drawn(kind), law_of(logits, PROMPT, KINDS[kind]))


def test_answers_of_all_kinds_together_follow_it(
    drawn: Callable[[str], Drawn], logits: dict[Tokens, Floats]
) -> None:
    """Sums of independent chi-squares are chi-square: one statistic over 20,000 answers and
    more, for what is too small to show in one kind."""
    parts = [chi_square(drawn(kind).counts, law_of(logits, PROMPT, KINDS[kind])) for kind in KINDS]
    statistic, degrees = (sum(column) for column in zip(*parts, strict=True))

    assert p_value(statistic, int(degrees)) > MIN_P_VALUE


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_thousand_answers_of_each_kind_follow_it(
    runner: ModelRunner, logits: dict[Tokens, Floats], kind: str
) -> None:
    seed = first_seed(kind) + NUM_ANSWERS[kind]
    check(draw(runner, KINDS[kind], 20_000, first_seed=seed), law_of(logits, PROMPT, KINDS[kind]))


def every_draft(_: DraftingSequence, drafts: Sequence[int], targets: Sequence[int]) -> list[int]:
    return [*drafts, targets[-1]]


def test_accepting_every_draft_is_detected(
    runner: ModelRunner, logits: dict[Tokens, Floats]
) -> None:
    params = KINDS["temperature"]

    wrong = draw(runner, params, NUM_WRONG, first_seed=0, rule=every_draft)

    assert wrong.num_corrected == 0
    assert p_value(*chi_square(wrong.counts, law_of(logits, PROMPT, params))) < 1e-12


def test_sampling_again_after_a_wrong_draft_is_detected(
    runner: ModelRunner, logits: dict[Tokens, Floats]
) -> None:
    """A draft is accepted where it is right, else the token is a fresh draw from the true
    distribution. It sounds right, and prefers what drafts prefer."""
    params = KINDS["temperature"]
    generator = np.random.default_rng(0)

    def rule(
        sequence: DraftingSequence, drafts: Sequence[int], targets: Sequence[int]
    ) -> Sequence[int]:
        new = list(targets)
        for j, draft_id in enumerate(drafts):
            if draft_id != targets[j]:
                answer = (*sequence.tokens[len(PROMPT) :], *drafts[:j])
                probs_V = next_probs(logits[answer], PROMPT, answer, params)
                new[j] = int(generator.choice(VOCAB_SIZE, p=probs_V))
                break
        return new

    wrong = draw(runner, params, NUM_WRONG, first_seed=0, rule=rule)

    assert p_value(*chi_square(wrong.counts, law_of(logits, PROMPT, params))) < MIN_P_VALUE


def test_a_seed_gives_the_same_answer_for_any_number_of_drafts_in_any_batch(
    runner: ModelRunner,
) -> None:
    """Neighbours in a batch are of all kinds, and others in every batch size."""
    num_tokens = 12
    params = [replace(each, seed=seed) for seed in range(2) for each in KINDS.values()]

    def answers(num_drafts: int, batch_size: int) -> list[list[int]]:
        found = []
        for start in range(0, len(params), batch_size):
            batch = forks(runner, params[start : start + batch_size], num_drafts)
            verified = list(answer(runner, batch, num_tokens, num_drafts, as_they_are))
            assert not num_drafts or any(accepted for _, accepted in verified)
            found += [s.tokens[len(PROMPT) :][:num_tokens] for s in batch]
        return found

    plain = answers(num_drafts=0, batch_size=len(params))

    assert len(set(map(tuple, plain))) > len(params) / 2
    assert answers(num_drafts=0, batch_size=1) == plain
    assert answers(num_drafts=1, batch_size=5) == plain
    assert answers(num_drafts=2, batch_size=len(params)) == plain
    assert answers(num_drafts=4, batch_size=3) == plain
