"""FlashInfer computes prompts: what it is given means the same as our batch, and it is only given
what it can compute. The package itself is needed on a GPU only."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

from segue.kernels.paged_attention.flashinfer import prompts
from segue.kernels.paged_attention.flashinfer.page_lists import PageLists, PageSpan
from segue.kernels.paged_attention.flashinfer.prompts import PromptAttention
from segue.kernels.paged_attention.flashinfer.suitable import AttentionShape, Gpu, fills, why_not
from segue.kernels.paged_attention.flashinfer.trial import by_reference, trial_spans, try_out
from tests.kernels.closeness import assert_close, randn
from tests.kernels.device import DEVICE
from tests.kernels.flashinfer_semantics import PACKAGE, Wrapper, remembered_calls
from tests.kernels.paged_pool import Pool

H200 = Gpu(capability=(9, 0), num_multiprocessors=132)
B200 = Gpu(capability=(10, 0), num_multiprocessors=148)
SERVED = AttentionShape(
    num_heads=16,
    num_kv_heads=4,
    head_dim=256,
    page_tokens=16,
    dtype=torch.bfloat16,
    page_dtype=torch.bfloat16,
)
SMALL = replace(SERVED, num_heads=4, num_kv_heads=2, head_dim=64, page_tokens=8)


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch) -> PromptAttention:
    """Of float16, which the reference computes on any CPU."""
    monkeypatch.setattr(prompts, "package", lambda: PACKAGE)
    shape = replace(SMALL, dtype=torch.float16, page_dtype=torch.float16)
    return PromptAttention(shape, torch.device("cpu"), H200)


def test_lists_of_several_sequences() -> None:
    spans = [
        PageSpan(start=0, num_tokens=8, page_ids=[5, 9, 9]),
        PageSpan(start=8, num_tokens=1, page_ids=[2, 7]),
        PageSpan(start=3, num_tokens=20, page_ids=[1, 0, 4]),
    ]

    lists = PageLists.of(spans, page_tokens=8)

    assert lists.qo_indptr_N1.tolist() == [0, 8, 9, 29]
    assert lists.kv_indptr_N1.tolist() == [0, 1, 3, 6]
    assert lists.kv_indices_K.tolist() == [5, 2, 7, 1, 0, 4]
    assert lists.last_page_len_N.tolist() == [8, 1, 7]
    pages, offsets = lists.tails(page_tokens=8)
    assert pages.tolist() == [*[7] * 7, 4]
    assert offsets.tolist() == [1, 2, 3, 4, 5, 6, 7, 7]


@pytest.mark.parametrize("gpu", [H200, B200])
@pytest.mark.parametrize("heads", [(4, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("page_tokens", [4, 16])
def test_what_it_is_given_means_our_batch(
    heads: tuple[int, int], page_tokens: int, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With prefixes, pages that are partly full, and whole ones; what no token wrote is NaN."""
    monkeypatch.setattr(prompts, "package", lambda: PACKAGE)
    starts, lengths = [0, 15, 16, 3], [20, 1, 16, 13]
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    shape = replace(SMALL, num_heads=heads[0], num_kv_heads=heads[1], page_tokens=page_tokens)
    shape = replace(shape, dtype=torch.float16, page_dtype=torch.float16)
    pool = Pool(
        ends,
        page_tokens=page_tokens,
        num_kv_heads=heads[1],
        dtype=torch.float16,
        head_dim=shape.head_dim,
    )
    q = randn(sum(lengths), heads[0], shape.head_dim, seed=5, dtype=torch.float16)
    spans = [
        PageSpan(start=start, num_tokens=length, page_ids=row)
        for start, length, row in zip(starts, lengths, pool.table.tolist(), strict=True)
    ]
    pool.pages = pool.pages.cpu()

    attend = PromptAttention(shape, torch.device("cpu"), gpu, always=True).plan(spans)

    assert attend is not None
    assert_close(attend(q, pool.pages), by_reference(q, pool.pages, spans), torch.float16)


@pytest.mark.parametrize(
    ("changes", "gpu", "reason"),
    [
        ({}, H200, None),
        ({}, B200, None),
        ({}, replace(B200, capability=(10, 3)), None),
        ({"dtype": torch.float16, "page_dtype": torch.float16}, H200, None),
        ({"head_dim": 128, "num_kv_heads": 1, "page_tokens": 64}, H200, None),
        ({}, replace(H200, capability=(8, 0)), "capability 8.0"),
        ({}, replace(B200, capability=(12, 0)), "capability 12.0"),
        ({"dtype": torch.float32, "page_dtype": torch.float32}, H200, "queries must be in bfl"),
        ({"page_dtype": torch.float8_e4m3fn}, H200, "pages must be in the dtype of queries"),
        ({"page_dtype": torch.float8_e4m3fn}, B200, "pages must be in the dtype of queries"),
        ({"head_dim": 96}, H200, "head dimension must be one of"),
        ({"page_tokens": 48}, B200, "power of two of tokens, and has 48"),
    ],
)
def test_what_it_can_compute(changes: dict[str, object], gpu: Gpu, reason: str | None) -> None:
    answer = why_not(replace(SERVED, **changes), gpu)  # type: ignore[arg-type]

    assert (answer is None) == (reason is None)
    assert reason is None or reason in str(answer)


@pytest.mark.parametrize(
    ("lengths", "num_heads", "gpu", "answer"),
    [
        # A short turn after a long history: too few programs, however long the history.
        ([400], 16, H200, False),
        ([800], 16, H200, True),
        ([800], 8, H200, False),
        ([400], 16, B200, False),
        ([800], 16, B200, True),
        ([600], 16, B200, True),
        ([8192], 8, H200, True),
        ([1] * 16, 16, H200, True),
        ([1], 16, H200, False),
    ],
)
def test_a_chip_must_be_busy(lengths: list[int], num_heads: int, gpu: Gpu, answer: bool) -> None:
    assert fills(lengths, num_heads, gpu) is answer


def test_few_rows_are_left_to_our_kernel_unless_all_are_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prompts, "package", lambda: PACKAGE)
    few, many = ([PageSpan(start=0, num_tokens=n, page_ids=range(999))] for n in (20, 8192))
    where = (SMALL, torch.device("cpu"), H200)
    chosen, always = PromptAttention(*where), PromptAttention(*where, always=True)

    with remembered_calls() as calls:
        answers = [chosen.plan(few), chosen.plan(many), always.plan(few)]

    assert [answer is not None for answer in answers] == [False, True, True]
    assert len(calls.of("plan")) == 2


def test_what_it_cannot_compute_is_refused(attention: PromptAttention) -> None:
    with pytest.raises(ValueError, match=r"capability 8\.9"):
        PromptAttention(SMALL, torch.device("cpu"), replace(H200, capability=(8, 9)))
    assert str(attention) == "FlashInfer 0.0 (fa3)"


def test_a_trial_finds_a_wrong_result(
    attention: PromptAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_out(attention)
    monkeypatch.setattr(Wrapper, "keys_too_many", 1)

    with pytest.raises(RuntimeError, match=r"differs from the reference by 0\.[2-9]"):
        try_out(attention)


def test_the_package_has_the_arguments_that_it_is_given(attention: PromptAttention) -> None:
    package = pytest.importorskip(
        "flashinfer", reason="the package flashinfer-python is not installed"
    )
    real = package.BatchPrefillWithPagedKVCacheWrapper
    with remembered_calls() as calls:
        try_out(PromptAttention(attention.shape, torch.device("cpu"), H200))

    assert {name for name, _, _ in calls.made} == {"__init__", "plan", "run"}
    for name, args, kwargs in calls.made:
        signature = inspect.signature(getattr(real, name))
        names = signature.bind(real, *args, **kwargs).arguments
        # In the order of our conversion: a wrong one would bind too.
        if name == "plan":
            assert list(names)[1:9] == [
                "qo_indptr",
                "paged_kv_indptr",
                "paged_kv_indices",
                "paged_kv_last_page_len",
                "num_qo_heads",
                "num_kv_heads",
                "head_dim_qk",
                "page_size",
            ]
        elif name == "run":
            assert list(names)[1:3] == ["q", "paged_kv_cache"]
            assert "args" not in names
        else:
            assert list(names)[1:3] == ["float_workspace_buffer", "kv_layout"]


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [(8, 2), (16, 4), (16, 2)])
def test_the_package_equals_the_reference(heads: tuple[int, int]) -> None:
    """At the heads of 0.8B, 9B and 35B-A3B; with other prompts beside a prompt, the same bits."""
    pytest.importorskip("flashinfer", reason="the package flashinfer-python is not installed")
    gpu = Gpu.of(torch.device(DEVICE))
    shape = replace(SERVED, num_heads=heads[0], num_kv_heads=heads[1], page_tokens=64)
    if reason := why_not(shape, gpu):
        pytest.skip(reason)
    attention = PromptAttention(shape, torch.device(DEVICE), gpu, always=True)

    try_out(attention)
    starts, lengths = [5000, 0, 77], [300, 700, 1]
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    pool = Pool(ends, page_tokens=64, dtype=torch.bfloat16, head_dim=256, num_kv_heads=heads[1])
    q = randn(1001, heads[0], 256, seed=5, dtype=torch.bfloat16).to(DEVICE)
    spans = [
        PageSpan(start=start, num_tokens=length, page_ids=row)
        for start, length, row in zip(starts, lengths, pool.table.tolist(), strict=True)
    ]
    together = attention.planned(spans)(q, pool.pages)
    torch.cuda.synchronize()

    assert_close(together, by_reference(q, pool.pages, spans), torch.bfloat16)
    for span, rows in zip(spans, (slice(300), slice(300, 1000), slice(1000, 1001)), strict=True):
        alone = attention.planned([span])(q[rows].contiguous(), pool.pages)
        torch.cuda.synchronize()
        assert torch.equal(alone, together[rows])


def test_trials_cover_prefixes_and_partly_full_pages() -> None:
    for page_tokens in (16, 64, 128):
        first, second = trial_spans(page_tokens)
        lists = PageLists.of([first, second], page_tokens)

        assert first.start == 0 < second.start
        assert all(0 < last < page_tokens for last in lists.last_page_len_N.tolist())
        assert sorted([*first.page_ids, *second.page_ids]) == list(range(len(lists.kv_indices_K)))
