"""A configured GPU or RDMA device that is missing is reported before Ray starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv_transfer.config import TransferConfig
from segue.api.errors import InvalidConfig
from segue.engine.config import EngineConfig
from segue.launch import devices
from segue.launch.config import ClusterConfig, Config
from segue.launch.devices import require_devices, torch_version_text
from segue.launch.prepare import prepare

ON_GPU = Config(engine=EngineConfig(device="cuda"))
CPU_BUILD = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n"
CUDA_BUILD = "__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\n"


@pytest.fixture
def cuda_mooncake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_is_installed", lambda distribution: False)


def test_a_torch_without_cuda_is_refused_with_the_package_to_install(cuda_mooncake: None) -> None:
    with pytest.raises(InvalidConfig, match=r"torch 2\.13\.0\+cpu has no CUDA: .*install -e"):
        require_devices(ON_GPU, torch_version=CPU_BUILD, num_gpus=lambda: 8)


@pytest.mark.usefixtures("cuda_mooncake")
def test_a_machine_without_a_gpu_is_refused_and_an_unknown_one_is_not() -> None:
    with pytest.raises(InvalidConfig, match="this machine has no GPU"):
        require_devices(ON_GPU, torch_version=CUDA_BUILD, num_gpus=lambda: 0)

    for number in (1, None):
        require_devices(ON_GPU, torch_version=CUDA_BUILD, num_gpus=lambda number=number: number)
    require_devices(ON_GPU, torch_version="", num_gpus=lambda: 1)


def test_a_mooncake_for_cpus_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_is_installed", lambda distribution: True)

    with pytest.raises(InvalidConfig, match="mooncake-transfer-engine-non-cuda is installed"):
        require_devices(ON_GPU, torch_version=CUDA_BUILD, num_gpus=lambda: 1)


def test_rdma_needs_a_device(tmp_path: Path) -> None:
    rdma = Config(transfer=TransferConfig(protocol="rdma"))

    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InvalidConfig, match=f"no RDMA device .{folder} is empty or missing"):
            require_devices(rdma, infiniband=folder)
    (tmp_path / "mlx5_0").mkdir()
    require_devices(rdma, infiniband=tmp_path)
    require_devices(Config(), torch_version=CPU_BUILD, num_gpus=lambda: 0, infiniband=tmp_path)


def test_torchs_build_is_found_without_importing_torch() -> None:
    assert "cuda" in torch_version_text()


def test_devices_are_checked_only_if_ray_starts_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(config: Config) -> None:
        raise InvalidConfig("looked at")

    monkeypatch.setattr("segue.launch.prepare.require_devices", refuse)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster = ClusterConfig(model=str(tmp_path), ray_address="127.0.0.1:1")

    with pytest.raises(InvalidConfig, match="looked at"):
        prepare(Config(), lambda stage: None)
    with pytest.raises(Exception, match="is empty"):
        prepare(Config(cluster=cluster), lambda stage: None)
