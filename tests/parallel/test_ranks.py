"""Several ranks, each with a part of the model, compute the same as one, in the same steps.

Sums are in another order than within one product, so logits may differ by their rounding: here by
less than 1e-4 of about 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from scripts.quantize import quantize
from segue.api.errors import InvalidConfig
from segue.engine.served_model import ServedModel
from segue.model.checkpoint.preflight import FolderFacts, check_folder
from segue.model.config import ModelConfig
from segue.parallel.group import ALONE
from segue.parallel.rank import Rank
from tests.checkpoints import Variant, add_mtp_layer, fuse_experts, save_checkpoint
from tests.parallel.jobs import ENGINE, Array, Played, gathered, play, summed
from tests.parallel.rank_processes import RankProcesses, rank_processes

CLOSE = {"rtol": 0.0, "atol": 1e-4}
FOR_FOUR = {"linear_num_key_heads": 4, "linear_num_value_heads": 8}
"""Four ranks have a head each, and share two key/value heads of attention."""
SPLITS = {
    "dense": [(2, 1), (4, 1)],
    "moe": [(2, 1), (2, 2), (4, 2)],
}
CASES = [(kind, *split) for kind, splits in SPLITS.items() for split in splits]


@pytest.fixture(scope="module")
def processes() -> Iterator[RankProcesses]:
    with rank_processes(4) as processes:
        yield processes


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("checkpoints")
    made = {}
    for kind in SPLITS:
        variant = Variant(is_moe=kind == "moe", changes=FOR_FOUR)
        plain = save_checkpoint(base / f"{kind}-plain", variant)
        made[kind] = add_mtp_layer(plain, base / kind)
    return made


@pytest.fixture(scope="module")
def alone(checkpoints: dict[str, Path]) -> dict[str, Played]:
    return {kind: play(ALONE, folder) for kind, folder in checkpoints.items()}


@dataclass(frozen=True, slots=True)
class Case:
    folder: Path
    config: ModelConfig
    expert_groups: int
    one: Played
    ranks: list[Played]


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(
    request: pytest.FixtureRequest,
    processes: RankProcesses,
    checkpoints: dict[str, Path],
    alone: dict[str, Played],
) -> Case:
    kind, count, groups = request.param
    folder = checkpoints[kind]
    return Case(
        folder=folder,
        config=ModelConfig.from_folder(folder),
        expert_groups=groups,
        one=alone[kind],
        ranks=processes.run(play, folder, count=count, expert_groups=groups),
    )


def test_several_ranks_have_the_logits_tokens_and_drafts_of_one(
    case: Case,
) -> None:
    one, ranks = case.one, case.ranks

    assert all(token < 130 for step in one.drafts for of in step for token in of)
    for rank in ranks:
        assert rank.tokens == one.tokens
        assert rank.drafts == one.drafts
        for ours, theirs in zip(rank.logits, one.logits, strict=True):
            np.testing.assert_allclose(ours, theirs, **CLOSE)
        # Every rank could sample.
        for ours, leaders in zip(rank.logits, ranks[0].logits, strict=True):
            np.testing.assert_array_equal(ours, leaders)


def test_a_ranks_cache_is_its_part_of_the_whole_cache(
    case: Case,
) -> None:
    config, one, ranks = case.config, case.one, case.ranks

    for index, played in enumerate(ranks):
        rank = Rank(index=index, count=len(ranks))
        for (group, layer), whole in one.cache.items():
            part = played.cache[group, layer]
            assert part.size < whole.size or group == "hidden"
            np.testing.assert_allclose(part, part_of_field(config, group, whole, rank), **CLOSE)


def facts_of(folder: Path) -> FolderFacts:
    facts = check_folder(folder, skip_tokenizer=True)
    return replace(facts, config=ServedModel.of(folder, ENGINE).config)


@pytest.mark.slow
def test_ranks_share_pages_in_fp8(processes: RankProcesses, checkpoints: dict[str, Path]) -> None:
    """A key that lies at a boundary between two codes may get either: so most bytes are equal."""
    folder = checkpoints["dense"]
    one = play(ALONE, folder, "fp8")
    ranks = processes.run(play, folder, "fp8", count=2, expert_groups=1)

    for index, played in enumerate(ranks):
        assert played.tokens == one.tokens
        for (group, layer), whole in one.cache.items():
            if group == "kv":
                mine = whole[:, :, [index]]
                assert played.cache[group, layer].dtype == np.uint8
                assert (played.cache[group, layer] == mine).mean() > 0.999


def part_of_field(config: ModelConfig, group: str, whole: Array, rank: Rank) -> Array:
    gdn = config.gdn
    if group == "kv":
        return whole[:, :, list(rank.part(config.attention.num_kv_heads))]
    if group == "recurrent":
        return whole[:, list(rank.part(gdn.num_v_heads))]
    if group == "conv":
        queries, keys, values = np.split(whole, [gdn.q_width, 2 * gdn.q_width], axis=1)
        k_heads, v_heads = rank.part(gdn.num_k_heads), rank.part(gdn.num_v_heads)
        own_k = slice(k_heads.start * gdn.k_dim, k_heads.stop * gdn.k_dim)
        own_v = slice(v_heads.start * gdn.v_dim, v_heads.stop * gdn.v_dim)
        return np.concatenate([queries[:, own_k], keys[:, own_k], values[:, own_v]], axis=1)
    return whole


def test_a_rank_loads_as_many_bytes_as_preflight_counts(case: Case) -> None:
    count, groups = len(case.ranks), case.expert_groups
    facts = facts_of(case.folder)

    for index, played in enumerate(case.ranks):
        rank = Rank(index=index, count=count, expert_groups=groups)
        assert played.weight_bytes < case.one.weight_bytes
        assert played.weight_bytes == facts.weight_bytes("float32", mtp=True, rank=rank)


def test_fused_experts_are_read_in_part_as_separate_ones_are(
    processes: RankProcesses, checkpoints: dict[str, Path], alone: dict[str, Played], tmp_path: Path
) -> None:
    for file in checkpoints["moe"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = fuse_experts(load_file(tmp_path / "model.safetensors"), lambda layer: True)
    save_file(tensors, tmp_path / "model.safetensors")

    played = processes.run(play, tmp_path, count=4, expert_groups=2)

    assert [rank.tokens for rank in played] == [alone["moe"].tokens] * 4


FOR_SCALES = {
    **FOR_FOUR,
    "head_dim": 64,
    "linear_value_head_dim": 32,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 256,
}
"""Two ranks' columns of each matrix are whole blocks of 128, except those of routed experts."""


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("scaled")
    plain = save_checkpoint(base / "plain", Variant(is_moe=True, changes=FOR_SCALES))
    return add_mtp_layer(plain, base / "source")


@pytest.mark.parametrize(("layout", "groups"), [("fp8", 2), ("nvfp4", 1), ("mixed", 2)])
def test_quantised_weights_are_read_in_part(
    layout: str, groups: int, processes: RankProcesses, scaled: Path, tmp_path: Path
) -> None:
    folder = tmp_path / layout
    quantize(scaled, folder, layout)
    one = play(ALONE, folder)

    ranks = processes.run(play, folder, count=2, expert_groups=groups)

    facts = facts_of(folder)
    for index, rank in enumerate(ranks):
        assert (rank.tokens, rank.drafts) == (one.tokens, one.drafts)
        for ours, theirs in zip(rank.logits, one.logits, strict=True):
            np.testing.assert_allclose(ours, theirs, **CLOSE)
        part = Rank(index=index, count=2, expert_groups=groups)
        assert rank.weight_bytes == facts.weight_bytes("float32", mtp=True, rank=part)


def test_columns_that_are_not_whole_blocks_are_refused(scaled: Path, tmp_path: Path) -> None:
    quantize(scaled, tmp_path / "fp8", "fp8")
    facts = check_folder(tmp_path / "fp8", skip_tokenizer=True)

    with pytest.raises(InvalidConfig, match=r"columns 0 to 32 of .*experts.*128 columns each"):
        facts.weight_bytes("float32", mtp=True, rank=Rank(count=2))


# The larger one is added up in two steps, and is no multiple of the ranks.
@pytest.mark.parametrize("shape", [(5, 7), (301, 1_111)])
@pytest.mark.parametrize("count", [2, 4])
def test_sums_are_in_rank_order_and_the_same_on_every_rank(
    processes: RankProcesses, count: int, shape: tuple[int, int]
) -> None:
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=shape).astype(np.float32) for _ in range(count)]
    expected = parts[0]
    for part in parts[1:]:
        expected = expected + part

    for got in processes.run(summed, parts, count=count):
        np.testing.assert_array_equal(got, expected)


def test_logits_are_gathered_in_rank_order_though_the_last_rank_has_fewer(
    processes: RankProcesses,
) -> None:
    whole = np.arange(3 * 10, dtype=np.float32).reshape(3, 10)
    columns = [whole[:, :3], whole[:, 3:6], whole[:, 6:9], whole[:, 9:]]

    for got in processes.run(gathered, columns, 10, count=4):
        np.testing.assert_array_equal(got, whole)
