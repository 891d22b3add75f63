"""The residual stream between two layers: a sum, and an output that is not yet added to it.

With several ranks, each has the whole sum but only its partial output. Outputs are therefore summed
over the ranks in one place, where they are added to the stream.
"""

from __future__ import annotations

from torch import Tensor

from segue.kernels.rms_norm import add_rms_norm, rms_norm
from segue.parallel.group import Group

Stream = tuple[Tensor, Tensor | None]
"""Sum and latest output [T, H]; the output is None before the first layer."""


def add_norm(
    stream: Stream, weight_H: Tensor, group: Group, *, eps: float
) -> tuple[Tensor, Tensor]:
    """The stream with the output added [T, H], and its norm, on every rank of the group."""
    x_TH, output_TH = stream
    if output_TH is None:
        return x_TH, rms_norm(x_TH, weight_H, eps=eps)
    return add_rms_norm(x_TH, group.sum(output_TH), weight_H, eps=eps)


def rows_of(stream: Stream, rows_R: Tensor) -> Stream:
    """Selected tokens of the stream, so that fewer need the norm."""
    x_TH, output_TH = stream
    return x_TH[rows_R], None if output_TH is None else output_TH[rows_R]
