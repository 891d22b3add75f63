from __future__ import annotations

import pytest

from kv_transfer.config import TransferConfig
from kv_transfer.transport.mooncake import open_mooncake, require_registrable
from segue.api.errors import InvalidConfig


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
        {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64, expandable_segments:true"},
        {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"},
    ],
)
def test_memory_that_cannot_be_registered_is_refused(environment: dict[str, str]) -> None:
    (variable,) = environment

    with pytest.raises(InvalidConfig, match=f"{variable} has .*remove it from the worker's env"):
        require_registrable(environment)


@pytest.mark.parametrize(
    "value", ["", "expandable_segments:False", "backend:native,max_split_size_mb:64"]
)
def test_other_settings_of_the_allocator_are_accepted(value: str) -> None:
    require_registrable({"PYTORCH_CUDA_ALLOC_CONF": value})


def test_a_worker_on_a_gpu_refuses_before_it_opens_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

    with pytest.raises(InvalidConfig, match="expandable_segments:True"):
        open_mooncake(TransferConfig(), host="127.0.0.1", device="cuda")
