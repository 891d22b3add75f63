"""Drafts are chosen among frequent tokens; only their rows of the head are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scripts.quantize import quantize
from segue.demo import checkpoint_dir
from segue.engine.config import EngineConfig
from segue.engine.served_model import ServedModel
from segue.model.checkpoint.loading import load_weights
from segue.model.mtp import NEVER, DraftHead
from segue.model.weight import weight_of
from segue.model.weights.draft_tokens import frequent_tokens, share_of, tokens_of_folder
from segue.parallel.group import ALONE
from segue.parallel.rank import Rank

TOKENS = (range(100), range(250, 253))


@pytest.mark.parametrize(
    ("added", "count", "expected"),
    [
        ([], 100, (range(100),)),
        ([290, 291, 292], 100, (range(100), range(290, 293))),
        ([292, 5, 290, 290, 400], 100, (range(100), range(290, 291), range(292, 293))),
        ([100, 101], 100, (range(102),)),
        ([100, 102], 100, (range(101), range(102, 103))),
        ([299], 299, None),
        ([], 1, (range(1),)),
    ],
)
def test_low_ids_and_added_tokens_may_be_drafted(
    added: list[int], count: int, expected: tuple[range, ...] | None
) -> None:
    assert frequent_tokens(300, added, count) == expected


@pytest.mark.parametrize("count", [0, 1536, 5000])
def test_a_small_vocabulary_is_used_as_a_whole(count: int) -> None:
    assert tokens_of_folder(checkpoint_dir(), 1536, count) is None


def test_added_tokens_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    served = ServedModel.of(checkpoint_dir(), EngineConfig(draft_vocabulary=1000))
    vocabulary = json.loads((checkpoint_dir() / "tokenizer.json").read_text())
    added = {entry["id"] for entry in vocabulary["added_tokens"]}
    assert served.config.draft_tokens is not None
    drafted = {token for part in served.config.draft_tokens for token in part}

    assert added
    assert drafted == set(range(1000)) | added
    assert tokens_of_folder(tmp_path, 1536, 1000) == (range(1000),)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_each_rank_has_an_equal_share_of_the_tokens(count: int) -> None:
    shares = [share_of(TOKENS, Rank(index=index, count=count)) for index in range(count)]

    assert [t for share in shares for part in share for t in part] == [t for p in TOKENS for t in p]
    assert {sum(map(len, share)) for share in shares[:-1]} <= {-(-103 // count)}


def test_more_ranks_than_tokens_leave_some_without() -> None:
    shares = [share_of((range(5),), Rank(index=index, count=4)) for index in range(4)]

    assert shares == [(range(2),), (range(2, 4),), (range(4, 5),), ()]


@pytest.mark.parametrize("layout", ["plain", "fp8", "nvfp4"])
def test_the_draft_head_is_the_head_at_its_tokens(
    layout: str, mtp_dense: Path, tmp_path: Path
) -> None:
    folder = mtp_dense
    if layout != "plain":
        folder = tmp_path / layout
        quantize(mtp_dense, folder, layout)
    config = replace(ServedModel.of(folder, EngineConfig()).config, draft_tokens=TOKENS)
    weights = load_weights(folder, config, dtype=torch.float32, device="cpu")
    x_DH = torch.randn(3, config.hidden_size, generator=torch.Generator().manual_seed(0))

    whole_DV = weight_of(weights, "lm_head").matmul(x_DH)
    logits_DV = DraftHead(config, weights, ALONE).logits(x_DH)

    may_be = torch.zeros(config.vocab_size, dtype=torch.bool)
    may_be[places(TOKENS)] = True
    torch.testing.assert_close(logits_DV[:, may_be], whole_DV[:, may_be])
    assert (logits_DV[:, ~may_be] == NEVER).all()


def places(tokens: Sequence[range]) -> list[int]:
    return [token for part in tokens for token in part]


def test_a_negative_number_of_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"draft_vocabulary must be >= 0 .* got -1"):
        EngineConfig(draft_vocabulary=-1)
