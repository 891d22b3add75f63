from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from segue.api.errors import InvalidCheckpoint
from segue.demo import checkpoint_dir
from segue.model.checkpoint.source import resolve_model


class FakeHub:
    """Gives one model, and remembers which files were asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.patterns: list[str] = []

    def snapshot_download(self, model: str, *, allow_patterns: list[str]) -> str:
        self.patterns = allow_patterns
        if model != "Qwen/Qwen3.5-0.8B":
            raise LocalEntryNotFoundError("cannot find it.\nA traceback's worth of advice.")
        return str(self._folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    fake = FakeHub(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake.snapshot_download)
    return fake


def test_a_folder_is_itself(hub: FakeHub, tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path), with_weights=True) == tmp_path
    assert hub.patterns == []


def test_the_demo_is_the_checkpoint_in_the_package(hub: FakeHub) -> None:
    assert resolve_model("demo", with_weights=True) == checkpoint_dir()
    assert hub.patterns == []


def test_a_hub_id_is_downloaded_with_its_weights(hub: FakeHub, tmp_path: Path) -> None:
    assert resolve_model("Qwen/Qwen3.5-0.8B", with_weights=True) == tmp_path
    assert "*.safetensors" in hub.patterns
    assert "*.jinja" in hub.patterns


def test_a_process_without_a_model_downloads_no_weights(hub: FakeHub) -> None:
    resolve_model("Qwen/Qwen3.5-0.8B", with_weights=False)

    assert "*.json" in hub.patterns
    assert "*.safetensors" not in hub.patterns


@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_give_is_refused_in_one_line() -> None:
    with pytest.raises(InvalidCheckpoint, match="'Qwen/other' is no local folder") as refusal:
        resolve_model("Qwen/other", with_weights=True)

    assert "cannot find it." in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("path", ["/no/such/folder", "./missing", "a/b/c", "~/missing", "missing/"])
def test_a_path_that_is_no_hub_id_is_not_asked_for(path: str, hub: FakeHub) -> None:
    with pytest.raises(InvalidCheckpoint, match="no such model folder"):
        resolve_model(path, with_weights=True)

    assert hub.patterns == []
