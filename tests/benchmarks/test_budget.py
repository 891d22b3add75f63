"""A budget's numbers, compared with arithmetic by hand, preflight and the loader."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks.budget.__main__ import main, parse_tokens
from benchmarks.budget.estimate import Seconds, memory_of, seconds_of, tokens_per_step
from benchmarks.budget.facts import GPUS, Fact, Kind, parse_gpus
from benchmarks.budget.launches import Launches
from benchmarks.budget.report import Setup, report_of
from benchmarks.budget.weights import Part, rank_weights
from benchmarks.budget.work import (
    Item,
    RankModel,
    Work,
    decode_work,
    experts_hit,
    prefill_work,
)
from scripts.quantize import LAYOUTS, quantize
from segue.api.errors import InvalidConfig
from segue.cache.layout import E4M3
from segue.engine.budget import DEVICE_BYTES
from segue.model.checkpoint.loading import load_weights
from segue.model.checkpoint.preflight import check_folder
from segue.model.config import ModelConfig
from segue.parallel.rank import FIRST_OF_ONE, Rank

REAL = Path(__file__).parents[3] / "shared" / "data" / "qwen" / "aiconfigurator"
RANKS = (FIRST_OF_ONE, Rank(count=2), Rank(count=2, expert_groups=2))


@pytest.fixture(scope="module")
def folders(
    mtp_dense: Path, mtp_moe: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    made, base = {"dense": mtp_dense, "moe": mtp_moe}, tmp_path_factory.mktemp("quantized")
    for layout in LAYOUTS:
        made[layout] = base / layout
        quantize(mtp_moe, made[layout], layout)
    return made


DRAFTED = (range(101), range(250, 253))


@pytest.mark.parametrize("mtp", [True, False])
@pytest.mark.parametrize("name", ["dense", "moe", *LAYOUTS])
def test_weights_have_the_bytes_of_preflight(
    name: str, mtp: bool, folders: Mapping[str, Path]
) -> None:
    facts = check_folder(folders[name], skip_tokenizer=True)
    if mtp:
        facts = replace(facts, config=replace(facts.config, draft_tokens=DRAFTED))

    for rank in RANKS:
        if name == "dense" and rank.expert_groups > 1:
            continue
        try:
            expected = facts.weight_bytes("bfloat16", mtp=mtp, rank=rank)
        except InvalidConfig:
            assert rank.count > 1
            with pytest.raises(InvalidConfig, match="tensor_parallel"):
                rank_weights(facts.config, rank, dtype="bfloat16", mtp=mtp)
            continue

        weights = rank_weights(facts.config, rank, dtype="bfloat16", mtp=mtp)

        assert weights.num_bytes == expected


@pytest.mark.parametrize("name", ["moe", "nvfp4"])
def test_weights_have_the_bytes_of_the_loader(name: str, folders: Mapping[str, Path]) -> None:
    config, rank = ModelConfig.from_folder(folders[name]), Rank(count=2, expert_groups=2)
    config = replace(config, draft_tokens=DRAFTED)

    loaded = load_weights(
        folders[name], config, dtype=torch.bfloat16, device="cpu", rank=rank
    ).values()

    weights = rank_weights(config, rank, dtype="bfloat16", mtp=True)
    assert weights.num_bytes == sum(weight.nbytes for weight in loaded)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_drafts_read_the_rows_of_their_tokens(num_ranks: int, mtp_dense: Path) -> None:
    whole, rank = ModelConfig.from_folder(mtp_dense), Rank(count=num_ranks)
    read = [
        next(i.num_bytes for i in work.items if i.name == "drafts")
        for config in (whole, replace(whole, draft_tokens=(range(100), range(250, 260))))
        for model in [RankModel.of(config, rank, dtype="bfloat16", page_tokens=16)]
        for work in [decode_work(model, batch=1, num_drafts=2, context=100)]
    ]

    assert read[0] - read[1] == 2 * (300 - 110) // num_ranks * 64 * 2


def test_a_tiny_model_by_hand(tiny_dense: Path) -> None:
    config = ModelConfig.from_folder(tiny_dense)
    model = RankModel.of(config, FIRST_OF_ONE, dtype="bfloat16", page_tokens=16)

    # Three layers of Gated Delta Net: 264 rows in, a convolution, 96 columns out; one of
    # attention: 384 rows in, 128 columns out; four MLPs of 96; vectors in float32.
    gdn = 264 * 64 * 2 + 160 * 4 * 4 + (4 + 4 + 24) * 4 + 64 * 96 * 2
    attention = 384 * 64 * 2 + 2 * 32 * 4 + 64 * 128 * 2
    mlp = 3 * 64 * 96 * 2 + 2 * 64 * 4
    layers = 3 * gdn + attention + 4 * mlp + 64 * 4
    work = decode_work(model, batch=2, num_drafts=0, context=100)

    assert model.weights.sizes[Part.LAYERS].num_bytes == layers == 361_856
    assert {item.name: item.num_bytes for item in work.items} == {
        "layers": layers,
        "routed experts": 0,
        "keys and values": (2 * 100 + 2) * 2 * 2 * 32 * 2,
        "states": (2 + 2) * 3 * (4 * 16 * 24 * 4 + 160 * 3 * 2),
        "head": 300 * 64 * 2,
    }
    matrices = 3 * (264 * 64 + 160 * 4 + 64 * 96) + 384 * 64 + 64 * 128 + 4 * 3 * 64 * 96
    flops = {item.name: item.flops for item in work.items}
    assert flops["layers"] == 2 * 2 * matrices
    assert flops["keys and values"] == 4 * 4 * 32 * 200
    assert (work.num_sums, work.num_gathers, work.sum_bytes) == (0, 0, 0)


def test_the_397b_on_eight_ranks_by_hand(tmp_path: Path) -> None:
    config = real_config("nvidia--Qwen3.5-397B-A17B-NVFP4", tmp_path)
    model = RankModel.of(config, Rank(count=8), dtype="bfloat16", page_tokens=64)

    # A rank has 128 of an expert's 1,024 columns: packed codes, a scale for 16, one for a row.
    codes = 3 * 4096 * 128 // 2
    scales = 256 * 256 + 4096 * 8 + 4 * (256 + 4096)
    expert = model.weights.sizes[Part.EXPERTS].num_bytes
    work = decode_work(model, batch=1, num_drafts=3, context=131_072)
    turn = prefill_work(model, num_tokens=800, resident=50_000)

    assert expert == 60 * (codes + scales)
    assert model.kv_bytes(draft=False) == 15 * 2 * 256 * 2
    assert model.kv_bytes(draft=True) == 2 * 256 * 2
    # 45 layers of 8 value heads of 128 x 128, 1,536 channels of 3 inputs; a hidden state.
    assert model.layout.slot_bytes == 45 * (8 * 128 * 128 * 4 + 1536 * 3 * 2) + 4096 * 2
    items = {item.name: item.num_bytes for item in work.items}
    assert items["routed experts"] == expert * 512 * (1 - (502 / 512) ** 4)
    assert items["keys and values"] == (131_072 + 4) * 15_360
    assert items["head"] == 248_320 // 8 * 4096 * 2
    assert (work.num_sums, work.num_gathers) == (2 * 60 + 3 * 2, 4)
    outputs, logits = 2 * (4 * 120 + 3 * 2) * 4096, 4 * (4 + 3) * 31_040
    assert work.sum_bytes == 7 * (outputs + logits)
    # In two steps: seven eighths of 800 rows there and back.
    assert turn.sum_bytes == 2 * 7 / 8 * 2 * 800 * 120 * 4096 + 7 * 4 * 31_040
    pairs = 800 * 50_000 + 800 * 801 / 2
    assert {i.name: i.flops for i in turn.items}["keys and values"] == 4 * 4 * 256 * 15 * pairs


def real_config(name: str, tmp_path: Path) -> ModelConfig:
    source = REAL / f"{name}_config.json"
    if not source.is_file():
        pytest.skip(f"the published configurations are not on this machine: no {source}")
    shutil.copy(source, tmp_path / "config.json")
    return ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("num_experts", "per_token", "num_tokens", "groups", "expected"),
    [
        (8, 2, 1, 1, 2.0),
        (8, 2, 2, 1, 3.5),
        (8, 8, 1, 2, 4.0),
        (512, 10, 4096, 8, 64.0),
    ],
)
def test_experts_that_a_pass_reads(
    num_experts: int, per_token: int, num_tokens: int, groups: int, expected: float
) -> None:
    assert experts_hit(num_experts, per_token, num_tokens, groups) == expected


def test_the_fullest_of_eight_groups_has_more_than_its_share() -> None:
    assert 10 / 8 < experts_hit(512, 10, 1, 8) < 10 / 2


def test_seconds() -> None:
    work = Work(
        items=(Item("reads", 4.3e9, 0), Item("computes", 0, 989e9)),
        is_step=True,
        launches=Launches(kernels=70, products=20, operations=10),
        num_sums=10,
        num_gathers=0,
        sum_bytes=450e3,
    )
    gpu = GPUS["H200"]

    captured = seconds_of(work, gpu, 4)
    eager = seconds_of(replace(work, is_step=False), gpu, 4)

    assert captured.items == pytest.approx({"reads": 1e-3, "computes": 2e-3})
    assert captured.exchanges == pytest.approx(10 * 5e-6 + 1e-6)
    assert captured.launches == pytest.approx((100 + 10) * 2e-6)
    assert captured.total == pytest.approx(3.271e-3)
    assert seconds_of(work, gpu, 16).launches == pytest.approx((100 + 10 * 2) * 2e-6)
    assert eager.launches == pytest.approx((100 + 10 * 3) * 6e-6)
    assert eager.total == pytest.approx(3.051e-3), "the host launches beside the GPU's work"
    assert not eager.is_captured
    slow = Seconds(items={"reads": 1.0}, exchanges=0.5, launches=2.0, is_captured=False)
    assert slow.total == 2.0


def test_tokens_per_step() -> None:
    assert tokens_per_step(0, 0.9) == 1
    assert tokens_per_step(3, 0.5) == 1.875
    assert tokens_per_step(3, 1.0) == 4


def test_sessions_fit_beside_weights(mtp_moe: Path) -> None:
    model = RankModel.of(
        ModelConfig.from_folder(mtp_moe), FIRST_OF_ONE, dtype="bfloat16", page_tokens=16
    )
    weights = model.weights.num_bytes
    session = 7 * model.layout.page_bytes + 5 * model.layout.slot_bytes
    beside = DEVICE_BYTES + weights + weights // 20
    for spare, expected in ((-1, 0), (session - 1, 0), (3 * session, 3)):
        gpu = replace(GPUS["H200"], memory_bytes=Fact(beside + spare, Kind.ASSUMED, ""))

        memory = memory_of(model, gpu, context=100, num_drafts=3)

        assert (memory.session_bytes, memory.num_sessions) == (session, expected)


def test_speed_for_users(tiny_moe: Path) -> None:
    setup = Setup(
        gpu=GPUS["H200"],
        num_gpus=2,
        rank=Rank(count=2),
        context=1000,
        batch=4,
        num_drafts=0,
        acceptance=Fact(0.5, Kind.ASSUMED, ""),
        draft_vocabulary=0,
        dtype="bfloat16",
    )
    report = report_of(ModelConfig.from_folder(tiny_moe), setup)
    step_s = report.passes[0].seconds.total

    assert report.tokens_per_s == pytest.approx(1 / step_s)
    assert report.tokens_per_minute == pytest.approx(60 * 4 / step_s / 2)
    with pytest.raises(InvalidConfig, match="--drafts must be 0"):
        report_of(ModelConfig.from_folder(tiny_moe), replace(setup, num_drafts=1))
    with pytest.raises(InvalidConfig, match="3 GPUs must be a multiple of --tp = 2"):
        replace(setup, num_gpus=3)


def test_the_command_needs_only_config_json(mtp_moe: Path, tmp_path: Path) -> None:
    shutil.copy(mtp_moe / "config.json", tmp_path)
    app, result = typer.Typer(), tmp_path / "budget.json"
    app.command()(main)
    options = [str(tmp_path), "--gpus", "4xH200", "--tp", "2", "--ep", "2", "--context", "2k"]

    done = CliRunner().invoke(app, [*options, "--json", str(result)])

    assert done.exit_code == 0, done.output
    assert "4 x H200, 2 for each worker, experts in 2 groups" in done.output
    for kind in Kind:
        assert f"| {kind} |" in done.output
    assert json.loads(result.read_text())["setup"]["context"] == 2048

    for wrong, message in (
        (["--gpus", "8xA1"], "one of H200, B200"),
        (["--tp", "3"], "multiple of"),
        (["--context", "many"], "--context must be a number"),
        (["--kv-dtype", "int4"], "--kv-dtype must be auto, fp8 or one of"),
        (["--acceptance", "2"], "--acceptance must be in"),
        (["--drafts", "9"], "--drafts must be in"),
    ):
        refused = CliRunner().invoke(app, [*options, *wrong])
        assert refused.exit_code == 1
        assert message in refused.output


def test_options_are_parsed() -> None:
    assert parse_tokens("128k") == 131_072
    assert parse_tokens("1M") == 1 << 20
    assert parse_tokens("50000") == 50_000
    assert parse_gpus("8xB200") == (8, GPUS["B200"])
    assert parse_gpus("H200") == (1, GPUS["H200"])
    for wrong in ("0xB200", "B20", "x", "-1xB200"):
        with pytest.raises(InvalidConfig, match="--gpus must be"):
            parse_gpus(wrong)


def test_pages_in_fp8_have_half_the_bytes_of_bfloat16(folders: Mapping[str, Path]) -> None:
    config = ModelConfig.from_folder(folders["dense"])
    plain, small = (
        RankModel.of(config, FIRST_OF_ONE, dtype="bfloat16", page_tokens=16, kv_dtype=kv_dtype)
        for kv_dtype in ("", E4M3)
    )

    for draft in (False, True):
        assert 2 * small.kv_bytes(draft=draft) == plain.kv_bytes(draft=draft)
    assert small.layout.slot_bytes == plain.layout.slot_bytes
    options = [str(folders["dense"]), "--gpus", "1xH200", "--context", "2k", "--kv-dtype", "fp8"]
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert f"{config.dtype}, FP8 pages, context 2,048" in done.output
