"""The rule of `speculation.acceptance.SlotRing`, for many rings at once and without the host.

A missing slot is `NO_SLOT`: at the end of a shorter ring, or if there is no checkpoint.

B sequences, S slots of the longest ring, J draft rounds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segue.kernels import NO_SLOT


class Rings(NamedTuple):
    slots_BS: Tensor
    state_B: Tensor
    checkpoint_B: Tensor


def writable(rings: Rings) -> tuple[Tensor, Tensor]:
    """The slots that the next decode chunk may write, in the order it uses them [B, S], and their
    number [B]. The rest of each row is meaningless."""
    slots_BS, state_B, checkpoint_B = rings
    is_state_BS = slots_BS == state_B.unsqueeze(1)
    is_kept_BS = slots_BS == checkpoint_B.unsqueeze(1)
    is_first_BS = is_state_BS & ~is_kept_BS
    is_free_BS = (slots_BS != NO_SLOT) & ~is_state_BS & ~is_kept_BS
    num_slots = slots_BS.shape[1]
    place_S = torch.arange(num_slots, device=slots_BS.device)
    place_BS = place_S.masked_fill(is_first_BS, -1).where(is_first_BS | is_free_BS, num_slots)
    order_BS = place_BS.argsort(dim=1, stable=True)
    return slots_BS.gather(1, order_BS), (is_first_BS | is_free_BS).sum(1)


def after(
    rings: Rings, outputs_BJ: Tensor, *, positions_B: Tensor, num_new_B: Tensor, page_tokens: int
) -> tuple[Tensor, Tensor]:
    """State and checkpoint [B] after decode chunks that wrote `outputs` and keep their first
    `num_new` tokens; unchanged if that is 0. `positions`: tokens in each state before the chunk."""
    moves_B = num_new_B > 0
    last_B1 = (num_new_B - 1).clamp(min=0).unsqueeze(1)
    state_B = outputs_BJ.gather(1, last_B1)[:, 0].where(moves_B, rings.state_B)
    boundary_B = (positions_B + num_new_B) // page_tokens * page_tokens
    # A ring of one slot keeps no checkpoint: the next chunk has to write that slot.
    keeps_B = (boundary_B > positions_B) & ((rings.slots_BS != NO_SLOT).sum(1) > 1)
    kept_B1 = (boundary_B - positions_B - 1).clamp(0, outputs_BJ.shape[1] - 1).unsqueeze(1)
    return state_B, outputs_BJ.gather(1, kept_B1)[:, 0].where(keeps_B, rings.checkpoint_B)
