from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch

from segue.kernels import side_stream
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


class Streams:
    """Streams that only remember who waits for whom, and where work is queued."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.device = torch.device("cuda", 0)
        self.main, self.side = (Stream(name, self) for name in ("main", "side"))
        self.current = self.main
        patch.setattr(torch.cuda, "current_stream", lambda _: self.current)
        patch.setattr(torch.cuda, "stream", self.entered)
        patch.setattr(side_stream, "_second_stream", lambda _: self.side)

    @contextmanager
    def entered(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def work(self, name: str) -> None:
        self.events.append(f"{name} on {self.current.name}")


@dataclass
class Stream:
    name: str
    streams: Streams = field(repr=False)

    @property
    def device(self) -> torch.device:
        return self.streams.device

    def wait_stream(self, other: Stream) -> None:
        self.streams.events.append(f"{self.name} waits for {other.name}")


def test_forked_work_waits_for_earlier_work_and_the_join_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = Streams(monkeypatch)
    side = SideStream(torch.device("cuda", 0))

    streams.work("x")
    with side.fork():
        streams.work("y")
    streams.work("z")
    side.join()
    streams.work("sum")

    assert streams.events == [
        "x on main",
        "side waits for main",
        "y on side",
        "z on main",
        "main waits for side",
        "sum on main",
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("late", ["main", "side"])
def test_forked_work_is_ordered_after_what_it_reads_and_before_the_join(late: str) -> None:
    """Each in turn is late by a millisecond or more, so work that did not wait would be early."""
    side = SideStream(torch.device("cuda", 0))
    x, y = (torch.zeros(256, device="cuda") for _ in range(2))
    for number in range(1, 21):
        if late == "main":
            torch.cuda._sleep(5_000_000)
        x.fill_(number)
        with side.fork():
            if late == "side":
                torch.cuda._sleep(5_000_000)
            torch.mul(x, 2, out=y)
        side.join()
        z = y + x

        assert z.tolist() == [3 * number] * 256


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
