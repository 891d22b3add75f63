from __future__ import annotations

import pytest
import torch

from segue.kernels.side_stream import SideStream
from tests.kernels.closeness import randn


def test_on_a_cpu_work_is_done_where_it_stands() -> None:
    side = SideStream(torch.device("cpu"))

    with side.fork():
        y = randn(3).square()
    side.join()

    assert torch.equal(y, randn(3).square())


def test_an_error_in_forked_work_is_the_callers() -> None:
    side = SideStream(torch.device("cpu"))

    with pytest.raises(ZeroDivisionError), side.fork():
        _ = 1 / 0


@pytest.mark.gpu
def test_forked_work_is_ordered_after_what_it_reads_and_before_the_join() -> None:
    side = SideStream(torch.device("cuda", 0))
    x = torch.zeros(2048, 2048, device="cuda")
    for _ in range(20):
        x = x @ x + 1
        with side.fork():
            y = x @ x
        z = x * 2
        side.join()
        x = (y - y) + (z - z) + 1

    assert torch.equal(x, torch.ones_like(x))


@pytest.mark.gpu
def test_fork_and_join_are_captured() -> None:
    side = SideStream(torch.device("cuda", 0))
    x = torch.ones(256, 256, device="cuda")

    def step() -> torch.Tensor:
        with side.fork():
            y = x @ x
        z = x + 1
        side.join()
        return y + z

    warm = torch.cuda.Stream()
    with torch.cuda.stream(warm):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    x.fill_(2.0)
    graph.replay()

    assert torch.equal(out, torch.full_like(out, 4.0 * 256 + 3.0))
