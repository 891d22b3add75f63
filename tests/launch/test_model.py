"""The checks before Ray starts and before a download: the model, and its memory."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from segue.api.errors import InvalidCheckpoint, InvalidConfig
from segue.demo import checkpoint_dir
from segue.engine.config import EngineConfig
from segue.engine.host_memory import MachineMemory
from segue.launch.config import ClusterConfig, Config
from segue.launch.model import Machine, described, locate
from segue.model.checkpoint.source import CheckpointConfig
from tests.model.folders import HUGE_MOE, sparse_folder

GIB = 1 << 30
REAL_CONFIGS = Path(__file__).parents[3] / "shared" / "data" / "qwen" / "aiconfigurator"
# From the real configurations: weights without the vision tower, and one slot in MiB.
REAL = {
    "Qwen--Qwen3.5-27B": ("50 GiB", 146),
    "Qwen--Qwen3.5-397B-A17B": ("750 GiB", 183),
}


def machine(free: int, total: int | None = None) -> Machine:
    host = MachineMemory(
        place="this host", total_bytes=(total or free) * GIB, free_bytes=free * GIB
    )
    return Machine(host=host)


def config_of(model: Path | str, **engine: object) -> Config:
    return Config(cluster=ClusterConfig(model=str(model)), engine=EngineConfig(**engine))  # type: ignore[arg-type]  # of the fields


def nowhere(words: str) -> None:
    pass


def test_a_model_that_is_far_too_large_is_refused_at_once_with_the_numbers(tmp_path: Path) -> None:
    folder = sparse_folder(tmp_path / "model", HUGE_MOE)
    started_at = time.monotonic()

    with pytest.raises(InvalidConfig, match=r"weights 999 GiB × 2 workers, this host has 23 GiB"):
        locate(config_of(folder), nowhere, machine=machine(22, total=23))

    assert time.monotonic() - started_at < 2


def test_ranks_count_with_their_part_and_a_model_that_cannot_be_split_is_refused(
    tmp_path: Path,
) -> None:
    folder = sparse_folder(tmp_path / "model", HUGE_MOE)

    with pytest.raises(InvalidConfig, match=r"weights \d+ GiB × 4 ranks"):
        locate(config_of(folder, tensor_parallel=2), nowhere, machine=machine(22))
    with pytest.raises(InvalidConfig, match=r"tensor_parallel = 7.*is not a multiple"):
        locate(config_of(folder, tensor_parallel=7), nowhere, machine=machine(22))


def test_a_model_that_fits_gets_its_slots_by_default(tmp_path: Path) -> None:
    folder = sparse_folder(tmp_path / "model", HUGE_MOE)

    model, config, words = locate(config_of(folder), nowhere, machine=machine(2048))

    assert model == str(folder)
    assert isinstance(config.engine.cache_bytes, int)
    assert config.engine.max_running == 16
    assert words.startswith("memory: 2 workers × (weights 999 GiB + cache ")
    assert "32 slots of 195 MiB" in words
    assert words.endswith("runs 16 turns at once")


def test_a_small_number_of_slots_is_reported(tmp_path: Path) -> None:
    folder = sparse_folder(tmp_path / "model", HUGE_MOE)

    _, config, words = locate(config_of(folder), nowhere, machine=machine(2010))

    num_running = config.engine.max_running
    assert 1 <= num_running < 16
    assert words.endswith(f"runs {num_running} turns at once (max_running = 16 does not fit)")
    num_slots = int(words.split(" slots of 195 MiB")[0].split()[-1])
    assert 2 * num_running <= num_slots < 2 * num_running + 2


@pytest.mark.parametrize("name", REAL)
def test_the_sizes_of_published_configurations_are_right(name: str, tmp_path: Path) -> None:
    path = REAL_CONFIGS / f"{name}_config.json"
    if not path.is_file():
        pytest.skip("the published configurations are not on this machine")
    weights, slot_mib = REAL[name]
    folder = sparse_folder(tmp_path / "model", json.loads(path.read_text()))

    with pytest.raises(InvalidConfig, match=f"weights {weights} × 2 workers, this host has 23 GiB"):
        locate(config_of(folder), nowhere, machine=machine(22, total=23))
    words = locate(config_of(folder), nowhere, machine=machine(2048))[2]

    assert f"32 slots of {slot_mib} MiB" in words or f"32 slots of {slot_mib + 1} MiB" in words


def test_weights_count_in_the_dtype_that_they_are_served_in(tmp_path: Path) -> None:
    small = {**HUGE_MOE, "num_experts": 16, "num_hidden_layers": 4}
    folder = sparse_folder(tmp_path / "model", small)

    def words_of(**engine: object) -> str:
        return locate(config_of(folder, **engine), nowhere, machine=machine(999))[2]

    assert "weights 8.7 GiB" in words_of()
    assert "weights 17 GiB" in words_of(dtype="float32")
    assert "weights 7.8 GiB" in words_of(mtp=False)


def test_the_demo_takes_half_a_gigabyte_per_worker(tmp_path: Path) -> None:
    _, config, words = locate(config_of("demo"), nowhere, machine=machine(24))

    assert isinstance(config.engine.cache_bytes, int)
    assert config.engine.cache_bytes < 600 << 20
    assert "208 slots of 211 KiB and pages for 262144 tokens" in words


def test_without_a_known_memory_size_the_workers_decide() -> None:
    asked = config_of("demo")

    assert locate(asked, nowhere, machine=Machine(host=None))[1] == asked


def test_on_a_gpu_the_driver_reports_the_memory(tmp_path: Path) -> None:
    folder = sparse_folder(tmp_path / "model", HUGE_MOE)
    gpu = MachineMemory(place="the GPU", total_bytes=80 * GIB, free_bytes=79 * GIB)
    has_gpu = replace(machine(100), gpu=gpu)

    with pytest.raises(InvalidConfig, match="weights 999 GiB × 1 worker, the GPU has 80 GiB"):
        locate(config_of(folder, device="cuda"), nowhere, machine=has_gpu)
    asked = config_of("demo", device="cuda")
    _, config, words = locate(asked, nowhere, machine=has_gpu)
    assert config == asked
    assert "208 slots of 211 KiB" in words


def test_a_folder_without_a_tokenizer_is_served_if_that_is_configured(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint_dir(), tmp_path / "model"))
    (folder / "tokenizer.json").unlink()
    asked = config_of(folder)

    with pytest.raises(InvalidCheckpoint, match="--skip-tokenizer"):
        locate(asked, nowhere, machine=machine(24))
    served = replace(asked, checkpoint=CheckpointConfig(skip_tokenizer=True))
    assert locate(served, nowhere, machine=machine(24))[0] == str(folder)


def test_for_another_ray_cluster_a_name_stays_a_name_and_a_local_folder_is_checked(
    tmp_path: Path,
) -> None:
    asked = Config(cluster=ClusterConfig(model="Qwen/Qwen3.5-9B", ray_address="10.0.0.1:6379"))

    assert locate(asked, nowhere, machine=machine(1)) == ("Qwen/Qwen3.5-9B", asked, "")
    (tmp_path / "empty").mkdir()
    here = replace(asked, cluster=replace(asked.cluster, model=str(tmp_path / "empty")))
    with pytest.raises(InvalidCheckpoint, match="is empty"):
        locate(here, nowhere)


def test_a_configuration_is_described_without_a_download_or_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert described(config_of("demo")).startswith("memory: 2 workers × (weights 15 MiB + cache")
    assert "is empty" in described(config_of(tmp_path / "empty"))
    assert described(config_of("Qwen/Qwen3.5-9B")) == ""


class FakeHub:
    """A hub with one model, and a record of the fetched files."""

    def __init__(self, folder: Path, sizes: Mapping[str, int], *, answers: bool = True) -> None:
        self._folder = folder
        self._sizes = sizes
        self._answers = answers
        self.fetched: list[list[str]] = []

    def model_info(self, model: str, *, files_metadata: bool, timeout: float) -> SimpleNamespace:
        if not self._answers:
            raise ConnectionError("no network")
        if model != "ours/model":
            raise RepositoryNotFoundError("404")
        return SimpleNamespace(
            siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in self._sizes.items()]
        )

    def snapshot_download(self, model: str, *, allow_patterns: list[str]) -> str:
        self.fetched.append(allow_patterns)
        return str(self._folder)


def install(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return hub


SIZES = {"config.json": 4000, "tokenizer.json": 12 << 20}


def test_a_hub_model_that_does_not_fit_is_refused_before_its_weights_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = SIZES | {f"model-{n:05}-of-00094.safetensors": 8 * GIB for n in range(1, 95)}
    hub = install(FakeHub(sparse_folder(tmp_path / "model", HUGE_MOE), sizes), monkeypatch)

    with pytest.raises(InvalidConfig, match="weights 752 GiB × 2 workers, this host has 23 GiB"):
        locate(config_of("ours/model"), nowhere, machine=machine(22, total=23))

    assert [("*.safetensors" in patterns) for patterns in hub.fetched] == [False]
    with pytest.raises(InvalidConfig, match=r"weights 1,504 GiB .* dtype = .bfloat16."):
        locate(config_of("ours/model", dtype="float32"), nowhere, machine=machine(999))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["Q4_K_M.gguf", "README.md"], "ours/model has weights in GGUF"),
        (["adapter_config.json", "adapter_model.safetensors"], "ours/model is an adapter"),
        (["config.json", "pytorch_model.bin"], "ours/model has weights as PyTorch pickles"),
        (["config.json", "quantize_config.json", "model.safetensors"], "GPTQ"),
    ],
)
def test_a_repository_without_a_model_is_refused_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], message: str
) -> None:
    hub = install(FakeHub(tmp_path, dict.fromkeys(files, 1000)), monkeypatch)

    with pytest.raises(InvalidCheckpoint, match=message):
        locate(config_of("ours/model"), nowhere, machine=machine(24))

    assert hub.fetched == []


def test_a_hub_model_that_fits_is_fetched_after_its_size_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = SIZES | {"model.safetensors": 3 * GIB}
    hub = install(FakeHub(checkpoint_dir(), sizes), monkeypatch)
    reports: list[str] = []

    model, _, _ = locate(config_of("ours/model"), reports.append, machine=machine(24))

    assert model == str(checkpoint_dir())
    assert reports == ["downloading 3.0 GiB of weights, unless they are already here"]
    assert [("*.safetensors" in patterns) for patterns in hub.fetched] == [False, True]


def test_without_the_hub_a_cached_model_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = install(FakeHub(checkpoint_dir(), {}, answers=False), monkeypatch)

    assert locate(config_of("ours/model"), nowhere, machine=machine(24))[0] == str(checkpoint_dir())
    assert len(hub.fetched) == 1
