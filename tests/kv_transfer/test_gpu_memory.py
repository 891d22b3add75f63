"""Checksums of bytes on a GPU, computed after the work that writes them."""

from __future__ import annotations

import zlib

import pytest
import torch

from kv_transfer.transport.cache_memory import memory_on

pytestmark = pytest.mark.gpu


def test_a_checksum_is_of_the_bytes() -> None:
    bytes_N = torch.arange(1000, device="cuda").to(torch.uint8)
    torch.cuda.synchronize()
    memory = memory_on(bytes_N.device)

    places = [(bytes_N.data_ptr() + first, 500) for first in (100, 0, 496)]
    crcs = memory.crcs(places)

    data = bytes(i % 256 for i in range(1000))
    assert list(crcs) == [zlib.crc32(data[first : first + 500]) for first in (100, 0, 496)]


def test_a_checksum_waits_for_queued_work_and_not_for_later_work() -> None:
    memory = memory_on(torch.device("cuda"))
    bytes_N = torch.zeros(16, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)
        bytes_N.fill_(7)
        wait = memory.queued()
        torch.cuda._sleep(1_000_000_000)

        wait()
        (crc,) = memory.crcs([(bytes_N.data_ptr(), 16)])
        is_busy = not torch.cuda.current_stream().query()

    assert crc == zlib.crc32(bytes([7] * 16))
    assert is_busy
