"""The oracle's activations: rounded like ours, by other arithmetic, before transformers multiplies.

`round_inputs` makes a model of transformers, which has plain weights of the same values, round the
inputs of each matrix that a checkpoint stores quantised, of some rows of a pass: those of prompts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.checkpoints import Tensors
from tests.model.dequantized import e2m1

E4M3 = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
E2M1 = torch.tensor([e2m1(code) for code in range(8)], dtype=torch.float64)
STACKED = re.compile(r"([qkv]_proj|in_proj_(qkv|z)|(gate|up)_proj)$")
_EXPERT = re.compile(r"\.experts\.\d+\.")
Rounded = Callable[[Tensor], Tensor]


def nearest(x: Tensor, sizes: Tensor) -> Tensor:
    """Of these sizes, with the sign of x; of two that are as near the one with the even index."""
    upper = torch.searchsorted(sizes, x.abs().contiguous()).clamp(max=len(sizes) - 1)
    lower = (upper - 1).clamp(min=0)
    to_upper, to_lower = sizes[upper] - x.abs(), x.abs() - sizes[lower]
    takes_upper = (to_upper < to_lower) | ((to_upper == to_lower) & (upper % 2 == 0))
    return torch.where(takes_upper, sizes[upper], sizes[lower]) * x.sign()


def as_fp8(x: Tensor, scale: Tensor | None) -> Tensor:
    """With a scale for each 128 columns of a row, or this one."""
    groups = []
    for group in x.double().split(128, dim=-1):
        step = group.abs().amax(-1, keepdim=True) / 448 if scale is None else scale.double()
        # Scales are float32.
        step = step.float().double().clamp(min=1e-13)
        groups.append(nearest(group / step, E4M3) * step)
    return torch.cat(groups, -1).to(x.dtype)


def as_nvfp4(x: Tensor, scale: Tensor) -> Tensor:
    groups = x.double().unflatten(-1, (-1, 16))
    wanted = groups.abs().amax(-1, keepdim=True) / 6 / scale.double()
    steps = nearest(wanted, E4M3) * scale.double()
    codes = nearest(groups / steps.clamp(min=1e-30), E2M1)
    return (codes * steps).flatten(-2).to(x.dtype)


def rounding_of(stored: Tensors, module: str) -> Rounded | None:
    """The rounding of a module's inputs, by the format of its matrix. The scale is that of
    all matrices with the same inputs, and of all experts of a layer."""
    scales = [
        tensor
        for name, tensor in stored.items()
        if name.endswith(".input_scale") and _shared(name) == _shared(f"{module}.input_scale")
    ]
    scale = torch.stack(scales).max() if scales else None
    if f"{module}.weight_scale_inv" in stored:
        return lambda x: as_fp8(x, None)
    if scale is None:
        return None
    is_nvfp4 = f"{module}.weight_scale_2" in stored
    return (lambda x: as_nvfp4(x, scale)) if is_nvfp4 else (lambda x: as_fp8(x, scale))


def _shared(scale: str) -> str:
    return STACKED.sub("in", _EXPERT.sub(".experts.", scale).removesuffix(".input_scale"))


def round_inputs(oracle: PreTrainedModel, stored: Tensors, num_rows: int) -> None:
    """Of the first `num_rows` of a pass, and never of the head."""
    for name, module in oracle.named_modules():
        if name == "lm_head":
            continue
        if name.endswith("mlp.experts"):
            first = rounding_of(stored, f"{name}.0.up_proj")
            second = rounding_of(stored, f"{name}.0.down_proj")
            if first and second:
                module.forward = _experts(module, first, second, num_rows)
        elif isinstance(module, nn.Linear) and (rounded := rounding_of(stored, name)):
            module.register_forward_pre_hook(_hook(rounded, num_rows))


def _hook(rounded: Rounded, num_rows: int) -> Callable[[nn.Module, Any], Any]:
    def hook(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        x = args[0].clone()
        rows = x.view(-1, x.shape[-1])[:num_rows]
        rows.copy_(rounded(rows))
        return (x,)

    return hook


def _experts(
    experts: Any, first: Rounded, second: Rounded, num_rows: int
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The module's function, expert by expert, with its inputs and what is between rounded."""
    weights: Mapping[str, Tensor] = {"gate_up": experts.gate_up_proj, "down": experts.down_proj}

    def some(x: Tensor, tokens: Tensor, rounded: Rounded) -> Tensor:
        return torch.where((tokens < num_rows)[:, None], rounded(x), x)

    def forward(x_TH: Tensor, chosen_TA: Tensor, shares_TA: Tensor) -> Tensor:
        out_TH = torch.zeros_like(x_TH)
        for expert in range(len(weights["down"])):
            tokens, places = torch.where(chosen_TA == expert)
            x = some(x_TH[tokens], tokens, first)
            gate, up = F.linear(x, weights["gate_up"][expert]).chunk(2, -1)
            h = some(F.silu(gate) * up, tokens, second)
            y = F.linear(h, weights["down"][expert]) * shares_TA[tokens, places, None]
            out_TH.index_add_(0, tokens, y)
        return out_TH

    return forward
