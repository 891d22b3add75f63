"""A prefill and a decode side on the same GPU: the cost of shipping, and how much of it is hidden.

There are two caches and one set of weights. Pages leave as soon as their layer has written them, on
a separate stream that waits only for that layer, as `prefill_worker` ships them;
`kv_transfer.writing.plan` plans the fragments. Within one GPU the link is its memory, which
computing also uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.models import Shape
from benchmarks.gpu.passes.prompts import PAGE_TOKENS, Workload, chunks_of, runner_of
from benchmarks.gpu.timing import median_s
from benchmarks.harness.turns import decode_chunk
from kv_transfer.layout import MemoryMap
from kv_transfer.writing.plan import plan_units
from segue.api.types import Epoch, WorkerId
from segue.cache.layout import Unit
from segue.engine.batch import PrefillChunk
from segue.engine.runner import ModelRunner

_SLOT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffRow:
    model: str
    num_tokens: int
    num_bytes: int
    prefill_s: float
    ship_s: float
    """After prefill, with nothing else running."""
    both_s: float
    """Shipping while prefill computes, until both end."""
    is_exact: bool
    """Whether the decode side's next logits equal the prefill side's."""

    @property
    def hidden_share(self) -> float:
        """The share of shipping that is hidden by the computation."""
        return (self.prefill_s + self.ship_s - self.both_s) / self.ship_s


class Shipper:
    """Copies units from one runner's cache to the same units of another's."""

    def __init__(self, source: ModelRunner, target: ModelRunner, device: str) -> None:
        self._maps = _map(source, "prefill"), _map(target, "decode")
        self._memory = _bytes(source), _bytes(target)
        self._fields = source.layout.fields
        # torch has no annotations there.
        stream = torch.cuda.Stream() if device != "cpu" else None  # type: ignore[no-untyped-call]
        self._stream = stream

    def ship(self, unit: Unit, ids: range, layer: int | None = None) -> None:
        """Ships one layer, or all, after the work that this thread has launched so far."""
        if self._stream is None:
            self._copy(unit, ids, layer)
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._copy(unit, ids, layer)

    def join(self) -> None:
        """Makes work launched from here on wait for the copies."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)

    def _copy(self, unit: Unit, ids: range, layer: int | None) -> None:
        for index, field in enumerate(self._fields):
            if field.unit is not unit or layer not in (None, field.layer):
                continue
            source, target = (one.region(index) for one in self._maps)
            for fragment in plan_units(source, target, zip(ids, ids, strict=True)):
                source_at = fragment.source_address - source.base_address
                target_at = fragment.target_address - target.base_address
                self._memory[1][index][target_at : target_at + fragment.num_bytes].copy_(
                    self._memory[0][index][source_at : source_at + fragment.num_bytes],
                    non_blocking=True,
                )


def measure(
    shape: Shape,
    weights: Mapping[str, Tensor],
    workload: Workload,
    device: str,
) -> Iterator[HandoffRow]:
    num_tokens, chunk_tokens = max(workload.prompt_tokens), workload.handoff_chunk_tokens
    num_pages = num_tokens // PAGE_TOKENS + 1
    source, target = (
        runner_of(shape, weights, num_pages=num_pages, num_slots=2, device=device) for _ in range(2)
    )
    chunks = list(chunks_of(num_tokens, chunk_tokens, vocab_size=shape.vocab_size, slot=_SLOT))
    shipper = Shipper(source, target, device)
    pages, slots = range(-(-num_tokens // PAGE_TOKENS)), range(_SLOT, _SLOT + 1)

    def ship_all() -> None:
        shipper.ship(Unit.PAGE, pages)
        shipper.ship(Unit.SLOT, slots)
        shipper.join()

    prefill_s = median_s(lambda: _prefill(source, chunks, None), device, cold=False, captured=False)
    ship_s = median_s(ship_all, device, cold=False, captured=False)
    both_s = median_s(lambda: _prefill(source, chunks, shipper), device, cold=False, captured=False)
    # One more token, on both sides.
    step = decode_chunk(1, num_tokens, range(num_tokens // PAGE_TOKENS + 1), slot_out=1)
    logits = [runner.forward([step]) for runner in (source, target)]
    yield HandoffRow(
        model=shape.name,
        num_tokens=num_tokens,
        num_bytes=len(pages) * source.layout.page_bytes + source.layout.slot_bytes,
        prefill_s=prefill_s,
        ship_s=ship_s,
        both_s=both_s,
        is_exact=torch.equal(*logits),
    )


def _prefill(runner: ModelRunner, chunks: list[PrefillChunk], shipper: Shipper | None) -> None:
    for chunk in chunks:
        is_last = chunk is chunks[-1]
        # A page that this chunk does not fill is shipped once full, or with the last chunk.
        stop = -(-chunk.end // PAGE_TOKENS) if is_last else chunk.end // PAGE_TOKENS
        pages = range(chunk.start // PAGE_TOKENS, stop)
        on_layer = None if shipper is None else _ship_layer(shipper, pages, is_last)
        runner.forward([chunk], on_layer=on_layer)
    if shipper:
        shipper.join()


def _ship_layer(shipper: Shipper, pages: range, is_last: bool) -> Callable[[int], None]:
    def ship(layer: int) -> None:
        shipper.ship(Unit.PAGE, pages, layer)
        if is_last:
            shipper.ship(Unit.SLOT, range(_SLOT, _SLOT + 1), layer)

    return ship


def _map(runner: ModelRunner, name: str) -> MemoryMap:
    tensors = [tensor for _, tensor in runner.tensors.fields()]
    return MemoryMap(
        worker_id=WorkerId(name),
        epoch=Epoch(1),
        segment=name,
        layout=runner.layout,
        base_addresses=tuple(tensor.data_ptr() for tensor in tensors),
        num_units=tuple(tensor.shape[0] for tensor in tensors),
    )


def _bytes(runner: ModelRunner) -> list[Tensor]:
    """Each field as bytes, in the layout's order."""
    return [tensor.view(torch.uint8).flatten() for _, tensor in runner.tensors.fields()]
