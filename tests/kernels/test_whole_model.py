"""A whole model on kernels says what it says on references: what the model really passes, with the
dtypes, strides and shapes that it has there, is what each launcher takes and each kernel means."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from segue.api.types import Sampling
from segue.cache.layout import CacheField, Unit
from segue.engine.batch import DecodeChunk, DraftStart, PrefillChunk
from segue.engine.device.buckets import StepShape
from segue.engine.device.buffers import RowStart, StepTables
from segue.engine.device.result import unpack
from segue.engine.device.sampling import DeviceSampling
from segue.engine.device.stream import to_device
from segue.engine.sampler import SamplerRow, SequenceSampler, sample_ids
from segue.kernels import dispatch
from segue.kernels.sampling import EVERYTHING, SamplingFeatures
from segue.kernels.sampling import triton as triton_sampling
from tests.checkpoints import Variant, add_mtp_layer
from tests.conftest import MakeCheckpoint
from tests.kernels.device import DEVICE, DTYPES
from tests.runners import logits_of_all, new_runner

PAGE_TOKENS = 16
NUM_PAGES = 16
NUM_SLOTS = 24
MAX_ERROR = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""Relative, as in closeness.py: of a whole model, in which roundings add up."""
SIZES = {
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
}
"""Kernels take powers of two. Few programs: each takes the interpreter a millisecond or more."""
PENALISED = Sampling(
    temperature=0.7,
    top_k=40,
    top_p=0.9,
    min_p=0.02,
    repetition_penalty=1.2,
    presence_penalty=0.3,
    frequency_penalty=0.2,
    logit_bias={5: 3.0},
    seed=3,
)
PAGES = [[2, 9, 0], [1, 4], [8, 6]]
SLOTS = [[1, 5, 3, 7], [2, 6, 4, 9]]
"""Of the sequences."""


SAMPLE = triton_sampling.sample


def token_ids(num: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(300, (num,), generator=generator).tolist()


LONG, SHORT, FRESH = token_ids(17, 1), token_ids(3, 2), token_ids(5, 3)


def every_third(vocab_size: int, first: int) -> np.ndarray:
    """A mask that allows these tokens only."""
    bits = np.arange(-(-vocab_size // 32) * 32) % 3 == first % 3
    return np.packbits(bits, bitorder="little").view(np.int32)


@dataclass(slots=True)
class Said:
    """By one way of computing it all."""

    logits: list[Tensor] = field(default_factory=list)
    tokens: list[object] = field(default_factory=list)


class Story:
    """The same passes over the same memory, on kernels or on references."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.said = Said()
        self.runner = new_runner(
            folder,
            dtype=str(dtype).removeprefix("torch."),
            device=DEVICE,
            page_tokens=PAGE_TOKENS,
            num_pages=NUM_PAGES,
            num_slots=NUM_SLOTS,
            with_scratch=True,
        )
        # What lies in units that nobody has may be anything; here it is known to have been.
        generator = torch.Generator().manual_seed(4)
        for _, tensor in self.runner.tensors.fields():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        self.before = {each: tensor.clone() for each, tensor in self.runner.tensors.fields()}

    def prefill(self) -> None:
        """A prompt in two chunks, the first with a checkpoint inside, the second beside another."""
        first, second = LONG[:12], LONG[12:]
        self._forward(
            PrefillChunk(
                token_ids=first,
                start=0,
                page_ids=PAGES[0],
                slot_in=None,
                slot_out=1,
                checkpoints=[(5, 12)],
            )
        )
        self._forward(
            PrefillChunk(token_ids=SHORT, start=0, page_ids=PAGES[1], slot_in=None, slot_out=2),
            PrefillChunk(token_ids=second, start=12, page_ids=PAGES[0], slot_in=1, slot_out=1),
        )

    def mix(self) -> None:
        """Decode of one token, prefill, and verify of two drafts."""
        self._forward(
            PrefillChunk(token_ids=[33], start=3, page_ids=PAGES[1], slot_in=2, slot_out=2),
            PrefillChunk(token_ids=FRESH, start=0, page_ids=PAGES[2], slot_in=None, slot_out=11),
            DecodeChunk(
                token_ids=[44, 45, 46],
                start=17,
                page_ids=PAGES[0],
                slot_in=1,
                slots_out=[1, 5, 3],
            ),
        )

    def draft(self) -> None:
        """By the host: two drafts of one sequence, one of the other."""
        drafter = self.runner.drafter(
            [
                DraftStart(position=20, page_ids=PAGES[0], slot=3),
                DraftStart(position=4, page_ids=PAGES[1], slot=2),
            ]
        )
        self.said.logits += [drafter.step([7, 8]), drafter.step([9])]

    def step(
        self,
        params: list[Sampling],
        needs: SamplingFeatures,
        num_drafts: int,
        *,
        in_halves: bool = False,
    ) -> None:
        """A step on the device, with a row of padding. In halves, the first sequence has a mask of
        its own in each round."""
        runner = self.runner
        assert runner.scratch is not None
        tables = StepTables(
            num_rows=4,
            max_slots=4,
            max_context=128,
            page_tokens=PAGE_TOKENS,
            scratch=runner.scratch,
            device=DEVICE,
        )
        vocab_size = runner.config.vocab_size
        sampling = DeviceSampling(
            num_rows=4, vocab_size=vocab_size, device=DEVICE, max_drafts=num_drafts
        )
        device_step = runner.device_step(tables, sampling)
        states = [(20, 3), (4, 2)]
        for row, (one, (position, state)) in enumerate(zip(params, states, strict=True)):
            tables.start(
                row,
                RowStart(
                    last_token=20 + row,
                    position=position,
                    num_left=20,
                    page_ids=PAGES[row],
                    slots=SLOTS[row],
                    state=state,
                    checkpoint=None,
                    end_ids=(),
                ),
            )
            sampling.start(row, one, prompt_ids=SHORT, answer_ids=(20 + row,))
        shape = StepShape(3, num_drafts, 2, with_logprobs=num_drafts > 0, needs=needs)
        rows = to_device([1, 0, tables.pad_row], torch.device(DEVICE))
        if in_halves:
            masks = [every_third(vocab_size, first) for first in range(num_drafts + 1)]
            sampling.set_masks(0, masks[:1])
            drafts = device_step.run(rows, replace(shape, half="draft"))
            self.said.tokens.append(drafts.tolist())
            sampling.set_masks(0, masks)
            shape = replace(shape, half="verify")
        values = device_step.run(rows, shape)
        stepped = unpack(values.cpu(), shape, [None] * 2)
        self.said.tokens.append([[t.token_id for t in one.tokens] for one in stepped])

    def sample(self) -> None:
        """By the host, of logits that the model gave."""
        logits_NV = self._every_row()
        rows = [
            SamplerRow(
                SequenceSampler(params, vocab_size=300, prompt_ids=SHORT, device=DEVICE),
                position=40,
                pending=(20,)[:i],
            )
            for i, params in enumerate([PENALISED, Sampling()])
        ]
        self.said.tokens.append(sample_ids(logits_NV[-2:], rows))

    def _every_row(self) -> Tensor:
        chunk = PrefillChunk(token_ids=SHORT, start=0, page_ids=[13, 14], slot_in=None, slot_out=20)
        self.said.logits.append(logits_of_all(self.runner, chunk))
        return self.said.logits[-1]

    def _forward(self, *chunks: PrefillChunk | DecodeChunk) -> None:
        self.said.logits.append(self.runner.forward(chunks))


def tell(story: Story, patch: pytest.MonkeyPatch, *, on_kernels: bool) -> Story:
    patch.setattr(dispatch, "takes_kernels", lambda _: on_kernels)
    # As much as the vocabulary has: an interpreter works on all of a chunk.
    patch.setattr(triton_sampling, "sample", partial(SAMPLE, chunk=512))
    story.prefill()
    story.mix()
    story.draft()
    story.sample()
    story.step([Sampling()] * 2, SamplingFeatures(), 0)
    story.step([PENALISED, Sampling()], EVERYTHING, 1)
    story.step([Sampling()] * 2, SamplingFeatures(masks=True), 2, in_halves=True)
    return story


@pytest.fixture(scope="module")
def folders(
    make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    return {
        name: add_mtp_layer(
            make_checkpoint(Variant(is_moe=is_moe, changes=dict(SIZES))),
            tmp_path_factory.mktemp("kernels") / name,
        )
        for name, is_moe in (("dense", False), ("moe", True))
    }


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        # With a shared expert this one has all that a dense model has.
        ("moe", DTYPES[1]),
        pytest.param("moe", DTYPES[0], marks=pytest.mark.slow),
        *(pytest.param("dense", dtype, marks=pytest.mark.slow) for dtype in DTYPES),
    ],
)
def test_a_model_on_kernels_is_the_model_on_references(
    folders: dict[str, Path], name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tell(Story(folders[name], dtype), monkeypatch, on_kernels=False)

    told = tell(Story(folders[name], dtype), monkeypatch, on_kernels=True)

    for index, (logits, wanted) in enumerate(
        zip(told.said.logits, expected.said.logits, strict=True)
    ):
        assert_near(logits, wanted, dtype, f"logits {index}")
    assert told.said.tokens == expected.said.tokens
    # The second sequence, which has no masks, is first in the step.
    *_, drafts, (_, masked) = told.said.tokens
    assert drafts[1][0] % 3 == 0
    assert [token % 3 for token in masked] == [0, 1, 2][: len(masked)]
    for each, tensor in told.runner.tensors.fields():
        before, wanted = told.before[each], expected.runner.tensors.of(each.group, each.layer)
        actual, wanted, before = (rows_of(each, x) for x in (tensor, wanted, before))
        is_written = (wanted != before).any(1)
        assert is_written.any()
        assert torch.equal(actual[~is_written], before[~is_written]), f"{each} not left alone"
        assert_near(actual[is_written], wanted[is_written], dtype, f"{each}")


def rows_of(each: CacheField, tensor: Tensor) -> Tensor:
    """What is written at once, of all units but the scratch one: a slot, or a token's place."""
    num_rows = len(tensor) - 1
    if each.unit is Unit.PAGE:
        num_rows *= 2 * PAGE_TOKENS
    return tensor[:-1].reshape(num_rows, -1)


def assert_near(actual: Tensor, wanted: Tensor, dtype: torch.dtype, what: str) -> None:
    actual, wanted = actual.double(), wanted.double()
    error = (actual - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    assert error <= MAX_ERROR[dtype], f"{what}: relative error {error:.1e}"
