from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from segue.demo import checkpoint_dir
from segue.engine import served_model
from segue.engine.config import EngineConfig
from segue.engine.served_model import ServedModel
from segue.worker.load import load_runner

ENGINE = EngineConfig(num_threads=1, cache_bytes=1 << 24, max_running=2)


def test_a_worker_composes_its_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ServedModel.of(checkpoint_dir(), ENGINE)
    names: list[str] = []

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def once_more(*args: object, **by_name: object) -> object:
            names.append(call.__name__)
            return call(*args, **by_name)

        return once_more

    for call in (served_model.check_folder, served_model.model_id, served_model.cache_layout):
        monkeypatch.setattr(served_model, call.__name__, counted(call))

    runner = load_runner("demo", ENGINE, max_drafts=3).runner

    assert sorted(names) == ["cache_layout", "check_folder", "model_id"]
    assert runner.layout == expected.layout
    assert runner.config == expected.config
    assert runner.weight_bytes == expected.weight_bytes


def test_a_model_without_a_served_mtp_layer_needs_nothing_for_drafts(
    mtp_dense: Path, tiny_dense: Path, tmp_path: Path
) -> None:
    promised = shutil.copytree(tiny_dense, tmp_path / "promised")
    shutil.copy(mtp_dense / "config.json", promised / "config.json")
    served = ServedModel.of(mtp_dense, ENGINE)
    off = ServedModel.of(mtp_dense, replace(ENGINE, mtp=False))
    lacking = ServedModel.of(promised, ENGINE)

    assert (served.config.num_mtp_layers, served.need(max_drafts=3).max_drafts) == (1, 3)
    for without in (off, lacking):
        assert (without.config.num_mtp_layers, without.need(max_drafts=3).max_drafts) == (0, 0)
        assert len(without.layout.fields) == len(served.layout.fields) - 2
        assert without.weight_bytes < served.weight_bytes


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_model_is_estimated_before_its_weights_are_there(dtype: str, tmp_path: Path) -> None:
    folder, engine = checkpoint_dir(), replace(ENGINE, dtype=dtype)
    shutil.copy(folder / "config.json", tmp_path)
    published_bytes = (folder / "model.safetensors").stat().st_size

    estimate = ServedModel.before_download(tmp_path, engine, published_bytes=published_bytes)

    served = ServedModel.of(folder, engine)
    assert estimate.layout == replace(served.layout, model_id=estimate.layout.model_id)
    assert estimate.config == served.config
    assert estimate.weight_bytes == pytest.approx(served.weight_bytes, rel=0.05)
